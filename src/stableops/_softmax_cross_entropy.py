"""The softmax cross-entropy loss."""

from typing import Any, Literal

from numpy.typing import ArrayLike

from stableops import _core

__all__ = ["softmax_cross_entropy"]


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
) -> Any:
    """Cross-entropy of logits and labels, and its gradient.

    With class indices k, the loss of a sample is w_k (logsumexp(x) - x_k); with labels y of the
    shape of the logits it is sum_i w_i y_i (logsumexp(x) - x_i). `label_smoothing` s of C classes
    replaces y_i by (1 - s) y_i + s / C, where y_i is 1 at the index and 0 elsewhere.

    Parameters
    ----------
    logits : array_like
        Unnormalised log-probabilities; float64, float32, float16 or bfloat16. Integers become
        float64. A 1-D array is one sample.
    labels : array_like
        Class indices: integers, of the shape of `logits` without `axis`. Or class weights y: of the
        shape of `logits`, any real dtype, not necessarily summing to 1. An integer array of the
        shape of `logits` is class weights.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, optional
        One weight w a class, in the dtype of the logits (float32 for float16 and bfloat16). Any
        value is allowed, negative ones and NaN as in PyTorch.
    ignore_index : int, default -100
        Samples with this index have loss 0 and gradient 0 and do not count in a mean.
    label_smoothing : float, default 0
        Between 0 and 1.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of samples that are not ignored, or, with `weight` and
        class indices, by the sum of w_k over these samples, as PyTorch does.
    return_grad : bool, default False
        Also return the gradient with respect to the logits of the reduced loss (of the sum, for
        "none").

    Returns
    -------
    loss : scalar or ndarray
        An array of the shape of `logits` without `axis` for "none". The dtype is that of the logits
        (promoted with that of floating-point labels).
    grad : ndarray
        Of the shape of `logits`; only with `return_grad`.

    Raises
    ------
    IndexError
        If a class index is neither `ignore_index` nor in [0, C); names its position and value.
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If a shape, `reduction` or `label_smoothing` is not allowed, or there are no classes.

    Notes
    -----
    Accuracy for every finite input: the loss of a sample is within 1 ULP (float32) or 1.5 ULP
    (float64), also where the label's probability is within 1e-300 of 1; its gradient within 1 or 2
    ULP, also the label's own, p - 1, where p is next to 1. Worst measured: 0.57 and 0.62 (loss),
    0.59 and 0.53 (gradient). With labels as weights this holds where the terms have one sign; where
    positive and negative terms of the loss, or p_i sum(y) and y_i of the gradient, cancel, an error
    of 2^-60 of the larger of them comes on top. A mean or sum adds at most 1 ULP of its own.
    float16 and bfloat16 are computed in float32 and rounded once.

    Sums over samples run in C order of the samples (in blocks of 8192, each in 16 lanes, the blocks
    in order), in double the precision.

    A class weight or label of 0 drops its term, also where the logit is -inf. If all samples are
    ignored, the mean is NaN, as in PyTorch, and the gradient is 0; ``np.nan_to_num(loss)`` makes it
    0. Where class weights sum to 0, the mean is the total / 0, and its gradient NaN. A sample with
    NaN or +inf among its logits has loss NaN. A mean is finite where only the sum of the losses
    overflows (of weighted losses below 2^1152).

    The label's own term is kept out of the sum of exponentials [1]_, so nothing is lost where it
    dominates. No probabilities are stored: memory is read for the loss, and written for the
    gradient.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> print(stableops.softmax_cross_entropy(np.array([1, 1, 1, 4000]), np.array([1, 0, 0, 0])))
    3999.0
    >>> print(stableops.softmax_cross_entropy(np.array([40.0, 0.0, 0.0]), 0))
    8.496708510583178e-18
    >>> logits = np.array([[2.0, 0.0], [0.0, 0.0]])
    >>> loss, grad = stableops.softmax_cross_entropy(logits, [0, 1], return_grad=True)
    >>> print(grad[1])
    [ 0.25 -0.25]
    """
    return _core.softmax_cross_entropy(
        logits, labels, axis, weight, ignore_index, label_smoothing, reduction, return_grad
    )
