"""Boxes: areas, formats, and measures of how far two sets of boxes overlap."""

from typing import Any, Literal

from numpy.typing import ArrayLike

from stableops import _core

__all__ = [
    "box_area",
    "box_convert",
    "box_iou",
    "complete_box_iou",
    "distance_box_iou",
    "generalized_box_iou",
]

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


def box_area(boxes: ArrayLike) -> Any:
    """Area of boxes, (x2 - x1) (y2 - y1).

    Parameters
    ----------
    boxes : array_like, shape (..., 4)
        Corners (x1, y1, x2, y2). float64, float32, float16 or bfloat16; integers and bools become
        float64, so that areas of large integers do not wrap round.

    Returns
    -------
    ndarray, shape (...)
        Of the dtype of `boxes`. 0 where x2 <= x1 or y2 <= y1, NaN where a coordinate is NaN.

    Raises
    ------
    TypeError
        If `boxes` has a dtype that is not allowed.
    ValueError
        If the last dimension is not 4.

    Notes
    -----
    Error below 0.501 ULP, in float64 below 2.5 ULP. The area of float16 boxes is infinite above
    65504; convert them to float32 first if they are that large.

    Examples
    --------
    >>> import stableops
    >>> stableops.box_area([[0, 0, 4, 3], [5, 5, 5, 9]])
    array([12.,  0.])
    """
    return _core.box_area(boxes)


def box_convert(boxes: ArrayLike, in_fmt: BoxFormat, out_fmt: BoxFormat) -> Any:
    """Convert boxes from one format to another.

    Parameters
    ----------
    boxes : array_like, shape (..., 4)
        float64, float32, float16 or bfloat16; integers and bools become float64.
    in_fmt : {"xyxy", "xywh", "cxcywh"}
        Format of `boxes`: two corners, a corner and the size, or the centre and the size.
    out_fmt : {"xyxy", "xywh", "cxcywh"}
        Format of the result.

    Returns
    -------
    ndarray, shape (..., 4)
        The same boxes in the other format, of the dtype of `boxes`.

    Raises
    ------
    TypeError
        If `boxes` has a dtype that is not allowed.
    ValueError
        If the last dimension is not 4 or a format is unknown.

    Notes
    -----
    Each number is within 0.501 ULP of the exact one, subnormal ones within 1 ULP.

    Examples
    --------
    >>> import stableops
    >>> stableops.box_convert([[10, 20, 30, 60]], "xyxy", "cxcywh")
    array([[20., 40., 20., 40.]])
    """
    return _core.box_convert(boxes, in_fmt, out_fmt)


def box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> Any:
    """Intersection over union of every pair of two sets of boxes.

    Parameters
    ----------
    boxes1 : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2). float64, float32, float16 or bfloat16; integers become float64.
    boxes2 : array_like, shape (M, 4)
        The other set.

    Returns
    -------
    ndarray, shape (N, M)
        Of the promoted dtype. 0 where boxes do not overlap or have no area, NaN where a coordinate
        is NaN.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If an array is not of shape (N, 4).

    Notes
    -----
    Relative error below 16 u, where u is 2^-24 for float32 (and for float16 and bfloat16 before
    their one rounding) and 2^-53 for float64, for all finite coordinates: areas that overflow or
    underflow do not spoil the quotient.

    Examples
    --------
    >>> import stableops
    >>> stableops.box_iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [5, 5, 6, 6]])
    array([[0.33333333, 0.        ]])
    """
    return _core.box_iou(boxes1, boxes2)


def generalized_box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> Any:
    """Generalized intersection over union of every pair: IoU - (C - U) / C.

    C is the area of the smallest box around all corners of both, U that of their union.

    Parameters
    ----------
    boxes1 : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2).
    boxes2 : array_like, shape (M, 4)
        The other set.

    Returns
    -------
    ndarray, shape (N, M)
        In [-1, 1], of the promoted dtype; the second term is 0 where C is 0.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If an array is not of shape (N, 4).

    Notes
    -----
    Absolute error below 64 u (see :func:`box_iou`), for all finite coordinates.

    References
    ----------
    .. [1] H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

    Examples
    --------
    >>> import stableops
    >>> stableops.generalized_box_iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [2, 0, 4, 2], [6, 0, 8, 2]])
    array([[ 1. ,  0. , -0.5]])
    """
    return _core.generalized_box_iou(boxes1, boxes2)


def distance_box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> Any:
    """Distance intersection over union of every pair: IoU - d^2 / c^2.

    d is the distance of the centres, c the diagonal of the smallest box around all corners of both.

    Parameters
    ----------
    boxes1 : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2).
    boxes2 : array_like, shape (M, 4)
        The other set.

    Returns
    -------
    ndarray, shape (N, M)
        In [-1, 1], of the promoted dtype; the second term is 0 where c is 0.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If an array is not of shape (N, 4).

    Notes
    -----
    Absolute error below 64 u (see :func:`box_iou`). Nothing is added to the denominator, where
    torchvision adds 1e-7, which distorts boxes in coordinates from 0 to 1.

    References
    ----------
    .. [1] Z. Zheng et al., "Distance-IoU Loss", AAAI 2020.

    Examples
    --------
    >>> import stableops
    >>> stableops.distance_box_iou([[0, 0, 3, 4]], [[0, 0, 3, 4], [3, 4, 6, 8]])
    array([[ 1.  , -0.25]])
    """
    return _core.distance_box_iou(boxes1, boxes2)


def complete_box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> Any:
    """Complete intersection over union of every pair: the distance IoU minus alpha v.

    v = 4 / pi^2 (atan(w1 / h1) - atan(w2 / h2))^2 compares the aspect ratios, and
    alpha = v / (1 - IoU + v).

    Parameters
    ----------
    boxes1 : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2).
    boxes2 : array_like, shape (M, 4)
        The other set.

    Returns
    -------
    ndarray, shape (N, M)
        In [-2, 1], of the promoted dtype. A width or height that is not positive counts as 0, and
        the aspect angle of a box with neither as 0.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If an array is not of shape (N, 4).

    Notes
    -----
    Absolute error below 64 u (see :func:`box_iou`).

    References
    ----------
    .. [1] Z. Zheng et al., "Distance-IoU Loss", AAAI 2020.

    Examples
    --------
    >>> import stableops
    >>> stableops.complete_box_iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [0, 0, 4, 2]])
    array([[1.        , 0.44675187]])
    """
    return _core.complete_box_iou(boxes1, boxes2)
