"""softmax, log_softmax and logsumexp over shapes from ten elements to a vocabulary."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.cases import Case, shape_text

OPERATIONS = ("softmax", "log_softmax", "logsumexp")

# shape, axis, dtype, and whether the short list has it
SHAPES = (
    ((10,), -1, "float32", True),
    ((32, 10), -1, "float32", False),
    ((32, 1000), -1, "float32", True),
    ((256, 1000), -1, "float32", False),
    ((4096, 4096), -1, "float32", False),
    ((8, 128256), -1, "float32", True),
    ((512, 128256), -1, "float32", False),
    ((12, 512, 512), -1, "float32", False),
    ((2, 21, 512, 512), 1, "float32", True),
    ((4096, 1000), -1, "float64", False),
    ((4096, 1000), -1, "float16", False),
)


def softmax_case(
    operation: str, shape: tuple[int, ...], axis: int, dtype: str, quick: bool
) -> Case:
    on_axis = "" if axis == -1 else f" axis={axis}"
    return Case(
        name=f"{operation} {shape_text(shape)}{on_axis} {dtype}",
        operation=operation,
        inputs=lambda rng: [(3 * rng.standard_normal(shape, np.float32)).astype(dtype)],
        options={"axis": axis},
        # subtract the maximum, exponential, sum, and the division or subtraction at the end
        flops=(3 if operation == "logsumexp" else 4) * math.prod(shape),
        quick=quick,
    )


CASES = [
    softmax_case(
        operation,
        shape,
        axis,
        dtype,
        # the short list has no time for all three everywhere
        quick and (operation == "softmax" or (operation == "logsumexp" and axis == -1)),
    )
    for shape, axis, dtype, quick in SHAPES
    for operation in OPERATIONS
]
