"""A linear layer and the softmax cross-entropy of its results, without these in memory."""

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike

from stableops import _core

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    input: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    output_mask: Sequence[bool] = (True, True, True),
) -> Any:
    """``softmax_cross_entropy(linear(input, weight, bias), labels)`` in bounded memory.

    For the last layer of a language model, whose logits are thousands of times as large as its
    input: 2 GB for 4096 tokens and 128,256 classes.

    Parameters
    ----------
    input : array_like
        (..., features), a row a token; float64, float32, float16 or bfloat16.
    weight : array_like
        (classes, features).
    labels : array_like
        Class indices: integers, of the shape of `input` without its last axis.
    bias : array_like, optional
        (classes,).
    ignore_index : int, default -100
        Tokens with this label have loss 0 and gradient 0 and do not count in a mean.
    label_smoothing : float, default 0
        Between 0 and 1; as in :func:`softmax_cross_entropy`.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of tokens that are not ignored.
    return_grad : bool, default False
        Also return the gradients of the reduced loss (of the sum, for "none").
    output_mask : three bools
        Which gradients are wanted; the others are None and cost nothing.

    Returns
    -------
    loss : scalar or ndarray
        For "none" of the shape of `labels`; in the arrays' common dtype.
    gradients : tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias); only with `return_grad`.

    Raises
    ------
    IndexError
        If a label is neither `ignore_index` nor in [0, classes); names its position and value.
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If a shape, `reduction` or `label_smoothing` is not allowed.

    Notes
    -----
    Beside the results it needs 48 MB for the logits of some tokens at a time, and a few MB a
    thread. float16 and bfloat16 are converted to float32, computed in it, and rounded once at the
    end, which takes a copy of `weight` and `grad_weight` in float32.

    The loss of a token is, to the last bit, that of :func:`softmax_cross_entropy` on the logits of
    :func:`linear` (in float32 for float16 and bfloat16), whatever tokens stand beside it: within
    1 ULP (float32) or 1.5 ULP (float64) of the loss of these logits, also where it is next to 0. So
    is its row of grad_input. grad_weight and grad_bias are sums over chunks of tokens, in order, of
    what :func:`linear_backward` gives for the chunk; a chunk's tokens are as many as have logits of
    48 MB (128 or more: a multiple of 128, at most 4096).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x, w = np.array([[1.0, 0.0], [0.0, 40.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> print(stableops.linear_cross_entropy(x, w, [0, 1], reduction="none"))
    [3.13261688e-01 4.24835426e-18]
    >>> loss, (gx, gw, gb) = stableops.linear_cross_entropy(x, w, [0, 1], return_grad=True)
    >>> print(gw.shape, gb)
    (2, 2) [-0.13447071  0.13447071]
    """
    return _core.linear_cross_entropy(
        input,
        weight,
        labels,
        bias,
        ignore_index,
        label_smoothing,
        reduction,
        return_grad,
        output_mask,
    )
