"""AlexNet: Krizhevsky, Sutskever and Hinton 2012, in the form of Krizhevsky 2014 ("One weird trick
for parallelizing convolutional neural networks"), as in torchvision."""

from __future__ import annotations

from stableops import nn
from stableops.models._begin import Rng, begin

__all__ = ["alexnet"]


def alexnet(num_classes: int = 1000, *, rng: Rng = None) -> nn.Sequential:
    """AlexNet, 61,100,840 parameters: large filters first, small ones later, dropout in the end.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 3, 224, 224), or any size from 63.

    Examples
    --------
    >>> from stableops import models
    >>> sum(array.size for array in models.alexnet().parameters().values())
    61100840
    """
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, num_classes),
    )
    net = nn.Sequential(
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(6),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return begin(net, rng)
