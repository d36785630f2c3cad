"""Layers that normalise."""

from __future__ import annotations

from typing import Any

import numpy as np

import stableops as F
from stableops import _core
from stableops.nn._module import Array, Module, check_number

__all__ = ["BatchNorm2d", "GroupNorm", "LayerNorm", "LocalResponseNorm"]


class Norm(Module):
    """What the normalisations with a factor and a shift have in common."""

    parameter_names = ("weight", "bias")
    fresh_output = True

    def __init__(self, shape: Any, eps: float, affine: bool) -> None:
        super().__init__()
        check_number(eps=eps)
        if not eps >= 0:
            msg = f"eps must not be negative, it is {eps}"
            raise ValueError(msg)
        self.eps = eps
        self.weight = np.ones(shape, np.float32) if affine else None
        self.bias = np.zeros(shape, np.float32) if affine else None

    def initialize_parameters(self, rng: np.random.Generator) -> None:  # noqa: ARG002
        if self.weight is not None and self.bias is not None:
            self.weight[...] = 1
            self.bias[...] = 0


class BatchNorm2d(Norm):
    """Batch normalisation of images, :func:`stableops.batch_norm` (Ioffe and Szegedy 2015).

    In training it uses the mean and the variance of the batch and keeps running ones, which it uses
    in prediction.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
        Added to the variance; not negative.
    momentum : float or None
        Weight of the batch in the running statistics; None for their plain average.
    affine : bool
        Whether there are a learned factor and shift.

    Attributes
    ----------
    weight, bias : ndarray, shape (num_features,), or None
        Factor and shift.
    running_mean, running_var : ndarray, shape (num_features,)
        Running statistics.
    num_batches_tracked : ndarray of int64, shape ()
        Batches seen in training.

    Raises
    ------
    ValueError
        If `eps` is negative; in training, if there is one value a channel.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> norm = nn.BatchNorm2d(1, eps=0)
    >>> norm(np.array([[[[1.0, 3.0]]]]))
    array([[[[-1.,  1.]]]])
    >>> norm.running_mean
    array([0.2], dtype=float32)
    """

    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    rectify = False  # compile sets it where a rectifier follows; in prediction only

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__(num_features, eps, affine)
        if momentum is not None:
            check_number(momentum=momentum)
        self.momentum = momentum
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.num_batches_tracked = np.zeros((), np.int64)

    def forward(self, x: Array) -> Array:
        y: Array
        if not self.training:
            statistics = self.running_mean, self.running_var
            y = _core.batch_norm(
                x, *statistics, self.weight, self.bias, False, 0.1, self.eps, False, self.rectify
            )
            return y
        batches = int(self.num_batches_tracked) + 1
        momentum = 1 / batches if self.momentum is None else self.momentum
        y, mean, rstd = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=momentum,
            eps=self.eps,
            return_stats=True,
        )
        self.num_batches_tracked[...] = batches
        self.keep((x, mean, rstd))
        return y

    def backward(self, grad_output: Array) -> Any:
        x, mean, rstd = self.kept()
        grad, *gradients = F.batch_norm_backward(grad_output, x, self.weight, mean, rstd)
        self.store_gradients(*gradients)
        return grad

    def again(self) -> Array:
        """Compute the output of the last `forward` in training mode again, the same bits."""
        x, mean, rstd = self.kept()
        self.keep((x, mean, rstd))
        y: Array = F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return y

    def initialize_parameters(self, rng: np.random.Generator) -> None:
        super().initialize_parameters(rng)
        self.running_mean[...] = 0
        self.running_var[...] = 1
        self.num_batches_tracked[...] = 0


class LayerNorm(Norm):
    """Normalisation over the last axes of each sample, :func:`stableops.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or tuple of ints
        Shape of the axes that are normalised together.
    eps : float
        Added to the variance; not negative.
    elementwise_affine : bool
        Whether there are a learned factor and shift for each element.

    Attributes
    ----------
    weight, bias : ndarray, shape normalized_shape, or None
        Factor and shift.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.LayerNorm(2, eps=0)(np.array([[1.0, 3.0]]))
    array([[-1.,  1.]])
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine)
        self.normalized_shape = normalized_shape

    def forward(self, x: Array) -> Array:
        y: Array
        y, mean, rstd = F.layer_norm(
            x, self.normalized_shape, self.weight, self.bias, self.eps, return_stats=True
        )
        self.keep((x, mean, rstd))
        return y

    def backward(self, grad_output: Array) -> Any:
        x, mean, rstd = self.kept()
        grad, *gradients = F.layer_norm_backward(
            grad_output, x, self.normalized_shape, self.weight, mean, rstd
        )
        self.store_gradients(*gradients)
        return grad


class GroupNorm(Norm):
    """Normalisation of groups of channels of each sample, :func:`stableops.group_norm`.

    Parameters
    ----------
    num_groups, num_channels : int
        Groups, which must divide the channels.
    eps : float
        Added to the variance; not negative.
    affine : bool
        Whether there are a learned factor and shift for each channel.

    Attributes
    ----------
    weight, bias : ndarray, shape (num_channels,), or None
        Factor and shift.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.GroupNorm(1, 2, eps=0)(np.array([[[[1.0]], [[3.0]]]]))[0, :, 0, 0]
    array([-1.,  1.])
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__(num_channels, eps, affine)
        if num_groups < 1 or num_channels % num_groups:
            msg = f"num_groups = {num_groups} does not divide {num_channels} channels"
            raise ValueError(msg)
        self.num_groups = num_groups

    def forward(self, x: Array) -> Array:
        y: Array
        y, mean, rstd = F.group_norm(
            x, self.num_groups, self.weight, self.bias, self.eps, return_stats=True
        )
        self.keep((x, mean, rstd))
        return y

    def backward(self, grad_output: Array) -> Any:
        x, mean, rstd = self.kept()
        grad, *gradients = F.group_norm_backward(
            grad_output, x, self.num_groups, self.weight, mean, rstd
        )
        self.store_gradients(*gradients)
        return grad


class LocalResponseNorm(Module):
    """Normalisation over neighbouring channels, :func:`stableops.local_response_norm`.

    Parameters
    ----------
    size, alpha, beta, k
        As in :func:`stableops.local_response_norm` (Krizhevsky et al. 2012).

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.LocalResponseNorm(1, alpha=3.0, beta=0.5)(np.ones((1, 1, 1, 1)))
    array([[[[0.5]]]])
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"size": size, "alpha": alpha, "beta": beta, "k": k}

    def forward(self, x: Array) -> Array:
        self.keep(x)
        y: Array = F.local_response_norm(x, **self.settings)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.local_response_norm_backward(grad_output, self.kept(), **self.settings)
