"""The binary cross-entropy loss of logits."""

from typing import Any, Literal

from numpy.typing import ArrayLike

from stableops import _core

__all__ = ["sigmoid_cross_entropy"]


def sigmoid_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    negatives: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
) -> Any:
    """Binary cross-entropy of logits x and labels y, and its gradient.

    The loss of an element is -w (p y log(sigmoid(x)) + (1 - y) log(1 - sigmoid(x))), computed as
    w (p y softplus(-x) + (1 - y) softplus(x)).

    Parameters
    ----------
    logits : array_like
        Any shape; float64, float32, float16 or bfloat16. Integers and bools become float64.
    labels : array_like
        Of the shape of `logits`; any real values, also outside [0, 1].
    weight : array_like, optional
        The factor w, broadcast to the shape of `logits` and converted to the dtype of the result.
        Negative and NaN factors are allowed, as in PyTorch.
    pos_weight : array_like, optional
        The factor p, likewise; one value a class, for instance.
    negatives : bool, default True
        If False, the (1 - y) term is left out.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of elements.
    return_grad : bool, default False
        Also return the gradient with respect to the logits of the reduced loss (of the sum, for
        "none").

    Returns
    -------
    loss : scalar or ndarray
        An array of the shape of `logits` for "none". The dtype is NumPy's promotion of the dtypes
        of `logits` and `labels`, where labels of integers or bools do not count.
    grad : ndarray
        Of the shape of `logits`; only with `return_grad`.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If `labels` has another shape than `logits`, `weight` or `pos_weight` does not broadcast to
        it, `reduction` is none of the three, or a mean has no elements.

    Notes
    -----
    Where y is in [0, 1] an element's loss is within 1 ULP (float32) or 1.5 ULP (float64), its
    gradient within 1 or 2; worst found 0.501 and 0.503 (0.75 for subnormal losses, which are
    rounded twice), and 0.501 and 0.501 (1.0 for y = 1/2 and tiny x, where the gradient is x / 4);
    also where the prediction is right and confident, where ``max(x, 0) - x * y +
    log1p(exp(-abs(x)))`` and ``sigmoid(x) - y`` have no digits left. Labels outside [0, 1] and soft
    labels, for which loss or gradient vanish somewhere, keep these bounds until next to nothing is
    left of the terms (float32: 2**-45, float64: 2**-50 of them).

    Sums run over the elements in C order whatever the memory layout (in blocks of 8192, each in 16
    lanes, the blocks in order), in double the precision for float64 and in float64 for other
    dtypes, so "sum" and "mean" are right to 1 ULP.

    A term whose factor y or 1 - y is 0 is dropped: the loss of (inf, 1) and of (-inf, 0) is 0, that
    of (inf, 0) and (-inf, 1) infinite; p does not count where y is 0, even if infinite or NaN.
    A mean is finite where only the sum of the losses overflows.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x, y = np.array([1, 1, -4000, -4000]), np.array([0, 0, 0, 1])
    >>> float(stableops.sigmoid_cross_entropy(x, y, reduction="sum"))
    4002.6265233750364
    >>> float(stableops.sigmoid_cross_entropy(x, y, negatives=False, reduction="sum"))
    4000.0
    >>> stableops.sigmoid_cross_entropy([40.0], [1.0], return_grad=True)
    (np.float64(4.248354255291589e-18), array([-4.24835426e-18]))
    """
    return _core.sigmoid_cross_entropy(
        logits, labels, weight, pos_weight, negatives, reduction, return_grad
    )
