"""Elementwise activations and their derivatives."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = [
    "leaky_relu",
    "leaky_relu_backward",
    "log_sigmoid",
    "log_sigmoid_backward",
    "prelu",
    "prelu_backward",
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
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

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
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

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
    float32, float16 and bfloat16 are correctly rounded (0.5 ULP): the tests run all 65,536 inputs
    of the latter two, ``python -m benchmarks accuracy --exhaustive sigmoid`` the 2**32 of float32.
    float64: bound 1 ULP, worst found 0.502 ULP. Tiny results keep all their digits down to the
    last subnormal, where 1 / (1 + exp(-x)) overflows.

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
    The error is below 2 ULP in float64 and 0.51 ULP in float32; worst found 1.953 and 0.501.

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
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

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
    float32, float16 and bfloat16 are correctly rounded (0.5 ULP): the tests run all 65,536 inputs
    of the latter two, ``python -m benchmarks accuracy --exhaustive log_sigmoid`` the 2**32 of
    float32. float64: bound 1 ULP, worst found 0.518 ULP. Results next to 0 keep all their digits,
    and large negative `x` comes back as it is.

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
    The error is below 1.6 ULP in float64 and 0.51 ULP in float32; worst found 1.5 and 0.5.

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
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

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
    float32, float16 and bfloat16 are correctly rounded (0.5 ULP): the tests run all 65,536 inputs
    of the latter two, ``python -m benchmarks accuracy --exhaustive softplus`` the 2**32 of float32.
    float64: bound 1 ULP, worst found 0.518 ULP. Results next to 0 keep all their digits; there is
    no threshold beyond which another formula is used.

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
    The error is below 1.6 ULP in float64 and 0.51 ULP in float32; worst found 1.5 and 0.5.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.softplus_backward(np.ones(3), np.array([-40.0, 0.0, 2.0]))
    array([4.24835426e-18, 5.00000000e-01, 8.80797078e-01])
    """
    return _core.softplus_backward(grad_output, x, out)


def leaky_relu(
    x: ArrayLike, negative_slope: float = 0.01, *, out: NDArray[Any] | None = None
) -> Any:
    """Rectified linear unit with a slope below 0: x if x > 0, else negative_slope * x.

    Parameters
    ----------
    x : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    negative_slope : float
        Slope for x <= 0, rounded to the dtype computed in.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

    Returns
    -------
    ndarray
        Shape and dtype of `x`. NaN stays NaN.

    Raises
    ------
    TypeError
        If `x` or `out` has a dtype that is not allowed, or `negative_slope` is no number.
    ValueError
        If `out` has another shape or is read-only.

    Notes
    -----
    0.5 ULP for the rounded slope: one product, rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.leaky_relu(np.array([-1.5, 0.0, 2.0]), 0.5)
    array([-0.75,  0.  ,  2.  ])
    """
    return _core.leaky_relu(x, negative_slope, out)


def leaky_relu_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    negative_slope: float = 0.01,
    *,
    out: NDArray[Any] | None = None,
) -> Any:
    """Gradient of :func:`leaky_relu` with respect to its input.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output.
    x : array_like
        The input of :func:`leaky_relu` (or, with a positive slope, its output); of `grad_output`'s
        shape.
    negative_slope : float
        As given to :func:`leaky_relu`.
    out : ndarray, optional
        Where the result goes.

    Returns
    -------
    ndarray
        `grad_output` where `x` > 0, else negative_slope * `grad_output`.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or `negative_slope` is no number.
    ValueError
        If the shapes differ, or `out` does not fit.

    Notes
    -----
    0.5 ULP for the rounded slope.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.leaky_relu_backward(np.ones(3), np.array([-1.5, 0.0, 2.0]), 0.5)
    array([0.5, 0.5, 1. ])
    """
    return _core.leaky_relu_backward(grad_output, x, negative_slope, out)


def prelu(x: ArrayLike, weight: ArrayLike, *, out: NDArray[Any] | None = None) -> Any:
    """Rectified linear unit with learned slopes below 0: x if x > 0, else weight * x.

    Parameters
    ----------
    x : array_like
        (N, C, ...), or any shape with a single slope.
    weight : array_like
        One slope, or (C,): one for each channel, which is axis 1 of `x`.
    out : ndarray, optional
        Where the result goes: of `x`'s shape and the result's dtype. May be `x` itself or overlap
        it.

    Returns
    -------
    ndarray
        Shape of `x`, common dtype of both. NaN stays NaN.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If `weight` has neither one element nor one a channel, or `out` does not fit.

    Notes
    -----
    0.5 ULP: one product, rounded once.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.prelu(np.array([[-2.0, -2.0, 2.0]]), np.array([0.5, 0.25, 0.0]))
    array([[-1. , -0.5,  2. ]])
    """
    return _core.prelu(x, weight, out)


def prelu_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    *,
    output_mask: Sequence[bool] = (True, True),
) -> tuple[Any, Any]:
    """Gradients of :func:`prelu` with respect to its input and its slopes.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the output, of `x`'s shape.
    x, weight : array_like
        As given to :func:`prelu`.
    output_mask : two bools
        Which gradients are wanted; the others are None and cost nothing.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight): `grad_output` where `x` > 0, else weight * `grad_output`; and for
        each slope the sum of x * `grad_output` over its elements with x <= 0.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If the shapes do not fit.

    Notes
    -----
    `grad_input`: 0.5 ULP. `grad_weight` is summed in float64 (with the rounding errors of the
    additions for float64 arrays) in a fixed order: 1 ULP, and 2^-44 (float64: 2^-52) of the sum of
    absolute values.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[-2.0, 1.0], [-3.0, -1.0]])
    >>> stableops.prelu_backward(np.ones((2, 2)), x, np.array([0.5, 0.25]))
    (array([[0.5 , 1.  ],
           [0.5 , 0.25]]), array([-5., -1.]))
    """
    wants_input, wants_weight = output_mask
    return (
        _core.prelu_grad_input(grad_output, x, weight) if wants_input else None,
        _core.prelu_grad_weight(grad_output, x, weight) if wants_weight else None,
    )
