"""LeNet-5 as it is drawn today: rectifiers, largest values, a softmax behind the last layer."""

from __future__ import annotations

from stableops import nn
from stableops.models._begin import Rng, begin

__all__ = ["lenet5"]


def lenet5(num_classes: int = 10, *, rng: Rng = None) -> nn.Sequential:
    """LeNet-5 for 28x28 pixels, 61,706 parameters: convolve, shrink, convolve, shrink, decide.

    Parameters
    ----------
    num_classes : int
        Number of outputs.
    rng : numpy.random.Generator, optional
        Source of the initial weights, which are 0 without it.

    Returns
    -------
    Sequential
        Takes (N, 1, 28, 28).

    Examples
    --------
    >>> from stableops import models, nn
    >>> nn.summary(models.lenet5(), (1, 28, 28)).parameters
    61706
    """
    net = nn.Sequential(
        conv1=nn.Conv2d(1, 6, 5, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),  # 6 x 14 x 14
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),  # 16 x 5 x 5
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * 5 * 5, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, num_classes),
    )
    return begin(net, rng)
