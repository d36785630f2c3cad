"""Network in network: Lin, Chen and Yan 2014, for ImageNet as its authors' Caffe model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stableops import nn
from stableops.models._begin import begin

if TYPE_CHECKING:
    import numpy as np

__all__ = ["nin", "nin_block"]


def nin_block(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    """A convolution and two of 1x1: a small dense network that looks at every place."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
    )


def nin(num_classes: int = 1000, *, rng: np.random.Generator | None = None) -> nn.Sequential:
    """Network in network, 7,595,176 parameters: no dense layer, the mean of a map is the logit.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 3, 224, 224), or any size from 67.

    Examples
    --------
    >>> from stableops import models
    >>> sum(array.size for array in models.nin().parameters().values())
    7595176
    """
    last = nn.Sequential(
        nn.Conv2d(384, 1024, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(1024, 1024, 1),
        nn.ReLU(),
        nn.Conv2d(1024, num_classes, 1),
        nn.ReLU(),
    )
    net = nn.Sequential(
        block1=nin_block(3, 96, 11, stride=4),
        pool1=nn.MaxPool2d(3, stride=2),
        block2=nin_block(96, 256, 5, padding=2),
        pool2=nn.MaxPool2d(3, stride=2),
        block3=nin_block(256, 384, 3, padding=1),
        pool3=nn.MaxPool2d(3, stride=2),
        dropout=nn.Dropout(0.5),
        block4=last,
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return begin(net, rng)
