"""ResNet: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016, as in
torchvision (the stride of a bottleneck is in its 3x3 convolution)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stableops import nn
from stableops.models._begin import Rng, begin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["basic", "bottleneck", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def basic(channels: int, width: int, stride: int) -> nn.Residual:
    """Two 3x3 convolutions learn what to add to their input, so that doing nothing is easy."""
    return nn.Residual(
        conv1=nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        bn1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(width, width, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(width),
        downsample=_downsample(channels, width, stride),
    )


def bottleneck(channels: int, width: int, stride: int) -> nn.Residual:
    """1x1 to a quarter of the channels, 3x3 there, 1x1 back: three layers for the price of two."""
    return nn.Residual(
        conv1=nn.Conv2d(channels, width // 4, 1, bias=False),
        bn1=nn.BatchNorm2d(width // 4),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(width // 4, width // 4, 3, stride, padding=1, bias=False),
        bn2=nn.BatchNorm2d(width // 4),
        relu2=nn.ReLU(),
        conv3=nn.Conv2d(width // 4, width, 1, bias=False),
        bn3=nn.BatchNorm2d(width),
        downsample=_downsample(channels, width, stride),
    )


def _downsample(channels: int, width: int, stride: int) -> nn.Sequential | None:
    if channels == width and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def stage(
    block: Callable[[int, int, int], nn.Module], channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    """Blocks in a row; the first one changes the channels and the size."""
    first = block(channels, width, stride)
    return nn.Sequential(first, *(block(width, width, 1) for _ in range(depth - 1)))


def _resnet(
    block: Callable[[int, int, int], nn.Module],
    expansion: int,
    depths: tuple[int, int, int, int],
    num_classes: int,
    rng: Rng,
) -> nn.Sequential:
    widths = [expansion * width for width in (64, 128, 256, 512)]
    net = nn.Sequential(
        conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
        layer1=stage(block, 64, widths[0], depths[0], 1),
        layer2=stage(block, widths[0], widths[1], depths[1], 2),
        layer3=stage(block, widths[1], widths[2], depths[2], 2),
        layer4=stage(block, widths[2], widths[3], depths[3], 2),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(widths[3], num_classes),
    )
    return begin(net, rng)


def resnet18(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """ResNet-18, 11,689,512 parameters; arguments as :func:`resnet50`."""
    return _resnet(basic, 1, (2, 2, 2, 2), num_classes, rng)


def resnet34(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """ResNet-34, 21,797,672 parameters; arguments as :func:`resnet50`."""
    return _resnet(basic, 1, (3, 4, 6, 3), num_classes, rng)


def resnet50(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """ResNet-50, 25,557,032 parameters.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 3, 224, 224), or any size from 33; its weights have torchvision's names.

    Examples
    --------
    >>> from stableops import models
    >>> sum(array.size for array in models.resnet50().parameters().values())
    25557032
    """
    return _resnet(bottleneck, 4, (3, 4, 6, 3), num_classes, rng)


def resnet101(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """ResNet-101, 44,549,160 parameters; arguments as :func:`resnet50`."""
    return _resnet(bottleneck, 4, (3, 4, 23, 3), num_classes, rng)


def resnet152(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """ResNet-152, 60,192,808 parameters; arguments as :func:`resnet50`."""
    return _resnet(bottleneck, 4, (3, 8, 36, 3), num_classes, rng)
