"""Dense layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import stableops as F
from stableops import _core
from stableops.nn._convolution import he_uniform
from stableops.nn._module import Array, Module

__all__ = ["Flatten", "Linear"]


class Linear(Module):
    """Dense layer, :func:`stableops.linear`.

    Parameters
    ----------
    in_features, out_features : int
        Numbers in, numbers out.
    bias : bool
        Whether a number is added to each output.

    Attributes
    ----------
    weight : ndarray, shape (out_features, in_features)
        Zero until `initialize` or `load_state_dict`.
    bias : ndarray, shape (out_features,), or None
        Likewise.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.Linear(4, 2)(np.ones((3, 4), np.float32)).shape
    (3, 2)
    """

    parameter_names = ("weight", "bias")
    fresh_output = True
    rectify = False  # compile sets it where a rectifier follows, which then is part of this layer

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            msg = f"features must be positive, not {in_features} and {out_features}"
            raise ValueError(msg)
        self.weight = np.zeros((out_features, in_features), np.float32)
        self.bias = np.zeros(out_features, np.float32) if bias else None

    def forward(self, x: Array) -> Array:
        y: Array = _core.linear(x, self.weight, self.bias, self.rectify)
        self.keep((x, y if self.rectify else None))
        return y

    def backward(self, grad_output: Array) -> Any:
        x, y = self.kept()
        if self.rectify:
            grad_output = F.relu_backward(grad_output, y)
        wanted = (self.needs_input_gradient, True, self.bias is not None)
        grad, *gradients = F.linear_backward(grad_output, x, self.weight, output_mask=wanted)
        self.store_gradients(*gradients)
        return grad

    def initialize_parameters(self, rng: np.random.Generator) -> None:
        he_uniform(self.weight, self.weight.shape[1], rng)
        if self.bias is not None:
            self.bias[...] = 0

    def window(self) -> None:
        return None

    def cost(self, output_shape: tuple[int, ...]) -> tuple[int, int]:
        times = int(np.prod(output_shape[1:-1]))
        return times * self.learnable(), times * self.weight.size


class Flatten(Module):
    """All axes but the first as one.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.Flatten()(np.ones((2, 3, 4, 5))).shape
    (2, 60)
    """

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, grad_output: Array) -> Any:
        return grad_output.reshape(self.kept())
