"""How every network begins its life."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from stableops.nn import Module

    Net = TypeVar("Net", bound=Module)

__all__ = ["begin"]


def begin(net: Net, rng: np.random.Generator | None) -> Net:
    """Draw initial weights if there is a generator; else leave zeros, to be loaded over."""
    return net if rng is None else net.initialize(rng)
