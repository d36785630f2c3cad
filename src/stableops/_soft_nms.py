"""Soft non-maximum suppression."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["soft_nms"]


def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float = 0.3,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    sigma: float = 0.5,
    score_threshold: float = 0.001,
) -> tuple[NDArray[np.int64], Any]:
    """Soft non-maximum suppression: overlapping boxes lose score instead of being dropped.

    Selects the box of the highest score, multiplies the scores of the others by a factor of their
    IoU with it, and goes on until no score is greater than `score_threshold`.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2). float64, float32, float16 or bfloat16; integers become float64.
    scores : array_like, shape (N,)
        Of any such dtype. NaN and scores not above `score_threshold` are left out.
    iou_threshold : float
        In [0, 1]; for "linear": boxes whose IoU is not greater keep their score.
    method : {"linear", "gaussian"}
        The factor: 1 - IoU, or exp(-IoU**2 / sigma).
    sigma : float
        Positive; for "gaussian".
    score_threshold : float
        Not negative.

    Returns
    -------
    indices : ndarray of int64
        The boxes in the order of their selection, which is that of descending decayed score. Equal
        scores: the lower index first.
    decayed_scores : ndarray
        Their scores when they were selected, of the dtype of `scores`.

    Raises
    ------
    TypeError
        If an argument has a dtype or type that is not allowed.
    ValueError
        If a shape is wrong, the lengths differ, a number is outside its range or `method` is
        unknown.

    Notes
    -----
    Scores are float64 until the end, a factor is within 18 u of the exact one (u = 2**-53, relative
    to 1 for "linear"), and IoU > threshold is decided exactly, as in :func:`nms`. Boxes without
    area, or with a coordinate that is not finite, neither lose score nor take any.

    References
    ----------
    .. [1] N. Bodla et al., "Soft-NMS: improving object detection with one line of code", ICCV 2017.

    Examples
    --------
    >>> import stableops
    >>> boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]]
    >>> indices, scores = stableops.soft_nms(boxes, [0.9, 0.8, 0.7])
    >>> indices
    array([0, 2, 1])
    >>> scores
    array([0.9 , 0.7 , 0.16])
    """
    return _core.soft_nms(boxes, scores, iou_threshold, method, sigma, score_threshold)
