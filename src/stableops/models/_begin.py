"""How every network begins its life."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from stableops.nn import Module

    Net = TypeVar("Net", bound=Module)

__all__ = ["Rng", "begin"]

Rng = np.random.Generator | None
"""Source of initial weights; None leaves zeros."""


def begin(net: Net, rng: Rng) -> Net:
    """Draw initial weights if there is a generator; else leave zeros, to be loaded over."""
    return net if rng is None else net.initialize(rng)
