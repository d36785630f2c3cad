"""A small network of each family, for digits and clothes of 28x28 pixels."""

from __future__ import annotations

from stableops import nn
from stableops.models._begin import Rng, begin
from stableops.models._units import normalised
from stableops.models.densenet import dense_block, transition
from stableops.models.googlenet import inception
from stableops.models.nin import nin_block
from stableops.models.resnet import basic, stage
from stableops.models.vgg import vgg_features

__all__ = ["small_densenet", "small_inception", "small_nin", "small_resnet", "small_vgg"]


def _classifier(
    features: nn.Sequential, channels: int, num_classes: int, rng: Rng
) -> nn.Sequential:
    """Means of the maps, and a dense layer on them."""
    net = nn.Sequential(
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, num_classes),
    )
    return begin(net, rng)


def small_vgg(num_classes: int = 10, *, rng: Rng = None) -> nn.Sequential:
    """Three blocks of VGG with batch norm; takes (N, 1, 28, 28)."""
    features = vgg_features((1, 2, 2), (16, 32, 64), batch_norm=True, in_channels=1)
    return _classifier(features, 64, num_classes, rng)


def small_nin(num_classes: int = 10, *, rng: Rng = None) -> nn.Sequential:
    """Two blocks of NiN with batch norm; takes (N, 1, 28, 28)."""
    net = nn.Sequential(
        block1=nin_block(normalised, 1, (16, 16, 16), 5, stride=2, padding=2),
        block2=nin_block(normalised, 16, (32, 32, 32), 3, stride=2, padding=1),
        conv=nn.Conv2d(32, num_classes, 3, padding=1),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return begin(net, rng)


def small_inception(num_classes: int = 10, *, rng: Rng = None) -> nn.Sequential:
    """Two inception blocks with batch norm; takes (N, 1, 28, 28)."""
    features = nn.Sequential(
        normalised(1, 16, 3, padding=1),
        nn.MaxPool2d(3, 2, padding=1),
        inception(normalised, 16, (8, 8, 16, 4, 8, 8)),
        nn.MaxPool2d(3, 2, padding=1),
        inception(normalised, 40, (16, 16, 32, 8, 16, 16)),
    )
    return _classifier(features, 80, num_classes, rng)


def small_resnet(num_classes: int = 10, *, rng: Rng = None) -> nn.Sequential:
    """Three stages of basic blocks; takes (N, 1, 28, 28)."""
    features = nn.Sequential(
        normalised(1, 16, 3, stride=2, padding=1),
        stage(basic, 16, 16, 1, 1),
        stage(basic, 16, 32, 1, 2),
        stage(basic, 32, 64, 1, 2),
    )
    return _classifier(features, 64, num_classes, rng)


def small_densenet(num_classes: int = 10, *, rng: Rng = None) -> nn.Sequential:
    """Two dense blocks of four layers; takes (N, 1, 28, 28)."""
    features = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        dense_block(16, 12, 4),
        transition(64, 32),
        dense_block(32, 12, 4),
        nn.BatchNorm2d(80),
        nn.ReLU(),
    )
    return _classifier(features, 80, num_classes, rng)
