"""Layers that act on each element."""

from __future__ import annotations

from typing import Any

import numpy as np

import stableops as F
from stableops.nn._module import Array, Module, check_number

__all__ = ["Dropout", "LeakyReLU", "PReLU", "ReLU", "ReLU6", "Sigmoid"]


class ReLU(Module):
    """Rectifier, :func:`stableops.relu`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    # compile sets them: nobody else needs the input; in prediction the layer before rectifies.
    in_place = done_before = False

    def forward(self, x: Array) -> Array:
        if self.done_before and not self.training:
            return x
        y: Array = F.relu(x, out=x if self.in_place else None)
        self.keep(y)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.relu_backward(grad_output, self.kept())


class ReLU6(Module):
    """Rectifier that ends at 6: min(max(x, 0), 6).

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.ReLU6()(np.array([-1.0, 2.0, 7.0]))
    array([0., 2., 6.])
    """

    def forward(self, x: Array) -> Array:
        y = np.clip(x, x.dtype.type(0), x.dtype.type(6))
        self.keep(y)
        return y

    def backward(self, grad_output: Array) -> Any:
        y = self.kept()
        return grad_output * ((y > 0) & (y < 6))


class LeakyReLU(Module):
    """Rectifier with a slope below zero, :func:`stableops.leaky_relu`.

    Parameters
    ----------
    negative_slope : float
        Slope for x < 0.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.LeakyReLU(0.5)(np.array([-1.0, 2.0]))
    array([-0.5,  2. ])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Array) -> Array:
        self.keep(x)
        y: Array = F.leaky_relu(x, self.negative_slope)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.leaky_relu_backward(grad_output, self.kept(), self.negative_slope)


class PReLU(Module):
    """Rectifier with a learned slope below zero, :func:`stableops.prelu` (He et al. 2015).

    Parameters
    ----------
    num_parameters : int
        1 for one slope, or the number of channels.
    init : float
        Slope before training.

    Attributes
    ----------
    weight : ndarray, shape (num_parameters,)
        The slopes.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.PReLU()(np.array([[-1.0, 2.0]], np.float32))
    array([[-0.25,  2.  ]], dtype=float32)
    """

    parameter_names = ("weight",)

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.init = init
        self.weight = np.full(num_parameters, init, np.float32)

    def forward(self, x: Array) -> Array:
        self.keep(x)
        y: Array = F.prelu(x, self.weight)
        return y

    def backward(self, grad_output: Array) -> Any:
        grad, grad_weight = F.prelu_backward(grad_output, self.kept(), self.weight)
        self.store_gradients(grad_weight)
        return grad

    def initialize_parameters(self, rng: np.random.Generator) -> None:  # noqa: ARG002
        self.weight[...] = self.init


class Sigmoid(Module):
    """Logistic function, :func:`stableops.sigmoid`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.Sigmoid()(np.zeros(1))
    array([0.5])
    """

    def forward(self, x: Array) -> Array:
        y: Array = F.sigmoid(x)
        self.keep(y)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.sigmoid_backward(grad_output, self.kept())


class Dropout(Module):
    """Leave out elements at random in training, :func:`stableops.dropout`.

    Parameters
    ----------
    p : float
        Probability of leaving an element out, 0 to 1.
    rng : numpy.random.Generator, optional
        Source of the masks; `Module.initialize` sets it too.

    Raises
    ------
    ValueError
        If `p` is not a probability; in training, if there is no `rng`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.Dropout(0.5).eval()(np.ones(3))
    array([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        check_number(p=p)
        if not 0 <= p <= 1:
            msg = f"p = {p} is no probability between 0 and 1"
            raise ValueError(msg)
        self.p, self.rng = p, rng

    def forward(self, x: Array) -> Array:
        if not self.training:
            return x
        if self.rng is None:
            msg = "dropout needs a generator: Dropout(p, rng=...) or net.initialize(rng)"
            raise ValueError(msg)
        y: Array
        y, mask = F.dropout(x, self.p, True, rng=self.rng, return_mask=True)
        self.keep(mask)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.dropout_backward(grad_output, self.kept(), self.p)

    def initialize_parameters(self, rng: np.random.Generator) -> None:
        self.rng = rng
