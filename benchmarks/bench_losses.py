"""Softmax and sigmoid cross-entropy: the mean over the samples, with and without gradient."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case, shape_text

# samples, classes, and whether the short list has it
CLASSES = (
    (1, 10, True),
    (128, 10, False),
    (256, 1000, True),
    (2048, 32000, False),
    (512, 128256, False),
)
ELEMENTS = ((1_000, False), (1_000_000, True), (10_000_000, False))


def cross_entropy_case(samples: int, classes: int, gradient: bool, quick: bool) -> Case:
    shape = (samples, classes)
    return Case(
        name=f"cross_entropy{'+gradient' if gradient else ''} {shape_text(shape)} float32",
        operation="cross_entropy",
        inputs=lambda rng: [
            3 * rng.standard_normal(shape, np.float32),
            rng.integers(0, classes, samples),
        ],
        options={"gradient": gradient},
        flops=(4 if gradient else 3) * samples * classes,
        quick=quick,
    )


def sigmoid_cross_entropy_case(elements: int, gradient: bool, quick: bool) -> Case:
    return Case(
        name=f"sigmoid_cross_entropy{'+gradient' if gradient else ''} ({elements}) float32",
        operation="sigmoid_cross_entropy",
        inputs=lambda rng: [
            3 * rng.standard_normal(elements, np.float32),
            rng.integers(0, 2, elements).astype(np.float32),
        ],
        options={"gradient": gradient},
        # exponential, 1 + e, logarithm, x * y, the sums; the gradient adds a division and p - y
        flops=(8 if gradient else 6) * elements,
        quick=quick,
    )


CASES = [
    cross_entropy_case(samples, classes, gradient, quick)
    for samples, classes, quick in CLASSES
    for gradient in (False, True)
] + [
    sigmoid_cross_entropy_case(elements, gradient, quick and gradient)
    for elements, quick in ELEMENTS
    for gradient in (False, True)
]
