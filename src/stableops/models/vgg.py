"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image
recognition", 2015, as in torchvision."""

from __future__ import annotations

from stableops import nn
from stableops.models._begin import Rng, begin

__all__ = [
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vgg_features",
]

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg_features(
    depths: tuple[int, ...], widths: tuple[int, ...], *, batch_norm: bool, in_channels: int = 3
) -> nn.Sequential:
    """Blocks of 3x3 convolutions, each block followed by a pooling that halves the image.

    Two 3x3 in a row see what one 5x5 sees, three what one 7x7 sees: with fewer weights (18 or 27
    instead of 25 or 49 a pair of channels) and a rectifier more after each.
    """
    layers: list[nn.Module] = []
    for depth, width in zip(depths, widths, strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _vgg(depth: int, num_classes: int, rng: Rng, *, batch_norm: bool = False) -> nn.Sequential:
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, num_classes),
    )
    net = nn.Sequential(
        features=vgg_features(DEPTHS[depth], WIDTHS, batch_norm=batch_norm),
        avgpool=nn.AdaptiveAvgPool2d(7),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return begin(net, rng)


def vgg11(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-11, 132,863,336 parameters; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(11, num_classes, rng)


def vgg11_bn(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-11 with batch norm; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(11, num_classes, rng, batch_norm=True)


def vgg13(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-13, 133,047,848 parameters; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(13, num_classes, rng)


def vgg13_bn(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-13 with batch norm; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(13, num_classes, rng, batch_norm=True)


def vgg16(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-16, 138,357,544 parameters; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(16, num_classes, rng)


def vgg16_bn(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-16 with batch norm; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(16, num_classes, rng, batch_norm=True)


def vgg19(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-19, 143,667,240 parameters; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(19, num_classes, rng)


def vgg19_bn(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """VGG-19 with batch norm; arguments as :func:`stableops.models.resnet50`."""
    return _vgg(19, num_classes, rng, batch_norm=True)
