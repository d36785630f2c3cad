"""Linear layers and their gradients."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from stableops import _core

__all__ = ["linear", "linear_backward", "pack_linear_weight"]


def linear(
    input: ArrayLike, weight: ArrayLike | _core.PackedWeight, bias: ArrayLike | None = None
) -> Any:
    """Linear layer, ``input @ weight.T + bias``.

    Parameters
    ----------
    input : array_like
        (..., in_features), any number of leading axes.
    weight : array_like or packed weight
        (out_features, in_features), or what :func:`pack_linear_weight` made of it.
    bias : array_like, optional
        (out_features,).

    Returns
    -------
    ndarray
        (..., out_features), in the inputs' common dtype. float16 and bfloat16 are computed in
        float32 and rounded once.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed; if a packed weight is not of the inputs' common
        dtype.
    ValueError
        If the shapes do not fit each other.

    Notes
    -----
    Each output is the sum of its terms in the order of the features, in chains of 128 fused
    multiply-additions whose results are added in order, and then the bias: a row has the same bits
    whatever rows stand beside it. The error is at most (128 + T / 128) eps sum |terms| for
    T features.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.linear([[1.0, 2.0]], [[1.0, 1.0], [3.0, -1.0]], [0.5, 0.0])
    array([[3.5, 1. ]])
    """
    return _core.linear(input, weight, bias, False)


def linear_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    *,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of :func:`linear` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, weight : array_like
        As given to :func:`linear`.
    output_mask : three bools
        Which gradients are wanted; the others are None and cost nothing.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes do not fit each other.

    Notes
    -----
    `grad_input` adds the output features in order, in chains of 128; `grad_weight` adds the rows in
    order, in chains of 128 inside segments of 4096; `grad_bias` is summed in float64 and rounded
    once.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> weight = [[1.0, 1.0], [3.0, -1.0]]
    >>> gx, gw, gb = stableops.linear_backward([[1.0, 1.0]], [[1.0, 2.0]], weight)
    >>> gx
    array([[4., 0.]])
    >>> gw
    array([[1., 2.],
           [1., 2.]])
    >>> gb
    array([1., 1.])
    """
    return _core.linear_backward(grad_output, input, weight, output_mask)


def pack_linear_weight(weight: ArrayLike) -> _core.PackedWeight:
    """The weight of a linear layer in the order in which :func:`linear` reads it.

    For weights that are used again and again, with few rows at a time.

    Parameters
    ----------
    weight : array_like
        (out_features, in_features), which is copied.

    Returns
    -------
    packed weight
        An object that never changes, for `linear`'s `weight`; with the attributes `shape`, `dtype`
        and `nbytes`. It is the same at every SIMD level, and can be pickled.

    Raises
    ------
    TypeError
        If the dtype is not allowed.
    ValueError
        If `weight` has not two axes.

    Notes
    -----
    The results are those of the call with the array, to the last bit. float16 and bfloat16 are kept
    in float32, and out_features are rounded up to a multiple of 32 (16 for float64).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> packed = stableops.pack_linear_weight(np.ones((2, 3)))
    >>> packed
    <packed weight of shape (2, 3), float64>
    >>> stableops.linear([1.0, 2.0, 3.0], packed)
    array([6., 6.])
    """
    return _core.pack_linear_weight(weight)
