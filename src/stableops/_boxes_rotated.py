"""Rotated boxes."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["box_iou_rotated", "nms_rotated"]


def box_iou_rotated(boxes1: ArrayLike, boxes2: ArrayLike) -> Any:
    """Intersection over union of every pair of two sets of rotated boxes.

    Parameters
    ----------
    boxes1 : array_like, shape (N, 5)
        Centre x, centre y, width, height, and angle in degrees, counter-clockwise where y points
        down (as in detectron2). float64, float32, float16 or bfloat16; integers become float64.
    boxes2 : array_like, shape (M, 5)
        The other set.

    Returns
    -------
    ndarray, shape (N, M)
        Of the promoted dtype. 0 where a width or height is not positive, NaN where a number is NaN
        or infinite.

    Raises
    ------
    TypeError
        If an array has a dtype that is not allowed.
    ValueError
        If an array is not of shape (N, 5).

    Notes
    -----
    Relative error below 1e-12 in float64, also for shared corners, nearly parallel sides and
    slivers down to 1e-17 of the size of the larger box; what is narrower loses digits and ends as
    0. Other dtypes are computed in float64 and rounded once. Angles may be of any size.

    Examples
    --------
    >>> import stableops
    >>> stableops.box_iou_rotated([[0, 0, 2, 2, 0]], [[0, 0, 2, 2, 90], [1, 0, 2, 2, 180]])
    array([[1.        , 0.33333333]])
    """
    return _core.box_iou_rotated(boxes1, boxes2)


def nms_rotated(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of rotated boxes.

    Goes through the boxes by descending score and keeps one unless its intersection over union with
    a box kept before is greater than `iou_threshold`.

    Parameters
    ----------
    boxes : array_like, shape (N, 5)
        Centre x, centre y, width, height, and angle in degrees, as in :func:`box_iou_rotated`.
    scores : array_like, shape (N,)
        Equal scores keep the lower index first; NaN comes last.
    iou_threshold : float
        In [0, 1].
    max_output : int, optional
        Stop when this many boxes are kept.
    score_threshold : float, optional
        Leave out boxes whose score is not greater than this.

    Returns
    -------
    ndarray of int64
        Indices of the boxes kept, by descending score.

    Raises
    ------
    TypeError
        If an argument has a dtype or type that is not allowed.
    ValueError
        If a shape is wrong, the lengths differ, or a number is outside its range.

    Notes
    -----
    Compares the IoU of :func:`box_iou_rotated`, which is within 1e-12. Boxes without area or with a
    number that is not finite are kept and suppress nothing.

    Examples
    --------
    >>> import stableops
    >>> boxes = [[5, 5, 10, 4, 0], [5, 5, 10, 4, 10], [5, 5, 10, 4, 90]]
    >>> stableops.nms_rotated(boxes, [0.9, 0.8, 0.7], iou_threshold=0.5)
    array([0, 2])
    """
    return _core.nms_rotated(boxes, scores, iou_threshold, max_output, score_threshold)
