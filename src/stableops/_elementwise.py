"""Elementwise activations and their derivatives."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["relu", "relu_backward"]


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
