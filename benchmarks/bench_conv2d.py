"""The convolution layers of LeNet to MobileNet, forward and backward, in both layouts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.cases import CHANNELS_LAST, NCHW, Case


class Layer(NamedTuple):
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def output_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    def multiply_adds(self, batch: int) -> int:
        taps = self.channels // self.groups * self.kernel**2
        return batch * self.filters * self.output_size**2 * taps


# "<network>.<place> <kernel>/<stride> <channels>-<filters>@<size>"; layers of equal shape once
LAYERS = {
    "lenet.1 5x5 1-6@28": Layer(1, 28, 6, 5, padding=2),
    "lenet.2 5x5 6-16@14": Layer(6, 14, 16, 5),
    "alexnet.1 11x11/4 3-64@224": Layer(3, 224, 64, 11, 4, 2),
    "alexnet.2 5x5 64-192@27": Layer(64, 27, 192, 5, padding=2),
    "alexnet.3 3x3 192-384@13": Layer(192, 13, 384, 3, padding=1),
    "alexnet.4 3x3 384-256@13": Layer(384, 13, 256, 3, padding=1),
    "alexnet.5 3x3 256-256@13": Layer(256, 13, 256, 3, padding=1),
    "vgg16.1_1 3x3 3-64@224": Layer(3, 224, 64, 3, padding=1),
    "vgg16.1_2 3x3 64-64@224": Layer(64, 224, 64, 3, padding=1),
    "vgg16.2_1 3x3 64-128@112": Layer(64, 112, 128, 3, padding=1),
    "vgg16.2_2 3x3 128-128@112": Layer(128, 112, 128, 3, padding=1),
    "vgg16.3_1 3x3 128-256@56": Layer(128, 56, 256, 3, padding=1),
    "vgg16.3_2 3x3 256-256@56": Layer(256, 56, 256, 3, padding=1),
    "vgg16.4_1 3x3 256-512@28": Layer(256, 28, 512, 3, padding=1),
    "vgg16.4_2 3x3 512-512@28": Layer(512, 28, 512, 3, padding=1),
    "vgg16.5 3x3 512-512@14": Layer(512, 14, 512, 3, padding=1),
    "googlenet.2 3x3 64-192@56": Layer(64, 56, 192, 3, padding=1),
    "googlenet.3a 1x1 192-64@28": Layer(192, 28, 64, 1),
    "googlenet.3a 5x5 16-32@28": Layer(16, 28, 32, 5, padding=2),
    "googlenet.3b 3x3 128-192@28": Layer(128, 28, 192, 3, padding=1),
    "googlenet.4a 1x1 480-192@14": Layer(480, 14, 192, 1),
    "googlenet.4e 3x3 160-320@14": Layer(160, 14, 320, 3, padding=1),
    "googlenet.5b 1x1 832-384@7": Layer(832, 7, 384, 1),
    "googlenet.5b 5x5 48-128@7": Layer(48, 7, 128, 5, padding=2),
    "resnet50.1 7x7/2 3-64@224": Layer(3, 224, 64, 7, 2, 3),
    "resnet50.2 1x1 64-64@56": Layer(64, 56, 64, 1),
    "resnet50.2 3x3 64-64@56": Layer(64, 56, 64, 3, padding=1),
    "resnet50.2 1x1 64-256@56": Layer(64, 56, 256, 1),
    "resnet50.2 1x1 256-64@56": Layer(256, 56, 64, 1),
    "resnet50.3 3x3/2 128-128@56": Layer(128, 56, 128, 3, 2, 1),
    "resnet50.3 1x1/2 256-512@56": Layer(256, 56, 512, 1, 2),
    "resnet50.3 3x3 128-128@28": Layer(128, 28, 128, 3, padding=1),
    "resnet50.4 1x1/2 512-1024@28": Layer(512, 28, 1024, 1, 2),
    "resnet50.4 3x3 256-256@14": Layer(256, 14, 256, 3, padding=1),
    "resnet50.4 1x1 1024-256@14": Layer(1024, 14, 256, 1),
    "resnet50.5 3x3 512-512@7": Layer(512, 7, 512, 3, padding=1),
    "resnet50.5 1x1 2048-512@7": Layer(2048, 7, 512, 1),
    "densenet121.1 1x1 64-128@56": Layer(64, 56, 128, 1),
    "densenet121.1 3x3 128-32@56": Layer(128, 56, 32, 3, padding=1),
    "densenet121.2 1x1 512-128@28": Layer(512, 28, 128, 1),
    "densenet121.2 3x3 128-32@28": Layer(128, 28, 32, 3, padding=1),
    "densenet121.4 1x1 1024-128@7": Layer(1024, 7, 128, 1),
    "densenet121.4 3x3 128-32@7": Layer(128, 7, 32, 3, padding=1),
    "mobilenet.1 3x3/2 3-32@224": Layer(3, 224, 32, 3, 2, 1),
    "mobilenet depthwise 3x3 32@112": Layer(32, 112, 32, 3, padding=1, groups=32),
    "mobilenet depthwise 3x3/2 96@112": Layer(96, 112, 96, 3, 2, 1, 96),
    "mobilenet depthwise 3x3 144@56": Layer(144, 56, 144, 3, padding=1, groups=144),
    "mobilenet depthwise 3x3 384@14": Layer(384, 14, 384, 3, padding=1, groups=384),
    "mobilenet depthwise 3x3 960@7": Layer(960, 7, 960, 3, padding=1, groups=960),
    "mobilenet 1x1 32-64@112": Layer(32, 112, 64, 1),
    "mobilenet 1x1 384-64@14": Layer(384, 14, 64, 1),
}

# what the short list has of each layer, at batch 1
QUICK = {
    ("lenet.2 5x5 6-16@14", "forward", NCHW),
    ("alexnet.1 11x11/4 3-64@224", "forward", NCHW),
    ("alexnet.3 3x3 192-384@13", "packed", NCHW),
    ("vgg16.1_1 3x3 3-64@224", "forward", NCHW),
    ("vgg16.5 3x3 512-512@14", "forward", NCHW),
    ("googlenet.3a 5x5 16-32@28", "forward", NCHW),
    ("resnet50.2 3x3 64-64@56", "forward", NCHW),
    ("resnet50.2 3x3 64-64@56", "forward", CHANNELS_LAST),
    ("resnet50.2 1x1 64-256@56", "backward", NCHW),
    ("resnet50.5 1x1 2048-512@7", "forward", NCHW),
    ("densenet121.2 3x3 128-32@28", "forward", NCHW),
    ("mobilenet depthwise 3x3 384@14", "forward", NCHW),
    ("mobilenet depthwise 3x3/2 96@112", "forward", CHANNELS_LAST),
    ("mobilenet depthwise 3x3/2 96@112", "backward", NCHW),
}


def forward_inputs(layer: Layer, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    fan_in = layer.channels // layer.groups * layer.kernel**2
    weight_shape = (layer.filters, layer.channels // layer.groups, layer.kernel, layer.kernel)
    return [
        rng.standard_normal((batch, layer.channels, layer.size, layer.size), np.float32),
        rng.standard_normal(weight_shape, np.float32) / np.float32(fan_in) ** 0.5,
        rng.standard_normal(layer.filters, np.float32),
    ]


def backward_inputs(layer: Layer, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    grad_shape = (batch, layer.filters, layer.output_size, layer.output_size)
    return [
        rng.standard_normal(grad_shape, np.float32),
        *forward_inputs(layer, batch, rng)[:2],
    ]


def layer_cases(name: str, layer: Layer) -> Iterator[Case]:
    geometry = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    for batch in (1, 8):
        flops = 2 * layer.multiply_adds(batch)
        for layout in (NCHW, CHANNELS_LAST):
            for way in ("forward", "packed", "backward"):
                backward = way == "backward"
                make = backward_inputs if backward else forward_inputs
                yield Case(
                    name=f"conv {name} batch {batch} {layout} {way}",
                    operation="conv2d_backward" if backward else "conv2d",
                    inputs=partial(make, layer, batch),
                    options=geometry if backward else {**geometry, "packed": way == "packed"},
                    flops=2 * flops if backward else flops,
                    layout=layout,
                    quick=batch == 1 and (name, way, layout) in QUICK,
                )


CASES = [case for name, layer in LAYERS.items() for case in layer_cases(name, layer)]
