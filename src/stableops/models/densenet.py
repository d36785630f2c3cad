"""DenseNet: Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional networks",
2017, as in torchvision."""

from __future__ import annotations

from stableops import nn
from stableops.models._begin import Rng, begin

__all__ = [
    "dense_block",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "transition",
]


def dense_block(channels: int, growth: int, depth: int) -> nn.DenseBlock:
    """Every layer sees all before it: their outputs are put side by side, where ResNet adds them.

    A layer needs few filters then (`growth`), and 1x1 convolutions to 4 * growth channels keep its
    3x3 convolution cheap.
    """
    layers = {}
    for i in range(depth):
        seen = channels + i * growth
        layers[f"denselayer{i + 1}"] = nn.DenseLayer(
            norm1=nn.BatchNorm2d(seen),
            relu1=nn.ReLU(),
            conv1=nn.Conv2d(seen, 4 * growth, 1, bias=False),
            norm2=nn.BatchNorm2d(4 * growth),
            relu2=nn.ReLU(),
            conv2=nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )
    return nn.DenseBlock(growth=growth, **layers)


def transition(channels: int, width: int) -> nn.Sequential:
    """Fewer channels, and half the rows and columns."""
    return nn.Sequential(
        norm=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        conv=nn.Conv2d(channels, width, 1, bias=False),
        pool=nn.AvgPool2d(2),
    )


def _densenet(
    growth: int, depths: tuple[int, ...], channels: int, num_classes: int, rng: Rng
) -> nn.Sequential:
    features = nn.Sequential(
        conv0=nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(channels),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )
    for i, depth in enumerate(depths, start=1):
        features.add(**{f"denseblock{i}": dense_block(channels, growth, depth)})
        channels += depth * growth
        if i < len(depths):
            features.add(**{f"transition{i}": transition(channels, channels // 2)})
            channels //= 2
    features.add(norm5=nn.BatchNorm2d(channels))
    net = nn.Sequential(
        features=features,
        relu=nn.ReLU(),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(channels, num_classes),
    )
    return begin(net, rng)


def densenet121(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """DenseNet-121, 7,978,856 parameters.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 3, 224, 224), or any size from 32; its weights have torchvision's names.

    Examples
    --------
    >>> from stableops import models
    >>> sum(array.size for array in models.densenet121().parameters().values())
    7978856
    """
    return _densenet(32, (6, 12, 24, 16), 64, num_classes, rng)


def densenet161(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """DenseNet-161, 28,681,000 parameters; arguments as :func:`densenet121`."""
    return _densenet(48, (6, 12, 36, 24), 96, num_classes, rng)


def densenet169(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """DenseNet-169, 14,149,480 parameters; arguments as :func:`densenet121`."""
    return _densenet(32, (6, 12, 32, 32), 64, num_classes, rng)


def densenet201(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """DenseNet-201, 20,013,928 parameters; arguments as :func:`densenet121`."""
    return _densenet(32, (6, 12, 48, 32), 64, num_classes, rng)
