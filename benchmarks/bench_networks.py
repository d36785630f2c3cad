"""Whole networks: prediction, and one step of training with SGD.

All libraries have the weights that `stableops.models` draws from one seed. The torch networks are
made of torch's own modules, as torchvision makes them; ONNX Runtime gets the graph before anything
is folded, and folds it itself.
"""

from __future__ import annotations

import numpy as np

from benchmarks.cases import CHANNELS_LAST, NCHW, Case, shape_text

# Multiply-adds of one picture of 224x224.
WORK = {
    "resnet50": 4_089_184_256,
    "vgg16": 15_470_264_320,
    "densenet121": 2_834_161_664,
    "googlenet": 1_498_376_192,
}
STEPS = [("lenet5", (32, 1, 28, 28)), ("resnet18", (8, 3, 64, 64)), ("densenet121", (4, 3, 64, 64))]


def pictures(shape: tuple[int, ...]):
    return lambda rng: [rng.standard_normal(shape, np.float32)]


def pictures_and_labels(shape: tuple[int, ...]):
    return lambda rng: [rng.standard_normal(shape, np.float32), rng.integers(0, 10, shape[0])]


CASES = [
    Case(
        name=f"predict {network} {shape_text((batch, 3, 224, 224))} {layout}",
        operation="predict",
        inputs=pictures((batch, 3, 224, 224)),
        options={"network": network},
        flops=2 * batch * work,
        layout=layout,
        quick=(network, batch, layout) == ("resnet50", 1, NCHW),
    )
    for network, work in WORK.items()
    for batch in (1, 8)
    for layout in (NCHW, CHANNELS_LAST)
] + [
    Case(
        name=f"training step {network} {shape_text(shape)} {layout}",
        operation="training_step",
        inputs=pictures_and_labels(shape),
        options={"network": network},
        layout=layout,
    )
    for network, shape in STEPS
    for layout in (NCHW, CHANNELS_LAST)
]
