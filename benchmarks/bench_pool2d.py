"""Pooling: with and without indices, forward and backward, both layouts, small and large images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.cases import CHANNELS_LAST, NCHW, Case, shape_text


class Pool(NamedTuple):
    shape: tuple[int, int, int, int]
    kernel_size: int
    stride: int
    padding: int = 0

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        batch, channels, height, width = self.shape
        return (batch, channels, self.output_size(height), self.output_size(width))

    def output_size(self, size: int) -> int:
        return (size + 2 * self.padding - self.kernel_size) // self.stride + 1

    @property
    def options(self) -> dict[str, int]:
        return {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}


POOLS = (
    Pool((1, 6, 28, 28), 2, 2),
    Pool((1, 64, 112, 112), 3, 2, 1),
    Pool((8, 64, 112, 112), 3, 2, 1),
    Pool((8, 64, 224, 224), 2, 2),
    Pool((8, 192, 28, 28), 3, 1, 1),
)
QUICK_POOL = POOLS[1]


def indices_inside(pool: Pool, rng: np.random.Generator) -> np.ndarray:
    """For each output the flat position of one element of its window, as a maximum's would be."""
    height, width = pool.shape[2:]
    shape = pool.output_shape
    rows, columns = (
        np.clip(
            np.arange(count).reshape(axes) * pool.stride
            - pool.padding
            + rng.integers(0, pool.kernel_size, shape),
            0,
            size - 1,
        )
        for count, axes, size in ((shape[2], (-1, 1), height), (shape[3], (1, -1), width))
    )
    return rows * width + columns


def pool_cases(pool: Pool, layout: str) -> Iterator[Case]:
    outputs = int(np.prod(pool.output_shape))
    taps = pool.kernel_size**2
    window = f"{pool.kernel_size}x{pool.kernel_size}/{pool.stride}"
    grad_options = {**pool.options, "input_shape": pool.shape}

    def image(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.standard_normal(pool.shape, np.float32)]

    def gradient(rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.standard_normal(pool.output_shape, np.float32)]

    def gradient_and_indices(rng: np.random.Generator) -> list[np.ndarray]:
        return [*gradient(rng), indices_inside(pool, rng)]

    ways = (
        ("max_pool2d", "", image, {**pool.options, "return_indices": False}, True),
        ("max_pool2d", "+indices", image, {**pool.options, "return_indices": True}, True),
        ("max_pool2d_backward", "", gradient_and_indices, grad_options, True),
        ("avg_pool2d", "", image, pool.options, True),
        ("avg_pool2d_backward", "", gradient, grad_options, False),
    )
    for operation, suffix, inputs, options, quick in ways:
        yield Case(
            name=f"{operation}{suffix} {window} {shape_text(pool.shape)} {layout}",
            operation=operation,
            inputs=inputs,
            options=options,
            flops=outputs * (1 if operation == "max_pool2d_backward" else taps),
            layout=layout,
            quick=quick and pool == QUICK_POOL and layout == NCHW,
        )


def global_case(shape: tuple[int, int, int, int], layout: str) -> Case:
    return Case(
        name=f"adaptive_avg_pool2d to 1x1 {shape_text(shape)} {layout}",
        operation="adaptive_avg_pool2d",
        inputs=lambda rng: [rng.standard_normal(shape, np.float32)],
        options={"output_size": 1},
        flops=int(np.prod(shape)),
        layout=layout,
    )


def adaptive_backward_case(shape: tuple[int, int, int, int], size: int, layout: str) -> Case:
    grad_shape = (*shape[:2], size, size)
    return Case(
        name=f"adaptive_avg_pool2d_backward from {size}x{size} {shape_text(shape)} {layout}",
        operation="adaptive_avg_pool2d_backward",
        inputs=lambda rng: [rng.standard_normal(grad_shape, np.float32)],
        options={"input_shape": shape},
        flops=math.prod(grad_shape),
        layout=layout,
    )


CASES = [
    case for pool in POOLS for layout in (NCHW, CHANNELS_LAST) for case in pool_cases(pool, layout)
] + [
    case
    for layout in (NCHW, CHANNELS_LAST)
    for case in (
        global_case((8, 2048, 7, 7), layout),
        adaptive_backward_case((8, 512, 28, 28), 7, layout),
    )
]
