"""Normalisation, rectifiers, dropout, transposed convolution, resizing: the rest of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.cases import CHANNELS_LAST, NCHW, Case, shape_text

IMAGES = ((1, 64, 112, 112), (8, 64, 56, 56), (8, 256, 14, 14), (8, 2048, 7, 7), (32, 64, 56, 56))
QUICK_IMAGE = IMAGES[1]
ROWS = ((512, 768), (4096, 1024), (8192, 64))


def normal(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def image_case(
    operation: str,
    shape: tuple[int, ...],
    layout: str = NCHW,
    suffix: str = "",
    extra: tuple[tuple[int, ...], ...] = (),
    options: Mapping[str, Any] | None = None,
    flops: int = 1,
    images: int = 1,
) -> Case:
    """`images` arrays of `shape` and then those of the shapes of `extra`."""
    return Case(
        name=f"{operation}{suffix} {shape_text(shape)} {layout}",
        operation=operation,
        inputs=lambda rng: normal(rng, *[shape] * images, *extra),
        options=options or {},
        flops=flops * int(np.prod(shape)),
        layout=layout,
        quick=shape == QUICK_IMAGE and layout == NCHW and not operation.endswith("_backward"),
    )


def batch_norm_prediction(shape: tuple[int, ...], layout: str) -> Case:
    channels = shape[1]

    def inputs(rng: np.random.Generator) -> list[np.ndarray]:
        x, weight, bias, mean = normal(rng, shape, (channels,), (channels,), (channels,))
        return [x, weight, bias, mean, rng.random(channels, np.float32) + np.float32(0.5)]

    return Case(
        name=f"batch_norm_prediction {shape_text(shape)} {layout}",
        operation="batch_norm_prediction",
        inputs=inputs,
        flops=2 * int(np.prod(shape)),
        layout=layout,
    )


def images() -> Iterator[Case]:
    for shape in IMAGES:
        c = (shape[1],)
        for layout in (NCHW, CHANNELS_LAST):
            yield image_case("batch_norm_training", shape, layout, extra=(c, c), flops=5)
            yield image_case("batch_norm_backward", shape, layout, extra=(c,), flops=9, images=2)
            yield batch_norm_prediction(shape, layout)
    for shape in IMAGES[:3]:
        c = (shape[1],)
        groups = {"num_groups": 32}
        for layout in (NCHW, CHANNELS_LAST):
            yield image_case("group_norm", shape, layout, extra=(c, c), options=groups, flops=5)
            yield image_case(
                "group_norm_backward", shape, layout, extra=(c,), options=groups, flops=9, images=2
            )
            yield image_case("leaky_relu", shape, layout)
            yield image_case("leaky_relu_backward", shape, layout, images=2)
            yield image_case("prelu", shape, layout, extra=(c,))
            yield image_case("prelu_backward", shape, layout, extra=(c,), images=2)
    for shape in ((1, 96, 55, 55), (8, 64, 56, 56)):
        for layout in (NCHW, CHANNELS_LAST):
            options = {"size": 5}
            yield image_case("local_response_norm", shape, layout, options=options, flops=13)
            yield image_case(
                "local_response_norm_backward", shape, layout, options=options, flops=20, images=2
            )
    for shape in ((1, 64, 56, 56), (8, 64, 28, 28)):
        for layout in (NCHW, CHANNELS_LAST):
            for mode in ("nearest", "bilinear"):
                options = {"scale_factor": 2, "mode": mode}
                yield image_case(
                    "interpolate", shape, layout, f" {mode} x2", options=options, flops=4
                )
                yield image_case(
                    "interpolate_backward", (*shape[:2], *[2 * n for n in shape[2:]]), layout,
                    f" {mode} x2", options=options,
                )  # fmt: skip
    for shape, layout in (((8, 64, 56, 56), NCHW), ((8, 64, 56, 56), CHANNELS_LAST)):
        for operation in ("pixel_shuffle", "pixel_unshuffle"):
            yield image_case(operation, shape, layout, " x2", options={"factor": 2}, flops=0)
    yield image_case("dropout", (64, 4096), options={"p": 0.5})
    yield image_case("dropout_backward", (64, 4096), options={"p": 0.5}, images=2)


def layer_norms() -> Iterator[Case]:
    for rows, columns in ROWS:
        c = (columns,)
        yield image_case("layer_norm", (rows, columns), extra=(c, c), flops=5)
        yield image_case("layer_norm_backward", (rows, columns), extra=(c,), flops=9, images=2)


# input, weight (C, K, R, S), stride, padding
TRANSPOSED = (
    ((1, 256, 28, 28), (256, 128, 2, 2), 2, 0),
    ((8, 128, 14, 14), (128, 64, 4, 4), 2, 1),
    ((1, 21, 32, 32), (21, 21, 16, 16), 8, 4),
)


def transposed_convolutions() -> Iterator[Case]:
    for x, weight, stride, padding in TRANSPOSED:
        suffix = f" {weight[2]}x{weight[3]}/{stride} to {weight[1]}"
        options = {"stride": stride, "padding": padding}
        flops = 2 * int(np.prod(weight[1:]))
        out = [(n - 1) * stride - 2 * padding + weight[2] for n in x[2:]]
        for layout in (NCHW, CHANNELS_LAST):
            yield image_case(
                "conv_transpose2d", x, layout, suffix,
                extra=(weight, (weight[1],)), options=options, flops=flops,
            )  # fmt: skip
            yield image_case(
                "conv_transpose2d_backward", x, layout, suffix,
                extra=(weight, (x[0], weight[1], *out)), options=options, flops=2 * flops,
            )  # fmt: skip


CASES = [*images(), *layer_norms(), *transposed_convolutions()]
