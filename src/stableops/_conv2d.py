"""2-D convolution and its gradients."""

import copyreg
from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = [
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "pack_conv2d_weight",
]

Pair = int | tuple[int, int]
Padding = Pair | tuple[tuple[int, int], tuple[int, int]] | Literal["valid", "same"]


def conv2d(
    input: ArrayLike,
    weight: ArrayLike | _core.PackedWeight,
    bias: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    out: NDArray[Any] | None = None,
) -> Any:
    """2-D convolution (cross-correlation) of images with a bank of filters.

    ``y[n, k, i, j] = bias[k] + sum over c, r, s of weight[k, c, r, s] *
    x[n, c, i * stride - top + r * dilation, j * stride - left + s * dilation]``

    Parameters
    ----------
    input : array_like
        Images (N, C, H, W), or one image (C, H, W). Any strides; if channels vary fastest in memory
        (channels-last), they do in the result.
    weight : array_like or packed weight
        Filters (K, C / groups, R, S), or what :func:`pack_conv2d_weight` made of them.
    bias : array_like, optional
        One number a filter, (K,).
    stride : int or pair of int
        Step between outputs, at least 1.
    padding : int, pair, pair of pairs, "valid" or "same"
        Zeros around the image: on all sides, (rows, columns), or ((top, bottom), (left, right)).
        "valid" is none; "same" gives ceil(H / stride) x ceil(W / stride) outputs, an odd row or
        column of zeros at the end.
    dilation : int or pair of int
        Distance between the taps of a filter, at least 1.
    groups : int
        Number of groups that channels and filters are divided into, in order; filters see the
        channels of their group only. With groups = C it is a depthwise convolution.
    out : ndarray, optional
        Where the result goes: of exactly its shape and dtype; may overlap the inputs.

    Returns
    -------
    ndarray
        (N, K, OH, OW), or (K, OH, OW) for one image, in the inputs' common dtype. float16 and
        bfloat16 are computed in float32 and rounded once.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no int; if a packed weight is
        not of the inputs' common dtype.
    ValueError
        If shapes do not fit each other, `groups`, or `out`; if the kernel is larger than the padded
        image; if a setting is out of range.

    Notes
    -----
    Each output is the sum of its terms in the order (c, r, s), in chains of 128 fused
    multiply-additions whose results are added in order, and then the bias: the same bits for any
    batch, layout, number of threads and SIMD level. The error is at most
    (128 + T / 128) eps sum |terms| for T terms.

    Zero padding is data: an infinite weight over padding gives NaN, as it does after
    :func:`numpy.pad`.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> image = np.arange(16.0).reshape(1, 4, 4)
    >>> edge = np.array([[[[-1.0, 1.0]]]])
    >>> stableops.conv2d(image, edge)[0]
    array([[1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.]])
    >>> stableops.conv2d(image, edge, stride=2, padding="same").shape
    (1, 2, 2)
    """
    plain = False, False, False
    return _core.conv2d(input, weight, bias, stride, padding, dilation, groups, out, *plain)


def conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    *,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of :func:`conv2d` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, weight : array_like
        As given to :func:`conv2d`.
    stride, padding, dilation, groups : int, pair or str
        As given to :func:`conv2d`.
    output_mask : three bools
        Which gradients are wanted; the others are None and cost nothing.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no int.
    ValueError
        As :func:`conv2d`, or if `grad_output` is not of the result's shape.

    Notes
    -----
    The sums have one order each, whatever the layout, threads and SIMD level. `grad_input` adds
    (k, r, s) as :func:`conv2d` adds (c, r, s), over the outputs that exist. `grad_weight` adds the
    pixels (n, i, j), in chains of 128, inside segments of 4096 pixels that are added in order; its
    padding is data, as in :func:`conv2d`. `grad_bias` is summed in float64 and rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x, w = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    >>> gx, gw, gb = stableops.conv2d_backward(np.ones((1, 1, 2, 2)), x, w)
    >>> gx[0, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    >>> gw[0, 0]
    array([[4., 4.],
           [4., 4.]])
    >>> gb
    array([4.])
    """
    return _core.conv2d_backward(
        grad_output, input, weight, stride, padding, dilation, groups, output_mask
    )


def pack_conv2d_weight(weight: ArrayLike, groups: int = 1) -> _core.PackedWeight:
    """The weight of a convolution in the order in which :func:`conv2d` reads it.

    For weights that are used again and again: `conv2d` then packs nothing, which saves up to a
    quarter of the time where images are small and filters many.

    Parameters
    ----------
    weight : array_like
        Filters (K, C / groups, R, S), which are copied.
    groups : int
        As will be given to :func:`conv2d`.

    Returns
    -------
    packed weight
        An object that never changes, for `conv2d`'s `weight`; with the attributes `shape`, `dtype`,
        `groups` and `nbytes`. It is the same at every SIMD level, and can be pickled.

    Raises
    ------
    TypeError
        If the dtype is not allowed.
    ValueError
        If the shape is not allowed, or K is no multiple of `groups`.

    Notes
    -----
    The results are those of the call with the array, to the last bit. float16 and bfloat16 are kept
    in float32, and K is rounded up to a multiple of 32 (16 for float64) in every group.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> packed = stableops.pack_conv2d_weight(np.ones((16, 3, 5, 5), np.float32))
    >>> packed
    <packed weight of shape (16, 3, 5, 5), groups 1, float32>
    >>> stableops.conv2d(np.ones((1, 3, 8, 8), np.float32), packed)[0, 0, 0]
    array([75., 75., 75., 75.], dtype=float32)
    """
    return _core.pack_conv2d_weight(weight, groups)


def _packed_weight(*state: Any) -> _core.PackedWeight:
    return _core.packed_weight_of(state)


# For pickles and copies, also of the packed weights of linear layers.
copyreg.pickle(_core.PackedWeight, lambda packed: (_packed_weight, packed.state))


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Any:
    """Transposed 2-D convolution: the adjoint of :func:`conv2d`, plus a bias.

    ``y[n, k, i, j] = bias[k] + sum over c, r, s of weight[c, k, r, s] * x[n, c, p, q]`` where
    ``i = p * stride - padding + r * dilation`` and j alike.

    Parameters
    ----------
    input : array_like
        Images (N, C, H, W), or one image (C, H, W). Any strides; if channels vary fastest in memory
        (channels-last), they do in the result.
    weight : array_like
        Filters (C, K / groups, R, S), as :func:`conv2d` takes them from K to C channels.
    bias : array_like, optional
        One number a channel of the result, (K,).
    stride : int or pair of int
        Distance between the places where neighbouring inputs put the filter, at least 1.
    padding : int or pair of int
        Rows and columns that are cut off on all sides.
    output_padding : int or pair of int
        Rows and columns that the result has more at the end; less than `stride` or `dilation`.
    groups : int
        Number of groups that channels and filters are divided into, in order.
    dilation : int or pair of int
        Distance between the taps of a filter, at least 1.

    Returns
    -------
    ndarray
        (N, K, OH, OW), or (K, OH, OW) for one image, with
        OH = (H - 1) * stride - 2 * padding + dilation * (R - 1) + output_padding + 1.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no int.
    ValueError
        If shapes do not fit each other or `groups`; if the result would have no rows or columns; if
        a setting is out of range.

    Notes
    -----
    Order of terms, error and reproducibility as the gradient of :func:`conv2d` with respect to its
    input, which this is; the bias comes last. No zero is ever inserted between the inputs.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> image = np.array([[[1.0, 2.0]]])
    >>> stableops.conv_transpose2d(image, np.ones((1, 1, 1, 3)), stride=2)
    array([[[1., 1., 3., 2., 2.]]])
    """
    return _core.conv_transpose2d(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
    *,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of :func:`conv_transpose2d` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, weight : array_like
        As given to :func:`conv_transpose2d`.
    stride, padding, output_padding, groups, dilation : int or pair of int
        As given to :func:`conv_transpose2d`.
    output_mask : three bools
        Which gradients are wanted; the others are None and cost nothing.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no int.
    ValueError
        As :func:`conv_transpose2d`, or if `grad_output` is not of the result's shape.

    Notes
    -----
    `grad_input` is :func:`conv2d` of `grad_output`; `grad_weight` and `grad_bias` are summed as
    :func:`conv2d_backward` sums them.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x, w, g = np.ones((1, 1, 2)), np.ones((1, 1, 1, 3)), np.arange(5.0).reshape(1, 1, 5)
    >>> gx, gw, gb = stableops.conv_transpose2d_backward(g, x, w, stride=2)
    >>> gx, gw.ravel(), gb
    (array([[[3., 9.]]]), array([2., 4., 6.]), array([10.]))
    """
    return _core.conv_transpose2d_backward(
        grad_output, input, weight, stride, padding, output_padding, groups, dilation, output_mask
    )
