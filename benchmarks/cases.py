"""A benchmark case, the registry of all of them, and the selection by name and family."""

from __future__ import annotations

import importlib
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

FAMILIES = {
    "softmax": "bench_softmax",
    "losses": "bench_losses",
    "elementwise": "bench_elementwise",
    "conv": "bench_conv2d",
    "linear": "bench_linear",
    "pooling": "bench_pool2d",
    "norm": "bench_norm",
    "nms": "bench_nms",
    "overhead": "bench_overhead",
    "networks": "bench_networks",
}

NCHW = "NCHW"
CHANNELS_LAST = "channels-last"
TRANSPOSED = "transposed"


@dataclass(frozen=True)
class Case:
    """One call that every library is asked to make on the same arrays.

    ``operation`` is the name of a function in the modules of ``peers``; it receives the arrays of
    ``inputs`` and the keywords of ``options``. The bytes that cannot be avoided are those of the
    inputs and of the result; the floating-point operations are declared here (an exponential or a
    division counts as one).
    """

    name: str
    operation: str
    inputs: Callable[[np.random.Generator], Sequence[np.ndarray]]
    options: Mapping[str, Any] = field(default_factory=dict)
    flops: float = 0
    layout: str = NCHW
    quick: bool = False
    size: int = 0
    """What the family's plot has on its horizontal axis, for instance the number of boxes."""
    family: str = ""

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The inputs: the same in every process, because the seed is made from the name."""
        generator = np.random.default_rng(zlib.crc32(self.name.encode()))
        return tuple(with_layout(array, self.layout) for array in self.inputs(generator))


def with_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """A copy with the strides of `layout`: channels-last for images, transposed for matrices."""
    if layout == CHANNELS_LAST and array.ndim == 4:
        return aligned(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == TRANSPOSED and array.ndim == 2:
        return aligned(array.T).T
    return aligned(array)


def aligned(array: np.ndarray) -> np.ndarray:
    """A contiguous copy on a 64-byte boundary: JAX then takes a NumPy array without copying it."""
    buffer = np.empty(array.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def shape_text(shape: Sequence[int]) -> str:
    return "(" + ",".join(map(str, shape)) + ")"


@cache
def all_cases() -> dict[str, Case]:
    """Every case by name, family after family."""
    found: dict[str, Case] = {}
    for family, module in FAMILIES.items():
        for case in importlib.import_module(f"benchmarks.{module}").CASES:
            if case.name in found:
                raise ValueError(f"two cases are called {case.name!r}")
            found[case.name] = replace(case, family=family)
    return found


class UnknownCase(ValueError):
    """The selection names nothing that exists; the text lists what does."""


def select(
    only: str | None = None, families: Sequence[str] = (), quick: bool = False
) -> list[Case]:
    """The cases whose name matches the regular expression `only`, of the given families.

    `quick` keeps the short list, unless `only` asks for particular cases.
    """
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        raise UnknownCase(f"family {unknown[0]!r}: one of {', '.join(FAMILIES)}")
    try:
        pattern = re.compile(only or "")
    except re.error as error:
        raise UnknownCase(f"only={only!r} is not a regular expression: {error}") from None
    chosen = [
        case
        for case in all_cases().values()
        if (not families or case.family in families) and pattern.search(case.name)
    ]
    if not chosen:
        names = [c.name for c in all_cases().values() if not families or c.family in families]
        raise UnknownCase(
            f"only={only!r} matches none of {len(names)} cases, such as {names[0]!r}; "
            "--list names them"
        )
    return [case for case in chosen if case.quick] if quick and not only else chosen


def interleaved(cases: Sequence[Case]) -> list[Case]:
    """One case of each family in turn, so that a run cut short has seen every family."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.family, []).append(case)
    longest = max(map(len, groups.values()), default=0)
    ordered = []
    for group in groups.values():
        step = longest / len(group)
        ordered += [(math.floor(i * step), case) for i, case in enumerate(group)]
    return [case for _, case in sorted(ordered, key=lambda item: item[0])]
