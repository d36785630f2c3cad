"""Resizing of images, and its adjoint."""

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import ArrayLike

from stableops import _core

__all__ = ["interpolate", "interpolate_backward"]

Mode = Literal["nearest", "bilinear"]
Factor = float | tuple[float, float]


def interpolate(
    input: ArrayLike,
    size: int | tuple[int, int] | None = None,
    scale_factor: Factor | None = None,
    mode: Mode = "nearest",
    align_corners: bool = False,
) -> Any:
    """Resizes images by the nearest pixel or bilinearly, with PyTorch's conventions.

    Parameters
    ----------
    input : array_like
        Images (N, C, H, W), or one image (C, H, W). Any strides; if channels vary fastest in memory
        (channels-last), they do in the result.
    size : int or pair of int, optional
        Rows and columns of the result.
    scale_factor : float or pair of float, optional
        The result gets floor(H * factor) rows, and positions are divided by the factor itself.
        Exactly one of `size` and `scale_factor` must be given.
    mode : "nearest" or "bilinear"
        Nearest takes row floor(i / factor), or i // 2 where the size doubles exactly. Bilinear
        weights the four pixels around ((i + 1/2) / factor - 1/2, ...), clamped to the image. A
        factor that leaves the number of rows or columns as it is changes nothing along them.
    align_corners : bool
        Bilinear only: the centres of the corner pixels of both images coincide; row i lies at
        i * (H - 1) / (OH - 1), whatever the factor.

    Returns
    -------
    ndarray
        (N, C, OH, OW), or (C, OH, OW), in the dtype of `input`.

    Raises
    ------
    TypeError
        If `input` has a dtype that is not allowed, or a setting is of a wrong type.
    ValueError
        If `input` is no image or empty, if none or both of `size` and `scale_factor` are given or
        one is out of range, if `mode` is unknown, or `align_corners` does not go with it.

    Notes
    -----
    Nearest is exact. Bilinear: at most 5 eps of the sum of the terms' absolute values
    (eps = 2^-24 or 2^-53): weights, products and sums are rounded once each. With `size` or
    `align_corners`, positions are quotients of whole numbers and have no error; with `scale_factor`
    one of 2^-52 of themselves.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> image = np.array([[[0.0, 1.0], [2.0, 3.0]]])
    >>> stableops.interpolate(image, scale_factor=2)[0]
    array([[0., 0., 1., 1.],
           [0., 0., 1., 1.],
           [2., 2., 3., 3.],
           [2., 2., 3., 3.]])
    >>> stableops.interpolate(image, (2, 3), mode="bilinear", align_corners=True)[0]
    array([[0. , 0.5, 1. ],
           [2. , 2.5, 3. ]])
    """
    return _core.interpolate(input, size, scale_factor, mode, align_corners)


def interpolate_backward(
    grad_output: ArrayLike,
    input_shape: Sequence[int],
    mode: Mode = "nearest",
    align_corners: bool = False,
    *,
    scale_factor: Factor | None = None,
) -> Any:
    """Gradient of :func:`interpolate` with respect to its input: the adjoint.

    Parameters
    ----------
    grad_output : array_like
        Gradient with respect to the result, of its shape.
    input_shape : sequence of int
        Shape of the input of :func:`interpolate`.
    mode, align_corners : str and bool
        As given to :func:`interpolate`.
    scale_factor : float or pair of float, optional
        As given to :func:`interpolate`, if it was.

    Returns
    -------
    ndarray
        Of `input_shape`, in the dtype of `grad_output`.

    Raises
    ------
    TypeError
        If `grad_output` has a dtype that is not allowed, or a setting is of a wrong type.
    ValueError
        If shapes do not fit each other or `scale_factor`, or a setting is not allowed.

    Notes
    -----
    The same weights as in :func:`interpolate`. Sums in float64, over rows and then over columns,
    ascending; rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> import stableops
    >>> stableops.interpolate_backward(np.ones((1, 4, 6)), (1, 2, 2))[0]
    array([[6., 6.],
           [6., 6.]])
    """
    return _core.interpolate_backward(grad_output, input_shape, mode, align_corners, scale_factor)
