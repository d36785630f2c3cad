"""Densely connected layers in memory that grows linearly with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stableops.nn._containers import Container, Sequential, output_layer
from stableops.nn._module import channels_last

if TYPE_CHECKING:
    from stableops.nn._activation import ReLU
    from stableops.nn._convolution import Conv2d
    from stableops.nn._module import Array
    from stableops.nn._norm import BatchNorm2d

__all__ = ["DenseBlock", "DenseLayer"]


class DenseLayer(Sequential):
    """A layer of a dense block that does not keep its normalised input.

    Batch norm and rectifier of the input, which has more channels from layer to layer, are computed
    again in the backward pass (Pleiss et al., "Memory-efficient implementation of DenseNets",
    2017), with the same bits.

    Parameters
    ----------
    norm1, relu1, conv1 : BatchNorm2d, ReLU, Conv2d
        The first three modules.
    **named : Module
        What follows.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> layer = nn.DenseLayer(norm1=nn.BatchNorm2d(6), relu1=nn.ReLU(), conv1=nn.Conv2d(6, 2, 1))
    >>> layer(np.ones((2, 6, 3, 3), np.float32)).shape
    (2, 2, 3, 3)
    """

    norm1: BatchNorm2d
    relu1: ReLU
    conv1: Conv2d

    passes_out = True

    def forward(self, x: Array, *out: Any) -> Array:
        y = super().forward(x, *out)
        if self.training:
            self.relu1.keep(None)
            self.conv1.keep((None, self.conv1.kept()[1]))
        return y

    def backward(self, grad_output: Array) -> Any:
        self.conv1.keep((self.relu1.forward(self.norm1.again()), self.conv1.kept()[1]))
        return super().backward(grad_output)


class DenseBlock(Container):
    """Layers that each see the input and the outputs of all layers before (Huang et al. 2017).

    All of them write into one array and read views of it, so that training takes memory in
    proportion to the number of layers, not to its square.

    Parameters
    ----------
    *layers, **named : Module
        In order; each gives `growth` channels, and takes `growth` more than the one before.
    growth : int
        Channels that a layer adds.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> block = nn.DenseBlock(
    ...     nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1), growth=2
    ... )
    >>> block(np.ones((1, 3, 4, 4), np.float32)).shape
    (1, 7, 4, 4)
    """

    growth = 0

    def __init__(self, *layers: Any, growth: int, **named: Any) -> None:
        super().__init__(*layers, **named)
        self.growth = growth

    def forward(self, x: Array) -> Array:
        batch, channels, height, width = x.shape
        self.keep(channels)
        total = channels + self.growth * len(self)
        shape = (batch, total, height, width)
        is_channels_last = channels > 1 and x.strides[1] == x.itemsize
        features = (channels_last if is_channels_last else np.empty)(shape, x.dtype)
        features[:, :channels] = x
        for name in self.children():
            end = channels + self.growth
            place = features[:, channels:end]
            layer = output_layer(getattr(self, name))
            if layer is not None and layer.weight.dtype == x.dtype:
                self.run(name, features[:, :channels], place)
            else:
                place[...] = self.run(name, features[:, :channels])
            channels = end
        return features

    def backward(self, grad_output: Array) -> Any:
        first = self.kept()
        # Each layer's gradient adds up here, in the places of its inputs.
        total = grad_output.copy()
        end = total.shape[1]
        for layer in reversed(self.children().values()):
            start = end - self.growth
            total[:, :start] += layer.backward(total[:, start:end])
            end = start
        return total[:, :first]
