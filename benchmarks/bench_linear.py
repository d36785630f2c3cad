"""Fully connected layers of LeNet, a transformer block, ResNet-50 and AlexNet."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case

# inputs, outputs
SIZES = ((400, 120), (768, 3072), (2048, 1000), (4096, 4096))
BATCHES = (1, 8, 64, 512)
QUICK = {(1, 2048, "forward"), (8, 768, "forward"), (64, 768, "backward"), (512, 768, "forward")}


def linear_case(batch: int, inputs: int, outputs: int, way: str) -> Case:
    def make(rng: np.random.Generator) -> list[np.ndarray]:
        x = rng.standard_normal((batch, inputs), np.float32)
        weight = rng.standard_normal((outputs, inputs), np.float32) / np.float32(inputs) ** 0.5
        if way == "backward":
            return [rng.standard_normal((batch, outputs), np.float32), x, weight]
        return [x, weight, rng.standard_normal(outputs, np.float32)]

    return Case(
        name=f"linear {inputs}-{outputs} batch {batch} {way}",
        operation="linear_backward" if way == "backward" else "linear",
        inputs=make,
        options={"packed": True} if way == "packed" else {},
        flops=(4 if way == "backward" else 2) * batch * inputs * outputs,
        quick=(batch, inputs, way) in QUICK,
        size=batch,
    )


def linear_cross_entropy_case(tokens: int, features: int, classes: int) -> Case:
    def make(rng: np.random.Generator) -> list[np.ndarray]:
        weight = rng.standard_normal((classes, features), np.float32)
        return [
            rng.standard_normal((tokens, features), np.float32),
            weight / np.float32(features) ** 0.5,
            rng.integers(0, classes, tokens),
        ]

    return Case(
        name=f"linear_cross_entropy+gradient {features}-{classes} batch {tokens}",
        operation="linear_cross_entropy",
        inputs=make,
        flops=6 * tokens * features * classes,
        quick=classes == 1000,
        size=tokens,
    )


CASES = [
    linear_case(batch, inputs, outputs, way)
    for inputs, outputs in SIZES
    for batch in BATCHES
    for way in ("forward", "packed", "backward")
] + [
    linear_cross_entropy_case(tokens, features, classes)
    for tokens, features, classes in ((64, 256, 1000), (512, 768, 32000), (512, 768, 128256))
]
