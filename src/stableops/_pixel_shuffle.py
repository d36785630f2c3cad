"""Channels to pixels and back: rearrangements, each one copy."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["pixel_shuffle", "pixel_unshuffle"]


def pixel_shuffle(input: ArrayLike, upscale_factor: int) -> Any:
    """Spreads the channels of images over blocks of pixels (sub-pixel convolution, depth to space).

    ``y[..., c, h * r + i, w * r + j] = x[..., c * r * r + i * r + j, h, w]`` with
    r = `upscale_factor`.

    Parameters
    ----------
    input : array_like
        (..., C * r * r, H, W), any dtype.
    upscale_factor : int
        Side of a block, at least 1.

    Returns
    -------
    ndarray
        (..., C, H * r, W * r), a copy; channels-last in memory if `input` is.

    Raises
    ------
    TypeError
        If `upscale_factor` is no int, or `input` a masked array.
    ValueError
        If `input` has fewer than three dimensions, or r * r does not divide its channels.

    Notes
    -----
    Exact. The gradient is :func:`pixel_unshuffle` of the gradient.

    References
    ----------
    W. Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
    convolutional neural network", CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.pixel_shuffle(np.arange(4.0).reshape(4, 1, 1), 2)
    array([[[0., 1.],
            [2., 3.]]])
    """
    x, r = _checked(input, upscale_factor, "upscale_factor")
    *lead, c, h, w = x.shape
    if c % (r * r):
        msg = f"input has shape {x.shape}; its {c} channels must be a multiple of {r} * {r}"
        raise ValueError(msg)
    n = len(lead)
    axes = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    parts = x.reshape(*lead, c // (r * r), r, r, h, w).transpose(axes)
    return _packed(parts, (*lead, c // (r * r), h * r, w * r), like=x)


def pixel_unshuffle(input: ArrayLike, downscale_factor: int) -> Any:
    """Gathers blocks of pixels into channels (reorg, passthrough, space to depth).

    The inverse of :func:`pixel_shuffle`:
    ``y[..., c * r * r + i * r + j, h, w] = x[..., c, h * r + i, w * r + j]`` with
    r = `downscale_factor`.

    Parameters
    ----------
    input : array_like
        (..., C, H * r, W * r), any dtype.
    downscale_factor : int
        Side of a block, at least 1.

    Returns
    -------
    ndarray
        (..., C * r * r, H, W), a copy; channels-last in memory if `input` is.

    Raises
    ------
    TypeError
        If `downscale_factor` is no int, or `input` a masked array.
    ValueError
        If `input` has fewer than three dimensions, or r does not divide its height and width.

    Notes
    -----
    Exact. The gradient is :func:`pixel_shuffle` of the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.pixel_unshuffle(np.arange(4.0).reshape(1, 2, 2), 2).ravel()
    array([0., 1., 2., 3.])
    """
    x, r = _checked(input, downscale_factor, "downscale_factor")
    *lead, c, h, w = x.shape
    if h % r or w % r:
        msg = f"input has shape {x.shape}; its height and width must be multiples of {r}"
        raise ValueError(msg)
    n = len(lead)
    axes = (*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    parts = x.reshape(*lead, c, h // r, r, w // r, r).transpose(axes)
    return _packed(parts, (*lead, c * r * r, h // r, w // r), like=x)


def _checked(input: ArrayLike, factor: int, name: str) -> tuple[NDArray[Any], int]:
    x = input if isinstance(input, np.ndarray) else np.asarray(input)
    if isinstance(x, np.ma.MaskedArray):
        msg = "input is a masked array; pass its data"
        raise TypeError(msg)
    if isinstance(factor, bool) or not isinstance(factor, int | np.integer):
        msg = f"{name}={factor!r} is not allowed; an int is"
        raise TypeError(msg)
    if factor < 1:
        msg = f"{name}={factor} is not allowed; it must be 1 or more"
        raise ValueError(msg)
    if x.ndim < 3:
        msg = f"input has shape {x.shape}; it must be (..., C, H, W)"
        raise ValueError(msg)
    return x, int(factor)


def _packed(parts: NDArray[Any], shape: tuple[int, ...], like: NDArray[Any]) -> NDArray[Any]:
    """A copy of `parts` as `shape`, channels-last in memory if `like` is."""
    channels_last = like.shape[-3] > 1 and like.strides[-3] == like.itemsize
    if not channels_last or like.flags.c_contiguous:
        y = np.empty(shape, parts.dtype)
    else:
        y = np.moveaxis(np.empty((*shape[:-3], *shape[-2:], shape[-3]), parts.dtype), -1, -3)
    # Dividing axes never copies, so this is a view of y.
    to = y.reshape(parts.shape)
    size = parts.itemsize
    plain = not parts.dtype.hasobject and size in (1, 2, 4, 8) and parts.flags.aligned
    if plain and all(stride % size == 0 for stride in parts.strides):
        _core.rearrange_into(to, parts)
    else:
        to[...] = parts
    return y
