"""Layers that convolve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

import stableops as F
from stableops import _core
from stableops.nn._module import Array, Module, Window

if TYPE_CHECKING:
    from stableops._conv2d import Padding, Pair

__all__ = ["Conv2d", "ConvTranspose2d", "he_uniform", "pair"]


def pair(value: Any) -> tuple[int, int]:
    """Both numbers of an int or a pair."""
    if isinstance(value, int | np.integer):
        return int(value), int(value)
    return value[0], value[1]


def he_uniform(weight: Array, fan_in: int, rng: np.random.Generator) -> None:
    """Fill with uniform numbers of variance 2 / fan-in, which keeps the size of activations.

    He et al., "Delving deep into rectifiers", 2015. Uniform, because a normal variate goes through
    the C library's logarithm, which is not the same everywhere.
    """
    bound = np.float32(math.sqrt(6.0 / fan_in))
    values = rng.random(weight.shape, dtype=np.float32)
    values -= np.float32(0.5)
    values *= 2 * bound
    weight[...] = values


class Conv2d(Module):
    """2-D convolution, :func:`stableops.conv2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input; number of filters.
    kernel_size : int or pair of ints
        Height and width of the filters.
    stride, padding, dilation, groups
        As in :func:`stableops.conv2d`.
    bias : bool
        Whether a number is added to each output channel.
    table : array_like of bool, shape (out_channels, in_channels), optional
        Which filter sees which channel, as C3 of LeNet-5; all weights elsewhere are and stay 0.

    Attributes
    ----------
    weight : ndarray, shape (out_channels, in_channels / groups, height, width)
        Zero until `initialize` or `load_state_dict`.
    bias : ndarray, shape (out_channels,), or None
        Likewise.

    Raises
    ------
    ValueError
        If `groups` does not divide both numbers of channels, or a size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> conv = nn.Conv2d(3, 16, 5, stride=2, padding=2).initialize(np.random.default_rng(0))
    >>> conv(np.ones((1, 3, 32, 32), np.float32)).shape
    (1, 16, 16, 16)
    """

    parameter_names = ("weight", "bias")
    fresh_output = True
    rectify = False  # compile sets it where a rectifier follows, which then is part of this layer

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        table: Any = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            msg = f"groups = {groups} does not divide {in_channels} and {out_channels} channels"
            raise ValueError(msg)
        self.kernel_size = pair(kernel_size)
        self.settings: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }
        self.weight = _zeros(out_channels, in_channels // groups, *self.kernel_size)
        self.bias = _zeros(out_channels) if bias else None
        self.table = None if table is None else np.asarray(table, bool)
        if self.table is not None and self.table.shape != self.weight.shape[:2]:
            msg = f"table has shape {self.table.shape} instead of {self.weight.shape[:2]}"
            raise ValueError(msg)

    def forward(
        self, x: Array, out: Array | None = None, add: bool = False, rectify: bool = False
    ) -> Array:
        """Compute the output.

        Parameters
        ----------
        x : ndarray
            Images.
        out : ndarray, optional
            Where to write them.
        add : bool
            Whether they are added to what `out` holds.
        rectify : bool
            Whether that is rectified at the end.

        Returns
        -------
        ndarray
        """
        weight: Any = self.weight
        last = False
        if self.is_compiled and not self.training and x.dtype == weight.dtype:
            if self._packed is None:
                self.prepare()
            weight = self._packed
            # The same bits, sooner in the layers behind.
            last = x.ndim == 4 and x.shape[1] > 1
        rectify = rectify or self.rectify
        stride, padding, dilation, groups = self.settings.values()
        y: Array = _core.conv2d(
            x, weight, self.bias, stride, padding, dilation, groups, out, add, rectify, last
        )
        self.keep((x, y if self.rectify else None))
        return y

    def prepare(self) -> None:
        self._packed = F.pack_conv2d_weight(self.weight, self.settings["groups"])

    def backward(self, grad_output: Array) -> Any:
        x, y = self.kept()
        if self.rectify:
            grad_output = F.relu_backward(grad_output, y)
        wanted = (self.needs_input_gradient, True, self.bias is not None)
        grad, *gradients = F.conv2d_backward(
            grad_output, x, self.weight, **self.settings, output_mask=wanted
        )
        if self.table is not None:
            gradients[0] *= self.table[:, :, None, None]
        self.store_gradients(*gradients)
        return grad

    def initialize_parameters(self, rng: np.random.Generator) -> None:
        he_uniform(self.weight, self.weight[0].size, rng)
        if self.bias is not None:
            self.bias[...] = 0

    def parameters_changed(self) -> None:
        super().parameters_changed()
        if self.table is not None:
            self.weight *= self.table[:, :, None, None]

    def window(self) -> Window:
        (height, width), (down, right) = self.kernel_size, pair(self.settings["dilation"])
        rows, columns = pair(self.settings["stride"])
        return (down * (height - 1) + 1, right * (width - 1) + 1), (rows, columns)

    def cost(self, output_shape: tuple[int, ...]) -> tuple[int, int]:
        places = output_shape[-2] * output_shape[-1]
        weights = super().learnable() if self.table is None else self.learnable()
        biases = 0 if self.bias is None else self.bias.size
        return places * weights, places * (weights - biases)

    def learnable(self) -> int:
        if self.table is None:
            return super().learnable()
        biases = 0 if self.bias is None else self.bias.size
        return int(self.table.sum()) * math.prod(self.kernel_size) + biases


class ConvTranspose2d(Module):
    """Transposed convolution, :func:`stableops.conv_transpose2d`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or pair of ints
        Height and width of the filters.
    stride, padding, output_padding, groups, dilation
        As in :func:`stableops.conv_transpose2d`.
    bias : bool
        Whether a number is added to each output channel.

    Attributes
    ----------
    weight : ndarray, shape (in_channels, out_channels / groups, height, width)
        Zero until `initialize` or `load_state_dict`.
    bias : ndarray, shape (out_channels,), or None
        Likewise.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.ConvTranspose2d(8, 4, 2, stride=2)(np.ones((1, 8, 5, 5), np.float32)).shape
    (1, 4, 10, 10)
    """

    parameter_names = ("weight", "bias")
    fresh_output = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            msg = f"groups = {groups} does not divide {in_channels} and {out_channels} channels"
            raise ValueError(msg)
        self.kernel_size = pair(kernel_size)
        self.settings: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "groups": groups,
            "dilation": dilation,
        }
        self.weight = _zeros(in_channels, out_channels // groups, *self.kernel_size)
        self.bias = _zeros(out_channels) if bias else None

    def forward(self, x: Array) -> Array:
        self.keep(x)
        y: Array = F.conv_transpose2d(x, self.weight, self.bias, **self.settings)
        return y

    def backward(self, grad_output: Array) -> Any:
        wanted = (self.needs_input_gradient, True, self.bias is not None)
        grad, *gradients = F.conv_transpose2d_backward(
            grad_output, self.kept(), self.weight, **self.settings, output_mask=wanted
        )
        self.store_gradients(*gradients)
        return grad

    def initialize_parameters(self, rng: np.random.Generator) -> None:
        # An output is the sum over the input channels of a group and, for each, the taps that the
        # stride leaves.
        taps = math.prod(self.kernel_size) / math.prod(pair(self.settings["stride"]))
        fan_in = self.weight.shape[0] // self.settings["groups"] * max(1.0, taps)
        he_uniform(self.weight, round(fan_in), rng)
        if self.bias is not None:
            self.bias[...] = 0

    def window(self) -> Window:
        rows, columns = pair(self.settings["stride"])
        seen = math.ceil(self.kernel_size[0] / rows), math.ceil(self.kernel_size[1] / columns)
        return seen, (1 / rows, 1 / columns)

    def cost(self, output_shape: tuple[int, ...]) -> tuple[int, int]:
        rows, columns = pair(self.settings["stride"])
        places = output_shape[-2] * output_shape[-1]
        macs = places * self.weight.size // (rows * columns)
        biases = 0 if self.bias is None else places * self.bias.size
        return macs + biases, macs


def _zeros(*shape: int) -> Array:
    if min(shape) < 1:
        msg = f"channels and kernel sizes must be positive, not {shape}"
        raise ValueError(msg)
    return np.zeros(shape, np.float32)
