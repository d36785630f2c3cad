"""A LeNet, forward and backward, with stableops' functions alone.

Every number that enters the weights is made by stableops, by elementwise NumPy arithmetic, or by
`Generator.random`: all of these give the same bits on every machine, while the order of the
additions in a NumPy sum or matrix product depends on the processor. So the same seed gives the
same weights, whatever the number of threads and the SIMD level.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import stableops as so

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    DrawSamples = Callable[[np.random.Generator], tuple[Array, Array]]

__all__ = ["WINDOW", "LeNet", "Momentum", "Step", "accuracy", "train", "weights_digest"]

WINDOW = 12
"""Side of the images that the network sees, in pixels."""


class LeNet:
    """The network of LeCun et al. (1998), for 12x12 images and with rectifiers.

    conv 5x5, 6 channels; 2x2 maximum; conv 5x5, 16 channels; 2x2 maximum; linear 120; linear 84;
    linear `classes`.

    Parameters
    ----------
    classes : int
        Number of outputs.
    rng : numpy.random.Generator
        Source of the initial weights.

    Attributes
    ----------
    parameters : dict of str to ndarray of float32
        Weights and biases by name; an optimiser changes them in place.
    """

    def __init__(self, classes: int, rng: np.random.Generator) -> None:
        self.parameters: dict[str, Array] = {}
        for name, shape in {
            "conv1": (6, 1, 5, 5),
            "conv2": (16, 6, 5, 5),
            "fc1": (120, 16 * 3 * 3),
            "fc2": (84, 120),
            "fc3": (classes, 84),
        }.items():
            # He et al. (2015): variance 2 / fan-in keeps the size of the activations. Uniform,
            # because a normal variate goes through the C library's logarithm.
            bound = np.sqrt(6.0 / np.prod(shape[1:]))
            weight = bound * (2.0 * rng.random(shape) - 1.0)
            self.parameters[name + ".weight"] = weight.astype(np.float32)
            self.parameters[name + ".bias"] = np.zeros(shape[0], dtype=np.float32)
        self._seen: dict[str, Any] = {}

    def forward(self, images: Array) -> Array:
        """Compute the logits of a batch and keep what `backward` needs.

        Parameters
        ----------
        images : ndarray of float32, shape (N, 1, 12, 12)
            Any strides.

        Returns
        -------
        ndarray of float32, shape (N, classes)
        """
        p, seen = self.parameters, self._seen

        seen["images"] = images
        x = seen["relu1"] = so.relu(
            so.conv2d(images, p["conv1.weight"], p["conv1.bias"], padding=2)
        )
        x, seen["winners1"] = so.max_pool2d(x, 2, return_indices=True)
        seen["pool1"] = x
        x = seen["relu2"] = so.relu(so.conv2d(x, p["conv2.weight"], p["conv2.bias"], padding=2))
        x, seen["winners2"] = so.max_pool2d(x, 2, return_indices=True)
        seen["pool2_shape"] = x.shape
        x = seen["flat"] = x.reshape(len(x), -1)
        x = seen["relu3"] = so.relu(so.linear(x, p["fc1.weight"], p["fc1.bias"]))
        x = seen["relu4"] = so.relu(so.linear(x, p["fc2.weight"], p["fc2.bias"]))
        return so.linear(x, p["fc3.weight"], p["fc3.bias"])

    def backward(self, grad: Array) -> dict[str, Array]:
        """Compute the gradient of every parameter for the last batch given to `forward`.

        Parameters
        ----------
        grad : ndarray of float32, shape (N, classes)
            Gradient of the loss with respect to the logits.

        Returns
        -------
        dict of str to ndarray of float32
            With the keys of `parameters`.
        """
        p, seen = self.parameters, self._seen
        grads: dict[str, Array] = {}

        def into(layer: str, *gradients: Array) -> Array:
            grad_input, grads[layer + ".weight"], grads[layer + ".bias"] = gradients
            return grad_input

        grad = into("fc3", *so.linear_backward(grad, seen["relu4"], p["fc3.weight"]))
        grad = so.relu_backward(grad, seen["relu4"])
        grad = into("fc2", *so.linear_backward(grad, seen["relu3"], p["fc2.weight"]))
        grad = so.relu_backward(grad, seen["relu3"])
        grad = into("fc1", *so.linear_backward(grad, seen["flat"], p["fc1.weight"]))
        grad = grad.reshape(seen["pool2_shape"])
        grad = so.max_pool2d_backward(grad, seen["winners2"], seen["relu2"].shape)
        grad = so.relu_backward(grad, seen["relu2"])
        grad = into("conv2", *so.conv2d_backward(grad, seen["pool1"], p["conv2.weight"], padding=2))
        grad = so.max_pool2d_backward(grad, seen["winners1"], seen["relu1"].shape)
        grad = so.relu_backward(grad, seen["relu1"])
        # Nobody needs the gradient of the image itself.
        _, grads["conv1.weight"], grads["conv1.bias"] = so.conv2d_backward(
            grad,
            seen["images"],
            p["conv1.weight"],
            padding=2,
            output_mask=(False, True, True),
        )
        return grads


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
