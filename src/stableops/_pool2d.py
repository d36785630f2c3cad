"""Max, average and adaptive average pooling of images, and their gradients."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

from numpy.typing import ArrayLike

from stableops import _core

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

_IntOrPair = SupportsIndex | Sequence[SupportsIndex]


def max_pool2d(
    input: ArrayLike,
    kernel_size: _IntOrPair,
    stride: _IntOrPair | None = None,
    padding: _IntOrPair = 0,
    dilation: _IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Largest element of each window of an image.

    Parameters
    ----------
    input : array_like
        (N, C, H, W) or (C, H, W); float64, float32, float16, bfloat16, bool or integers up to
        int64. An array whose strides are channels-last gives a result whose strides are.
    kernel_size : int or pair of ints
        Height and width of the window.
    stride : int or pair of ints, optional
        Distance of neighbouring windows; None for `kernel_size`.
    padding : int or pair of ints, optional
        Rows and columns added on each side, at most half of the (dilated) window. Padding never
        wins.
    dilation : int or pair of ints, optional
        Distance of neighbouring elements of a window.
    ceil_mode : bool, optional
        Whether a last window that is only partly inside counts. It must start inside the image or
        the padding before it.
    return_indices : bool, optional
        Whether to return the positions of the maxima too, for :func:`max_pool2d_backward`.

    Returns
    -------
    y : ndarray
        (N, C, out_h, out_w) or (C, out_h, out_w), of the dtype of `input`.
    indices : ndarray of int64
        Only if `return_indices`: h * W + w of each maximum in the unpadded image.

    Raises
    ------
    TypeError
        If a dtype or the type of an argument is not allowed.
    ValueError
        If a size is out of range, or a window does not fit the padded image.

    Notes
    -----
    Exact (0 ULP). NaN wins over everything: a window with NaN gives the first of them. Of equal
    elements the first in row-major order is taken (zeros of either sign are equal), and a window of
    only -inf has the index of its first element.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 7.0, 7.0]]])
    >>> y, indices = stableops.max_pool2d(x, 2, return_indices=True)
    >>> y
    array([[[5., 7.]]])
    >>> indices
    array([[[1, 6]]])
    """
    return _core.max_pool2d(
        input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool2d_backward(
    grad_output: ArrayLike, indices: ArrayLike, input_shape: Sequence[SupportsIndex]
) -> Any:
    """Gradient of :func:`max_pool2d`: errors go to where the maxima were, zero goes elsewhere.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output: (N, C, out_h, out_w) or (C, out_h, out_w).
    indices : array_like of int
        What :func:`max_pool2d` returned; of `grad_output`'s shape.
    input_shape : tuple of ints
        Shape of the input of :func:`max_pool2d`.

    Returns
    -------
    ndarray
        Of shape `input_shape` and the dtype of `grad_output` (float64 for integers).

    Raises
    ------
    IndexError
        If an index lies outside the image; the text names its position and value.
    TypeError
        If a dtype is not allowed.
    ValueError
        If the shapes do not belong together.

    Notes
    -----
    Where windows overlap, the contributions to an element are added in row-major order of the
    windows, each addition rounded: in float64 for float64, else in float32; float16 and bfloat16
    are rounded once more at the end. That is n - 1 roundings for n windows of one maximum.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> grad = np.array([[[10.0, 20.0]]])
    >>> stableops.max_pool2d_backward(grad, np.array([[[1, 6]]]), (1, 2, 4))
    array([[[ 0., 10.,  0.,  0.],
            [ 0.,  0., 20.,  0.]]])
    """
    return _core.max_pool2d_backward(grad_output, indices, input_shape)


def avg_pool2d(
    input: ArrayLike,
    kernel_size: _IntOrPair,
    stride: _IntOrPair | None = None,
    padding: _IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: SupportsIndex | None = None,
) -> Any:
    """Mean of each window of an image.

    Parameters
    ----------
    input : array_like
        (N, C, H, W) or (C, H, W); float64, float32, float16 or bfloat16. Integers and bools become
        float64. An array whose strides are channels-last gives a result whose strides are.
    kernel_size : int or pair of ints
        Height and width of the window.
    stride : int or pair of ints, optional
        Distance of neighbouring windows; None for `kernel_size`.
    padding : int or pair of ints, optional
        Rows and columns of zeros added on each side, at most half of the window.
    ceil_mode : bool, optional
        Whether a last window that is only partly inside counts. It must start inside the image or
        the padding before it.
    count_include_pad : bool, optional
        Whether the divisor counts the elements of the padding. What a window of `ceil_mode` has
        beyond the padding never counts.
    divisor_override : int, optional
        Divisor of every window, whatever the other arguments.

    Returns
    -------
    ndarray
        (N, C, out_h, out_w) or (C, out_h, out_w).

    Raises
    ------
    TypeError
        If a dtype or the type of an argument is not allowed.
    ValueError
        If a size is out of range, or a window does not fit the padded image.

    Notes
    -----
    The error is below 0.51 units in the last place of sum(abs(elements)) / divisor, whatever the
    window's size: float32 is summed in float64, and float64 with its rounding errors carried along;
    float16 and bfloat16 are float32 results rounded once. Columns of a window are added from top to
    bottom, then the column sums from left to right. No sum overflows where the mean does not.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0]]])
    >>> stableops.avg_pool2d(x, 2, ceil_mode=True)
    array([[[1.5, 3.5, 5. ]]])
    """
    return _core.avg_pool2d(
        input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool2d_backward(
    grad_output: ArrayLike,
    input_shape: Sequence[SupportsIndex],
    kernel_size: _IntOrPair,
    stride: _IntOrPair | None = None,
    padding: _IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: SupportsIndex | None = None,
) -> Any:
    """Gradient of :func:`avg_pool2d`: each window spreads its error in equal parts.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output: (N, C, out_h, out_w) or (C, out_h, out_w).
    input_shape : tuple of ints
        Shape of the input of :func:`avg_pool2d`.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override : optional
        As for :func:`avg_pool2d`.

    Returns
    -------
    ndarray
        Of shape `input_shape` and the dtype of `grad_output` (float64 for integers).

    Raises
    ------
    TypeError
        If a dtype or the type of an argument is not allowed.
    ValueError
        If an argument is out of range, or the shapes do not belong together.

    Notes
    -----
    The error is below 0.51 units in the last place of the sum of the absolute contributions (and
    0.51 of the smallest subnormal for each of them). Those of one column of windows are added from
    top to bottom, then the column sums from left to right.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> grad = np.array([[[4.0, 8.0]]])
    >>> stableops.avg_pool2d_backward(grad, (1, 2, 4), 2)
    array([[[1., 1., 2., 2.],
            [1., 1., 2., 2.]]])
    """
    return _core.avg_pool2d_backward(
        grad_output,
        input_shape,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def adaptive_avg_pool2d(
    input: ArrayLike, output_size: SupportsIndex | Sequence[SupportsIndex | None] | None
) -> Any:
    """Means of a grid of windows that covers an image, however large it is.

    Row i of the result is the mean over the rows floor(i * H / out_h) to ceil((i + 1) * H / out_h)
    of the image, and columns likewise, so windows overlap where sizes do not divide.

    Parameters
    ----------
    input : array_like
        (N, C, H, W) or (C, H, W); float64, float32, float16 or bfloat16. Integers and bools become
        float64. An array whose strides are channels-last gives a result whose strides are.
    output_size : int, None, or pair of these
        Height and width of the result; None keeps the image's.

    Returns
    -------
    ndarray
        (N, C, out_h, out_w) or (C, out_h, out_w).

    Raises
    ------
    TypeError
        If a dtype or the type of an argument is not allowed.
    ValueError
        If the image has no elements or `output_size` is negative.

    Notes
    -----
    Accuracy and order of additions are those of :func:`avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.adaptive_avg_pool2d(np.arange(10.0).reshape(1, 2, 5), (1, 2))
    array([[[3.5, 5.5]]])
    """
    return _core.adaptive_avg_pool2d(input, output_size)


def adaptive_avg_pool2d_backward(
    grad_output: ArrayLike, input_shape: Sequence[SupportsIndex]
) -> Any:
    """Gradient of :func:`adaptive_avg_pool2d`: each window spreads its error in equal parts.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output: (N, C, out_h, out_w) or (C, out_h, out_w).
    input_shape : tuple of ints
        Shape of the input of :func:`adaptive_avg_pool2d`.

    Returns
    -------
    ndarray
        Of shape `input_shape` and the dtype of `grad_output` (float64 for integers).

    Raises
    ------
    TypeError
        If a dtype or the type of an argument is not allowed.
    ValueError
        If the shapes do not belong together.

    Notes
    -----
    Accuracy and order of additions are those of :func:`avg_pool2d_backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.adaptive_avg_pool2d_backward(np.array([[[6.0]]]), (1, 2, 3))
    array([[[1., 1., 1.],
            [1., 1., 1.]]])
    """
    return _core.adaptive_avg_pool2d_backward(grad_output, input_shape)
