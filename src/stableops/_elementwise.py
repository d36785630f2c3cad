"""Elementwise activations and their derivatives."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = [
    "log_sigmoid",
    "log_sigmoid_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softplus",
    "softplus_backward",
]


def relu(x: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
    """Rectified linear unit, max(x, 0).

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. NaN stays NaN, and -0.0 becomes 0.0.

    Raises
    ------
    TypeError
        If `x` or `out` has a dtype that is not allowed.
    ValueError
        If `out` has another shape or is read-only.

    Notes
    -----
    Exact (0 ULP).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.relu(np.array([-1.5, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return _core.relu(x, out)


def relu_backward(
    grad_output: ArrayLike, output: ArrayLike, *, out: NDArray[Any] | None = None
) -> Any:
    """Gradient of :func:`relu` with respect to its input.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    output : array_like
        What :func:`relu` returned, or its input (the sign decides); of `grad_output`'s shape.
    out : ndarray, optional
        Where the result goes.

    Returns
    -------
    ndarray
        `grad_output` where `output` > 0, else 0 (the derivative at 0 is taken as 0).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes differ, or `out` does not fit.

    Notes
    -----
    Exact (0 ULP).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> y = stableops.relu(np.array([-1.5, 0.0, 2.0]))
    >>> stableops.relu_backward(np.ones(3), y)
    array([0., 0., 1.])
    """
    return _core.relu_backward(grad_output, output, out)


def sigmoid(x: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
    """Logistic function, 1 / (1 + exp(-x)).

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. 0 and 1 at -inf and inf, NaN for NaN.

    Raises
    ------
    TypeError
        If `x` or `out` has a dtype that is not allowed.
    ValueError
        If `out` has another shape or is read-only.

    Notes
    -----
    float32, float16 and bfloat16 are correctly rounded (0.5 ULP): the tests run all 65,536 inputs of
    the latter two, ``python -m benchmarks accuracy --exhaustive sigmoid`` the 2**32 of float32.
    float64: bound 1 ULP, worst found 0.500 ULP. Tiny results keep all their digits
    down to the last subnormal, where 1 / (1 + exp(-x)) overflows.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.sigmoid(np.array([-800.0, -40.0, 0.0, 2.0]))
    array([0.00000000e+00, 4.24835426e-18, 5.00000000e-01, 8.80797078e-01])
    """
    return _core.sigmoid(x, out)


def sigmoid_backward(
    grad_output: ArrayLike, output: ArrayLike, *, out: NDArray[Any] | None = None
) -> Any:
    """Gradient of :func:`sigmoid` with respect to its input, grad_output * output * (1 - output).

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    output : array_like
        What :func:`sigmoid` returned; of `grad_output`'s shape.
    out : ndarray, optional
        Where the result goes; may be either input.

    Returns
    -------
    ndarray
        Of `grad_output`'s shape; the dtype is NumPy's promotion of both.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes differ, or `out` does not fit.

    Notes
    -----
    The error is below 1.5 ULP in float64 and 0.51 ULP in float32.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> y = stableops.sigmoid(np.array([-2.0, 0.0, 2.0]))
    >>> stableops.sigmoid_backward(np.ones(3), y)
    array([0.10499359, 0.25      , 0.10499359])
    """
    return _core.sigmoid_backward(grad_output, output, out)


def log_sigmoid(x: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
    """Logarithm of the logistic function, -log(1 + exp(-x)).

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. -inf and -0 at -inf and inf, NaN for NaN.

    Raises
    ------
    TypeError
        If `x` or `out` has a dtype that is not allowed.
    ValueError
        If `out` has another shape or is read-only.

    Notes
    -----
    float32, float16 and bfloat16 are correctly rounded (0.5 ULP): the tests run all 65,536 inputs of
    the latter two, ``python -m benchmarks accuracy --exhaustive log_sigmoid`` the 2**32 of float32.
    float64: bound 1 ULP, worst found 0.503 ULP. Results next to 0
    keep all their digits, and large negative `x` comes back as it is.

    References
    ----------
    M. Mächler, "Accurately computing log(1 - exp(-|a|))" (2012), for log1p(exp(x)).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.log_sigmoid(np.array([-1000.0, 0.0, 40.0]))
    array([-1.00000000e+03, -6.93147181e-01, -4.24835426e-18])
    """
    return _core.log_sigmoid(x, out)


def log_sigmoid_backward(
    grad_output: ArrayLike, x: ArrayLike, *, out: NDArray[Any] | None = None
) -> Any:
    """Gradient of :func:`log_sigmoid` with respect to its input, grad_output * sigmoid(-x).

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    x : array_like
        What :func:`log_sigmoid` was given; of `grad_output`'s shape.
    out : ndarray, optional
        Where the result goes; may be either input.

    Returns
    -------
    ndarray
        Of `grad_output`'s shape; the dtype is NumPy's promotion of both.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes differ, or `out` does not fit.

    Notes
    -----
    The error is below 1.1 ULP in float64 and 0.51 ULP in float32.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.log_sigmoid_backward(np.ones(3), np.array([-2.0, 0.0, 40.0]))
    array([8.80797078e-01, 5.00000000e-01, 4.24835426e-18])
    """
    return _core.log_sigmoid_backward(grad_output, x, out)


def softplus(x: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
    """Smooth maximum of x and 0, log(1 + exp(x)).

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. 0 and inf at -inf and inf, NaN for NaN.

    Raises
    ------
    TypeError
        If `x` or `out` has a dtype that is not allowed.
    ValueError
        If `out` has another shape or is read-only.

    Notes
    -----
    float32, float16 and bfloat16 are correctly rounded (0.5 ULP): the tests run all 65,536 inputs of
    the latter two, ``python -m benchmarks accuracy --exhaustive softplus`` the 2**32 of float32.
    float64: bound 1 ULP, worst found 0.501 ULP. Results next to 0
    keep all their digits; there is no threshold beyond which another formula is used.

    References
    ----------
    M. Mächler, "Accurately computing log(1 - exp(-|a|))" (2012), for log1p(exp(x)).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.softplus(np.array([-40.0, 0.0, 1000.0]))
    array([4.24835426e-18, 6.93147181e-01, 1.00000000e+03])
    """
    return _core.softplus(x, out)


def softplus_backward(
    grad_output: ArrayLike, x: ArrayLike, *, out: NDArray[Any] | None = None
) -> Any:
    """Gradient of :func:`softplus` with respect to its input, grad_output * sigmoid(x).

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    x : array_like
        What :func:`softplus` was given; of `grad_output`'s shape.
    out : ndarray, optional
        Where the result goes; may be either input.

    Returns
    -------
    ndarray
        Of `grad_output`'s shape; the dtype is NumPy's promotion of both.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes differ, or `out` does not fit.

    Notes
    -----
    The error is below 1.1 ULP in float64 and 0.51 ULP in float32.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.softplus_backward(np.ones(3), np.array([-40.0, 0.0, 2.0]))
    array([4.24835426e-18, 5.00000000e-01, 8.80797078e-01])
    """
    return _core.softplus_backward(grad_output, x, out)
