"""The sigmoid family and relu, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.cases import Case

ELEMENTS = (1_000, 1_000_000, 10_000_000)

# floating-point operations for an element, forward and backward
OPERATIONS = {
    "sigmoid": (3, 3),
    "log_sigmoid": (5, 4),
    "softplus": (5, 4),
    "relu": (1, 1),
}
IN_QUICK = {"sigmoid", "log_sigmoid", "softplus_backward"}


def inputs(operation: str, elements: int, rng: np.random.Generator) -> Sequence[np.ndarray]:
    x = 3 * rng.standard_normal(elements, np.float32)
    if not operation.endswith("_backward"):
        return [x]
    grad_output = rng.standard_normal(elements, np.float32)
    if operation == "sigmoid_backward":
        return [grad_output, 1 / (1 + np.exp(-x))]
    return [grad_output, np.maximum(x, 0) if operation == "relu_backward" else x]


def elementwise_case(operation: str, elements: int, flops: int) -> Case:
    return Case(
        name=f"{operation} ({elements}) float32",
        operation=operation,
        inputs=lambda rng: inputs(operation, elements, rng),
        flops=flops * elements,
        quick=elements == 1_000_000 and operation in IN_QUICK,
    )


CASES = [
    elementwise_case(operation + suffix, elements, flops)
    for operation, counts in OPERATIONS.items()
    for suffix, flops in zip(("", "_backward"), counts, strict=True)
    for elements in ELEMENTS
]
