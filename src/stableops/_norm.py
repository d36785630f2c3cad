"""Batch, group, layer and local response normalisation, and their gradients."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "local_response_norm",
    "local_response_norm_backward",
]


def batch_norm(
    input: ArrayLike,
    running_mean: NDArray[Any] | None = None,
    running_var: NDArray[Any] | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    return_stats: bool = False,
) -> Any:
    """Batch normalisation, (x - mean) / sqrt(variance + eps) * weight + bias, channel by channel.

    Parameters
    ----------
    input : array_like
        (N, C) or (N, C, ...), float64, float32, float16 or bfloat16. Any strides; if channels vary
        fastest in memory (channels-last), they do in the result.
    running_mean, running_var : ndarray, optional
        (C,). Without `training` they are the mean and the variance. With `training`, where they may
        be left out, they are updated in place: ``r = (1 - momentum) * r + momentum * statistic``,
        the variance's statistic being the unbiased one.
    weight, bias : array_like, optional
        (C,); 1 and 0 if left out.
    training : bool
        Whether mean and variance (biased) are those of the batch.
    momentum : float
        Weight of the new statistics. For a cumulative average pass 1 / number of batches.
    eps : float
        Added to the variance, 0 or more.
    return_stats : bool
        Whether to return what :func:`batch_norm_backward` needs.

    Returns
    -------
    ndarray, or tuple of ndarray
        Result of `input`'s shape in the common dtype of input, weight and bias. With `return_stats`
        (result, mean, rstd), the latter two (C,) in float64, with
        rstd = 1 / sqrt(variance + eps).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no number.
    ValueError
        If shapes do not fit; if `eps` is negative; if with `training` there is only one value per
        channel; if without `training` the running statistics are missing.

    Notes
    -----
    Mean and M2 = sum (x - mean)^2 are found in segments of 4096 values, shifted by their first one,
    and merged [1]_, in float64 for float32, float16 and bfloat16 and double-length for float64:
    E[x^2] - E[x]^2, which loses every digit where the mean is large, appears nowhere. A constant
    channel has a variance of exactly 0, and values up to the largest finite one do not overflow.

    Error bounds against exact arithmetic on the given values, with eps = 2^-24 (float32) or 2^-53
    (float64): the result differs by at most 1 ULP plus ``a |x - mean| rstd |weight| + b |mean| rstd
    |weight|`` with a = 2^-31, b = 2^-52 for float32, and a = 2^-49, b = 2^-90 for float64. So a
    batch of mean 1e6 and deviation 1 keeps every digit that it has. The returned mean is right to
    ``2^-51 |mean| + 2^-50 / rstd``, rstd to 2^-32 (float32) or 2^-50 (float64) of itself.

    The same bits for any layout, number of threads and SIMD level.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance:
       analysis and recommendations", The American Statistician 37 (1983).
    .. [2] S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by
       reducing internal covariate shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[1e8 - 1, 5], [1e8, 5], [1e8 + 1, 5]])
    >>> mean, var = np.zeros(2), np.ones(2)
    >>> stableops.batch_norm(x, mean, var, training=True, momentum=1.0, eps=0.5)[:, 0].round(4)
    array([-0.9258,  0.    ,  0.9258])
    >>> var
    array([1., 0.])
    >>> stableops.batch_norm(x, mean, var, eps=1.0)[:, 0].round(4)
    array([-0.7071,  0.    ,  0.7071])
    """
    return _core.batch_norm(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        return_stats,
    )


def batch_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    *,
    training: bool = True,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of :func:`batch_norm` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, weight : array_like
        As given to :func:`batch_norm`; the weight may be None.
    mean, rstd : array_like
        (C,), as :func:`batch_norm` returned them with ``return_stats=True``.
    training : bool
        Whether mean and variance were those of the batch, so that they depend on the input.
    output_mask : three bools
        Which gradients are wanted; the others are None.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If shapes do not fit.

    Notes
    -----
    ``grad_input = weight rstd (g - sum(g) / n - d rstd^2 sum(g d) / n)`` with d = x - mean; without
    `training` it is ``weight rstd g``. Sums in float64 (with the rounding errors of the additions
    for float64 arrays), in segments of 4096 values. For float64 arrays the rounding error of the
    saved mean is found from sum(d) and taken out, so nearly constant channels keep their digits.
    Each gradient differs from the exact one by at most 1 ULP and 2^-40 (float64: 2^-48) of the sum
    of its terms' absolute values, in which |d| is taken for ``|d| + 1 / rstd`` (for float32
    ``|d| + 1 / rstd + 2^-10 |mean|``: the mean is a float64).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[0.0], [1.0], [5.0]])
    >>> y, mean, rstd = stableops.batch_norm(x, training=True, return_stats=True)
    >>> gx, gw, gb = stableops.batch_norm_backward(np.array([[1.0], [0], [0]]), x, None, mean, rstd)
    >>> gx.round(4).ravel()
    array([ 0.1763, -0.2204,  0.0441])
    >>> gw.round(4), gb
    (array([-0.9258]), array([1.]))
    """
    return _core.batch_norm_backward(grad_output, input, weight, mean, rstd, training, output_mask)


def group_norm(
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    return_stats: bool = False,
) -> Any:
    """Group normalisation: each sample's groups of channels get mean 0 and variance 1.

    Parameters
    ----------
    input : array_like
        (N, C) or (N, C, ...). Any strides.
    num_groups : int
        A divisor of C; groups have neighbouring channels.
    weight, bias : array_like, optional
        (C,); 1 and 0 if left out.
    eps : float
        Added to the variance, 0 or more.
    return_stats : bool
        Whether to return what :func:`group_norm_backward` needs.

    Returns
    -------
    ndarray, or tuple of ndarray
        Result of `input`'s shape; with `return_stats` (result, mean, rstd), the latter two
        (N, num_groups) in float64.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no number.
    ValueError
        If shapes do not fit, `num_groups` is no divisor of C, or `eps` is negative.

    Notes
    -----
    Statistics and error bounds as in :func:`batch_norm`: the same bits for a sample alone and in a
    batch.

    References
    ----------
    Y. Wu, K. He, "Group normalization", ECCV 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[[1.0, 2.0], [3.0, 4.0], [7.0, 7.0], [7.0, 7.0]]])
    >>> stableops.group_norm(x, 2).round(4)[0]
    array([[-1.3416, -0.4472],
           [ 0.4472,  1.3416],
           [ 0.    ,  0.    ],
           [ 0.    ,  0.    ]])
    """
    return _core.group_norm(input, num_groups, weight, bias, eps, return_stats)


def group_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    *,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of :func:`group_norm` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, num_groups, weight : array_like and int
        As given to :func:`group_norm`; the weight may be None.
    mean, rstd : array_like
        (N, num_groups), as :func:`group_norm` returned them with ``return_stats=True``.
    output_mask : three bools
        Which gradients are wanted; the others are None.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If shapes do not fit.

    Notes
    -----
    Formula and error bounds as in :func:`batch_norm_backward`, with weight g for g.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[[0.0], [1.0], [5.0]]])
    >>> y, mean, rstd = stableops.group_norm(x, 1, return_stats=True)
    >>> g = np.array([[[1.0], [0], [0]]])
    >>> stableops.group_norm_backward(g, x, 1, None, mean, rstd)[0].round(4).ravel()
    array([ 0.1763, -0.2204,  0.0441])
    """
    return _core.group_norm_backward(
        grad_output, input, num_groups, weight, mean, rstd, output_mask
    )


def layer_norm(
    input: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    return_stats: bool = False,
) -> Any:
    """Layer normalisation: each sample gets mean 0 and variance 1 over its last axes.

    Parameters
    ----------
    input : array_like
        Any shape that ends in `normalized_shape`, any strides.
    normalized_shape : int or sequence of int
        The sizes of the axes that are normalised over.
    weight, bias : array_like, optional
        Of shape `normalized_shape`; 1 and 0 if left out.
    eps : float
        Added to the variance, 0 or more.
    return_stats : bool
        Whether to return what :func:`layer_norm_backward` needs.

    Returns
    -------
    ndarray, or tuple of ndarray
        Result of `input`'s shape; with `return_stats` (result, mean, rstd), the latter two of the
        leading axes' shape, in float64.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no number.
    ValueError
        If shapes do not fit, or `eps` is negative.

    Notes
    -----
    Statistics and error bounds as in :func:`batch_norm`: the same bits for a row alone and among
    others.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450 (2016).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.layer_norm(np.array([[1e8, 1e8 + 1, 1e8 + 2], [3.0, 3.0, 3.0]]), 3).round(4)
    array([[-1.2247,  0.    ,  1.2247],
           [ 0.    ,  0.    ,  0.    ]])
    """
    return _core.layer_norm(input, normalized_shape, weight, bias, eps, return_stats)


def layer_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    *,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of :func:`layer_norm` with respect to its input, weight and bias.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, normalized_shape, weight : array_like and sequence of int
        As given to :func:`layer_norm`; the weight may be None.
    mean, rstd : array_like
        As :func:`layer_norm` returned them with ``return_stats=True``.
    output_mask : three bools
        Which gradients are wanted; the others are None.

    Returns
    -------
    tuple of (ndarray or None)
        (grad_input, grad_weight, grad_bias).

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If shapes do not fit.

    Notes
    -----
    Formula and error bounds as in :func:`batch_norm_backward`, with weight g for g. `grad_weight`
    and `grad_bias` add up rows in float64, in 64 runs at most whose sums are added in order.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([[0.0, 1.0, 5.0]])
    >>> y, mean, rstd = stableops.layer_norm(x, 3, return_stats=True)
    >>> stableops.layer_norm_backward(np.array([[1.0, 0, 0]]), x, 3, None, mean, rstd)[0].round(4)
    array([[ 0.1763, -0.2204,  0.0441]])
    """
    return _core.layer_norm_backward(
        grad_output, input, normalized_shape, weight, mean, rstd, output_mask
    )


def local_response_norm(
    input: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Local response normalisation, x / (k + alpha / size * sum x^2)^beta over channels next to it.

    Parameters
    ----------
    input : array_like
        (N, C, ...) with at least three dimensions. Any strides.
    size : int
        Number of channels in a window, from c - size // 2 to c + (size - 1) // 2; those beyond the
        first and last channel count as 0.
    alpha, beta, k : float
        Factor, exponent and constant.

    Returns
    -------
    ndarray
        Shape and dtype of `input`.

    Raises
    ------
    TypeError
        If `input` has a dtype that is not allowed, or a setting is no number.
    ValueError
        If `input` has fewer than three dimensions, or `size` is less than 1.

    Notes
    -----
    For alpha >= 0, k > 0 and abs(beta) <= 1: 0.51 ULP in float32 (computed in float64); float16 and
    bfloat16 are rounded once more; 3 ULP in float64, where abs(x) > 2^511, whose square overflows,
    gives 0. A negative base gives NaN.

    References
    ----------
    A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet classification with deep convolutional
    neural networks", NIPS 2012.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x = np.array([3.0, 0.0, 4.0]).reshape(1, 3, 1)
    >>> stableops.local_response_norm(x, 3, alpha=3.0, beta=0.5, k=0.0).ravel()
    array([1., 0., 1.])
    """
    return _core.local_response_norm(input, size, alpha, beta, k)


def local_response_norm_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Any:
    """Gradient of :func:`local_response_norm` with respect to its input.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input, size, alpha, beta, k : array_like and numbers
        As given to :func:`local_response_norm`.

    Returns
    -------
    ndarray
        Shape of `input`, common dtype of both arrays.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed, or a setting is no number.
    ValueError
        If shapes do not fit, or `size` is less than 1.

    Notes
    -----
    With b the base of the power: ``g b^-beta - 2 alpha beta / size x sum of g_j x_j b_j^(-beta -
    1)`` over the channels j whose windows reach this one. Computed in float64: 1 ULP and 2^-40 of
    the sum of the terms' absolute values (float64: 2^-49 times size).

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> x, g = np.array([[[1.0], [2.0]]]), np.array([[[1.0], [0.0]]])
    >>> stableops.local_response_norm_backward(g, x, 3, alpha=3.0, beta=1.0).ravel().round(4)
    array([ 0.1111, -0.1111])
    """
    return _core.local_response_norm_backward(grad_output, input, size, alpha, beta, k)
