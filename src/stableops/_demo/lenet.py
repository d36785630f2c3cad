"""A LeNet, forward and backward, with stableops' functions alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import stableops as so

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["WINDOW", "LeNet"]

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
        logits: Array = so.linear(x, p["fc3.weight"], p["fc3.bias"])
        return logits

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
            grad, seen["images"], p["conv1.weight"], padding=2, output_mask=(False, True, True)
        )
        return grads
