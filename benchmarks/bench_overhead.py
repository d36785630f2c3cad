"""Calls so small that only the way into the library and back is left to time."""

from __future__ import annotations

import numpy as np

from benchmarks.bench_nms import IOU_THRESHOLD, detections
from benchmarks.cases import Case


def ten(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal(10, np.float32)]


def sample_and_label(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal((1, 10), np.float32), rng.integers(0, 10, 1)]


def small_image(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal((1, 1, 8, 8), np.float32)]


def small_convolution(rng: np.random.Generator) -> list[np.ndarray]:
    shapes = ((1, 8, 8, 8), (8, 8, 3, 3), (8,))
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def small_linear(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal(shape, np.float32) for shape in ((1, 10), (10, 10), (10,))]


CASES = [
    Case("ten elements: sigmoid", "sigmoid", ten, quick=True),
    Case("ten elements: relu", "relu", ten),
    Case("ten elements: softmax", "softmax", ten, {"axis": -1}),
    Case(
        "ten elements: softmax, tensors made beforehand", "softmax_on_tensors", ten,
        {"axis": -1}, quick=True,
    ),
    Case("ten elements: logsumexp", "logsumexp", ten, {"axis": -1}),
    Case(
        "ten elements: cross_entropy+gradient", "cross_entropy", sample_and_label,
        {"gradient": True}, quick=True,
    ),
    Case("ten elements: linear 10-10", "linear", small_linear, quick=True),
    Case(
        "8x8 image: max_pool2d 2x2", "max_pool2d", small_image,
        {"kernel_size": 2, "stride": 2, "padding": 0, "return_indices": False}, quick=True,
    ),
    Case(
        "8x8 image: conv 3x3 8-8", "conv2d", small_convolution,
        {"stride": 1, "padding": 1, "groups": 1, "packed": False}, quick=True,
    ),
    Case(
        "ten boxes: nms", "nms", lambda rng: detections(10, True, rng),
        {"iou_threshold": IOU_THRESHOLD}, quick=True,
    ),
]  # fmt: skip
