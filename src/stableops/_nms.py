"""Non-maximum suppression."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["batched_nms", "nms"]


def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Goes through the boxes by descending score and keeps one unless its intersection over union with
    a box kept before is greater than `iou_threshold`.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2), without a "+1" convention. float64, float32, float16 or bfloat16;
        integers are converted to float64.
    scores : array_like, shape (N,)
        Of any such dtype. Equal scores keep the lower index first; NaN comes last.
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
    The result is that of exact arithmetic on the numbers given: no rounding takes part in
    IoU > threshold, however close, large or small the coordinates are. (0.7 stands for the float64
    next to it, as everywhere in Python.)

    A box with x2 <= x1 or y2 <= y1 has area 0 and IoU 0 with every box; so has one with an infinite
    coordinate. They are kept, and so is a box with a NaN coordinate, which suppresses nothing.

    Takes about n log n time for crowds of boxes as detectors make them, and never more than a
    vectorised sweep over the boxes kept.

    References
    ----------
    .. [1] A. Neubeck and L. Van Gool, "Efficient Non-Maximum Suppression", ICPR 2006.

    Examples
    --------
    >>> import stableops
    >>> boxes = [[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]]
    >>> stableops.nms(boxes, [0.8, 0.9, 0.7], iou_threshold=0.5)
    array([1, 2])
    """
    return _core.nms(boxes, scores, iou_threshold, max_output, score_threshold)


def batched_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    idxs: ArrayLike,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression among boxes of the same class.

    As :func:`nms`, but a box suppresses only boxes that have its own class id. Class ids are
    compared; coordinates are not shifted, so no precision is lost.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2).
    scores : array_like, shape (N,)
        Equal scores keep the lower index first; NaN comes last.
    idxs : array_like of int, shape (N,)
        The class (or image) of each box: any int64.
    iou_threshold : float
        In [0, 1].
    max_output : int, optional
        Return no more than this many boxes, those of the highest scores over all classes.
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
    Exact, as :func:`nms`. Classes are worked on in parallel; the result does not depend on it.

    Examples
    --------
    >>> import stableops
    >>> boxes = [[0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10]]
    >>> stableops.batched_nms(boxes, [0.8, 0.9, 0.7], [0, 0, 1], iou_threshold=0.5)
    array([1, 2])
    """
    return _core.batched_nms(boxes, scores, idxs, iou_threshold, max_output, score_threshold)
