"""Layers that make images smaller or larger."""

from __future__ import annotations

import operator
from typing import Any, Literal

import stableops as F
from stableops.nn._convolution import pair
from stableops.nn._module import Array, Module, Window

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d", "MaxPool2d", "Upsample"]


def _check_sizes(**sizes: Any) -> None:
    for name, value in sizes.items():
        try:
            fits = all(operator.index(size) >= 1 for size in pair(value))
        except (TypeError, IndexError):
            fits = False
        if not fits:
            msg = f"{name}={value!r} is not allowed; it must be an int or a pair of ints above 0"
            raise ValueError(msg)


class MaxPool2d(Module):
    """Largest element of each window, :func:`stableops.max_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in :func:`stableops.max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.MaxPool2d(3, stride=2, ceil_mode=True)(np.ones((1, 1, 8, 8))).shape
    (1, 1, 4, 4)
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        _check_sizes(kernel_size=kernel_size, stride=stride, dilation=dilation)
        self.settings: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "ceil_mode": ceil_mode,
        }

    def forward(self, x: Array) -> Array:
        y: Array
        if not self.training:
            y = F.max_pool2d(x, **self.settings)
            return y
        y, indices = F.max_pool2d(x, **self.settings, return_indices=True)
        self.keep((indices, x.shape))
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.max_pool2d_backward(grad_output, *self.kept())

    def window(self) -> Window:
        (height, width) = pair(self.settings["kernel_size"])
        (down, right) = pair(self.settings["dilation"])
        seen = down * (height - 1) + 1, right * (width - 1) + 1
        return seen, pair(self.settings["stride"])


class AvgPool2d(Module):
    """Mean of each window, :func:`stableops.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As in :func:`stableops.avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.AvgPool2d(2)(np.arange(4.0).reshape(1, 1, 2, 2))
    array([[[[1.5]]]])
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        _check_sizes(kernel_size=kernel_size, stride=stride)
        self.settings: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
        }

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        y: Array = F.avg_pool2d(x, **self.settings)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.avg_pool2d_backward(grad_output, self.kept(), **self.settings)

    def window(self) -> Window:
        return pair(self.settings["kernel_size"]), pair(self.settings["stride"])


class AdaptiveAvgPool2d(Module):
    """Means of as many windows as asked for, :func:`stableops.adaptive_avg_pool2d`.

    Parameters
    ----------
    output_size : int or pair of ints
        Rows and columns of the result; 1 for the mean of each channel.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.AdaptiveAvgPool2d(1)(np.arange(4.0).reshape(1, 1, 2, 2))
    array([[[[1.5]]]])
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        y: Array = F.adaptive_avg_pool2d(x, self.output_size)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.adaptive_avg_pool2d_backward(grad_output, self.kept())

    def window(self) -> None:
        return None


class Upsample(Module):
    """Larger images, :func:`stableops.interpolate`.

    Parameters
    ----------
    size, scale_factor, mode, align_corners
        As in :func:`stableops.interpolate`.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> nn.Upsample(scale_factor=2)(np.ones((1, 1, 2, 3))).shape
    (1, 1, 4, 6)
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: Literal["nearest", "bilinear"] = "nearest",
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor = size, scale_factor
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Array) -> Array:
        self.keep(x.shape)
        y: Array = F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)
        return y

    def backward(self, grad_output: Array) -> Any:
        return F.interpolate_backward(
            grad_output,
            self.kept(),
            self.mode,
            self.align_corners,
            scale_factor=self.scale_factor,
        )

    def window(self) -> Window | None:
        if self.scale_factor is None:
            return None
        scale = self.scale_factor
        rows, columns = (scale, scale) if isinstance(scale, int | float) else scale
        seen = 2 if self.mode == "bilinear" else 1
        return (seen, seen), (1 / rows, 1 / columns)
