"""Weighted boxes fusion."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stableops import _core

__all__ = ["weighted_boxes_fusion"]

Confidence = Literal["avg", "max", "box_and_model_avg", "absent_model_aware_avg"]


def weighted_boxes_fusion(
    boxes: ArrayLike,
    scores: ArrayLike,
    idxs: ArrayLike,
    model: ArrayLike | None = None,
    *,
    iou_threshold: float = 0.55,
    skip_threshold: float = 0.0,
    weights: ArrayLike | None = None,
    conf_type: Confidence = "avg",
    allows_overflow: bool = False,
) -> tuple[Any, Any, NDArray[np.int64]]:
    """Fuse the boxes that several models predict for the same objects.

    Boxes of a class go by descending score. Each joins the cluster whose fused box it overlaps
    most, if their IoU is greater than `iou_threshold`, or opens a cluster. A fused box is the mean
    of its cluster, weighted by the scores.

    Parameters
    ----------
    boxes : array_like, shape (N, 4)
        Corners (x1, y1, x2, y2) of all models together, in any unit (they are not clipped to [0,
        1]). float64, float32, float16 or bfloat16; integers become float64.
    scores : array_like, shape (N,)
        Their scores.
    idxs : array_like of int, shape (N,)
        Their classes: any int64.
    model : array_like of int, shape (N,), optional
        The model that each box comes from, counted from 0. One model if it is left out.
    iou_threshold : float
        In [0, 1].
    skip_threshold : float
        Boxes of lower scores are left out. Not negative.
    weights : array_like, shape (number of models,), optional
        The weight of each model's scores, 1 each if left out; not negative. Without it, the number
        of models is the largest id in `model` plus 1.
    conf_type : {"avg", "max", "box_and_model_avg", "absent_model_aware_avg"}
        The score of a fused box: the mean or the maximum of its boxes' weighted scores, or the mean
        corrected by the weights of the models that saw, or did not see, the object.
    allows_overflow : bool
        For "avg": let clusters of more boxes than there are models score above their mean.

    Returns
    -------
    fused_boxes : ndarray, shape (K, 4)
        Of the dtype of `boxes`.
    fused_scores : ndarray, shape (K,)
        Of the dtype of `scores`, descending; ties by the order in which the clusters' first boxes
        come.
    fused_idxs : ndarray of int64, shape (K,)
        Their classes.

    Raises
    ------
    TypeError
        If an argument has a dtype or type that is not allowed.
    ValueError
        If a shape is wrong, lengths differ, a number is outside its range, a model has no weight,
        or `conf_type` is unknown.

    Notes
    -----
    As the package ensemble-boxes of the authors, but with sums in float64 in the order of joining
    (it keeps fused boxes in float32) and stable ties. Boxes without area, or with a coordinate or
    score that is not finite, are left out. Relative error of a fused corner below (n + 2) 2**-53
    times the weighted mean of the magnitudes, for a cluster of n boxes.

    References
    ----------
    .. [1] R. Solovyev, W. Wang and T. Gabruseva, "Weighted boxes fusion: ensembling boxes from
       different object detection models", Image and Vision Computing 2021.

    Examples
    --------
    >>> import stableops
    >>> boxes = [[0.0, 0.0, 0.5, 0.5], [0.1, 0.0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]]
    >>> fused, scores, classes = stableops.weighted_boxes_fusion(
    ...     boxes, [0.75, 0.25, 0.5], [1, 1, 2], model=[0, 1, 0])
    >>> fused
    array([[0.025, 0.   , 0.5  , 0.5  ],
           [0.6  , 0.6  , 0.9  , 0.9  ]])
    >>> scores
    array([0.5 , 0.25])
    >>> classes
    array([1, 2])
    """
    return _core.weighted_boxes_fusion(
        boxes,
        scores,
        idxs,
        model,
        iou_threshold,
        skip_threshold,
        weights,
        conf_type,
        allows_overflow,
    )
