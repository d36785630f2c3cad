"""Training a network, so that a seed gives the same weights on every machine.

Every number that enters the weights is made by stableops, by elementwise NumPy arithmetic, or by
`Generator.random`. Those give the same bits everywhere. A NumPy sum or matrix product would not:
the order of its additions depends on the processor.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import stableops as so

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from stableops._demo.lenet import LeNet

    Array = npt.NDArray[Any]
    DrawSamples = Callable[[np.random.Generator], tuple[Array, Array]]

__all__ = ["Momentum", "Step", "accuracy", "train", "weights_digest"]


class Momentum:
    """Stochastic gradient descent with momentum, elementwise and in place.

    Parameters
    ----------
    momentum : float
        How much of the last step the next one keeps.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum = np.float32(momentum)
        self.velocity: dict[str, Array] = {}

    def step(
        self, parameters: Mapping[str, Array], gradients: Mapping[str, Array], rate: float
    ) -> None:
        """Move every parameter against its gradient."""
        for name, parameter in parameters.items():
            velocity = self.velocity.setdefault(name, np.zeros_like(parameter))
            velocity *= self.momentum
            velocity -= np.float32(rate) * gradients[name]
            parameter += velocity


class Step(NamedTuple):
    """Where the training stands after a batch.

    Attributes
    ----------
    done : float
        The part of the training that is over, 1.0 after the last batch.
    loss : float
        Mean loss of the batch.
    ends_epoch : bool
        Whether this was the last batch of an epoch.
    """

    done: float
    loss: float
    ends_epoch: bool


def train(
    net: LeNet,
    draw_samples: DrawSamples,
    rng: np.random.Generator,
    *,
    epochs: int,
    batch: int = 32,
    rate: float = 0.04,
) -> Iterator[Step]:
    """Train a network, one batch for each item taken from the returned iterator.

    Parameters
    ----------
    net : LeNet
        Trained in place.
    draw_samples : callable
        Gives the images and the labels of one epoch, from a generator.
    rng : numpy.random.Generator
        Source of the samples and their order.
    epochs, batch : int
        How often to draw samples, and how many to learn from at once.
    rate : float
        Learning rate of the first step; it falls in a straight line to 0.

    Yields
    ------
    Step
        Where the training stands.
    """
    optimiser = Momentum()
    for epoch in range(epochs):
        images, labels = draw_samples(rng)
        # A stable sort of random keys, because how `Generator.permutation` draws may change.
        order = np.argsort(rng.random(len(labels)), kind="stable")
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            logits = net.forward(images[chosen])
            loss, grad = so.softmax_cross_entropy(logits, labels[chosen], return_grad=True)
            progress = (epoch + start / len(order)) / epochs
            optimiser.step(net.parameters, net.backward(grad), rate * (1.0 - progress))
            end = min(start + batch, len(order))
            yield Step((epoch + end / len(order)) / epochs, float(loss), end == len(order))


def accuracy(net: LeNet, images: Array, labels: Array) -> float:
    """The part of the images that a network gives the right label."""
    return float((net.forward(images).argmax(axis=1) == labels).mean())


def weights_digest(parameters: Mapping[str, Array]) -> str:
    """SHA-256 of all names, shapes and bits, the same on every machine."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        values = parameters[name]
        digest.update(f"{name} {values.shape} ".encode())
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()
