"""Network in network: Lin, Chen and Yan 2014, for ImageNet as its authors' Caffe model."""

from __future__ import annotations

from typing import Any

from stableops import nn
from stableops.models._begin import Rng, begin
from stableops.models._units import Unit, plain

__all__ = ["nin", "nin_block"]


def nin_block(
    unit: Unit, channels: int, widths: tuple[int, int, int], kernel_size: int, **settings: Any
) -> nn.Sequential:
    """A convolution and two of 1x1: a small dense network that looks at every place."""
    first, second, third = widths
    return nn.Sequential(
        unit(channels, first, kernel_size, **settings),
        unit(first, second, 1),
        unit(second, third, 1),
    )


def nin(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
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
    net = nn.Sequential(
        block1=nin_block(plain, 3, (96, 96, 96), 11, stride=4),
        pool1=nn.MaxPool2d(3, stride=2),
        block2=nin_block(plain, 96, (256, 256, 256), 5, padding=2),
        pool2=nn.MaxPool2d(3, stride=2),
        block3=nin_block(plain, 256, (384, 384, 384), 3, padding=1),
        pool3=nn.MaxPool2d(3, stride=2),
        dropout=nn.Dropout(0.5),
        block4=nin_block(plain, 384, (1024, 1024, num_classes), 3, padding=1),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return begin(net, rng)
