"""softmax, log_softmax and their derivatives."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]

Axis = int | tuple[int, ...] | None


def softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> Any:
    """Softmax, exp(x_i) / sum_j exp(x_j).

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    axis : int, tuple of ints or None, default -1
        The axes that one distribution extends over; None: all.
    where : array_like of bool, optional
        Broadcastable to `x`. Elements where it is False are left out: they get probability 0, even
        beside NaN, and a row with nothing left is all 0.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If `axis`, or the shape of `where` or `out`, does not fit.

    Notes
    -----
    Accuracy: within 1 ULP for every finite input, subnormal results included; worst measured 0.62
    (float32) and 0.51 (float64). float16 and bfloat16 are computed in float32 and rounded once.

    -inf beside numbers gets probability 0. A row with NaN or +inf, or of nothing but -inf, is all
    NaN.

    The rounding error of x - max is carried into the exponential, and the exponentials, their sum
    and its reciprocal are kept longer than the result's type, so that one rounding shows [1]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.softmax(np.array([1, 1, 1, 4000]))
    array([0., 0., 0., 1.])
    """
    return _core.softmax(x, axis, where, out)


def log_softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    where: ArrayLike | None = None,
    out: NDArray[Any] | None = None,
) -> Any:
    """Logarithm of the softmax, x_i - log(sum_j exp(x_j)).

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    axis : int, tuple of ints or None, default -1
        The axes that one distribution extends over; None: all.
    where : array_like of bool, optional
        Broadcastable to `x`. Elements where it is False are left out: they get -inf, even beside
        NaN.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If `axis`, or the shape of `where` or `out`, does not fit.

    Notes
    -----
    Accuracy: within 1 ULP (float32) or 1.5 ULP (float64) for every finite input, also where the
    result is next to 0 or subnormal; worst measured 0.57 and 0.62. float16 and bfloat16 are
    computed in float32 and rounded once.

    -inf beside numbers gets -inf. A row with NaN or +inf, or of nothing but -inf, is all NaN.

    The largest term, exp(0) = 1, is kept out of the sum and given to log1p, which keeps every digit
    of the result of a dominant element [1]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> print(stableops.log_softmax(np.array([40.0, 0.0, 0.0]))[0])
    -8.496708510583178e-18
    """
    return _core.log_softmax(x, axis, where, out)


def softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: Axis = -1,
    *,
    out: NDArray[Any] | None = None,
) -> Any:
    """Gradient of :func:`softmax` with respect to its input.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    output : array_like
        What :func:`softmax` returned; of `grad_output`'s shape.
    axis : int, tuple of ints or None, default -1
        As given to :func:`softmax`.
    out : ndarray, optional
        Where the result goes. May be one of the inputs or overlap them.

    Returns
    -------
    ndarray
        y_i (g_i - sum_j g_j y_j), where y is the output and g its gradient.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes differ, or `axis` or `out` does not fit.

    Notes
    -----
    Accuracy: the error is within 2 eps of the sum of the absolute terms (which may cancel), worst
    measured 0.50 eps; products and sums are formed in float64, for float64 in double length.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> y = stableops.softmax(np.array([0.0, 0.0]))
    >>> stableops.softmax_backward(np.array([1.0, 0.0]), y)
    array([ 0.25, -0.25])
    """
    return _core.softmax_backward(grad_output, output, axis, out)


def log_softmax_backward(
    grad_output: ArrayLike,
    output: ArrayLike,
    axis: Axis = -1,
    *,
    out: NDArray[Any] | None = None,
) -> Any:
    """Gradient of :func:`log_softmax` with respect to its input.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    output : array_like
        What :func:`log_softmax` returned; of `grad_output`'s shape.
    axis : int, tuple of ints or None, default -1
        As given to :func:`log_softmax`.
    out : ndarray, optional
        Where the result goes. May be one of the inputs or overlap them.

    Returns
    -------
    ndarray
        g_i - exp(y_i) sum_j g_j, where y is the output and g its gradient.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes differ, or `axis` or `out` does not fit.

    Notes
    -----
    Accuracy: the error is within 2 eps of the sum of the absolute terms (which may cancel), worst
    measured 0.50 eps; products and sums are formed in float64, for float64 in double length.

    Give what ``where=`` left out a `grad_output` of 0: -inf does not tell why it is there.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> y = stableops.log_softmax(np.array([0.0, 0.0]))
    >>> stableops.log_softmax_backward(np.array([1.0, 0.0]), y)
    array([ 0.5, -0.5])
    """
    return _core.log_softmax_backward(grad_output, output, axis, out)
