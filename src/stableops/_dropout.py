"""Dropout and its gradient."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["dropout", "dropout_backward"]


def dropout(
    input: ArrayLike,
    p: float = 0.5,
    training: bool = True,
    *,
    rng: np.random.Generator | int | None = None,
    return_mask: bool = False,
) -> Any:
    """Sets elements to 0 with probability p and divides the others by 1 - p (inverted dropout).

    Parameters
    ----------
    input : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    p : float
        Probability of an element to be dropped, from 0 to 1.
    training : bool
        If False, the input is returned as it is: the same object, as in PyTorch.
    rng : Generator, int or None
        Where the random numbers come from. A seed (or None: from the system) starts a
        :class:`numpy.random.Philox`; a generator is advanced.
    return_mask : bool
        Whether to return which elements were kept, for :func:`dropout_backward`.

    Returns
    -------
    ndarray, or tuple of ndarray
        Shape and dtype of `input`; with `return_mask` (result, mask), the mask being bool.

    Raises
    ------
    TypeError
        If `input` has a dtype that is not allowed, `p` is no number, or `rng` no generator or seed.
    ValueError
        If `p` is not in [0, 1], or a seed is negative.

    Notes
    -----
    An element is kept where the next 32 random bits, in C order, are a number of at least
    round(p 2^32): p = 0 keeps all and p = 1 none, and the mask depends on the seed and the
    shape only. Dropped elements are exactly 0, also infinite ones and NaN. Kept ones are
    multiplied by 1 / (1 - p) in the dtype computed in: 1.5 ULP, exact for p = 0 and 1/2.

    References
    ----------
    N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR
    15 (2014).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> y, mask = stableops.dropout(np.ones(8), 0.5, rng=1, return_mask=True)
    >>> bool(np.array_equal(y, 2.0 * mask))
    True
    >>> stableops.dropout(np.ones(3), 1.0)
    array([0., 0., 0.])
    """
    _core.check_probability(p)
    if not training:
        return (input, np.ones(np.shape(input), bool)) if return_mask else input
    x = input if isinstance(input, np.ndarray) else np.asarray(input)
    mask = _mask(x.shape, p, rng)
    y = _core.dropout(x, mask, p)
    return (y, mask) if return_mask else y


def _mask(
    shape: tuple[int, ...], p: float, rng: np.random.Generator | int | None
) -> NDArray[np.bool_]:
    if not isinstance(rng, np.random.Generator):
        try:
            rng = np.random.Generator(np.random.Philox(rng))
        except (TypeError, ValueError) as error:
            msg = f"rng={rng!r} is not allowed; a Generator, a seed or None is"
            raise type(error)(msg) from None
    threshold = round(p * 2**32)
    if threshold == 2**32:
        return np.zeros(shape, bool)
    bits = rng.integers(0, 2**32, shape, np.uint32)
    return np.asarray(bits >= np.uint32(threshold))


def dropout_backward(grad_output: ArrayLike, mask: ArrayLike, p: float = 0.5) -> Any:
    """Gradient of :func:`dropout` with respect to its input.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result.
    mask : array_like of bool
        What :func:`dropout` returned with ``return_mask=True``, of `grad_output`'s shape.
    p : float
        As given to :func:`dropout`.

    Returns
    -------
    ndarray
        grad_output / (1 - p) where the mask is True, else 0.

    Raises
    ------
    TypeError
        If `grad_output` has a dtype that is not allowed, or `mask` is not bool.
    ValueError
        If the shapes differ, or `p` is not in [0, 1].

    Notes
    -----
    1.5 ULP, exact for p = 0 and 1/2.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.dropout_backward(np.ones(3), np.array([True, False, True]), 0.5)
    array([2., 0., 2.])
    """
    return _core.dropout_backward(grad_output, mask, p)
