"""What is right: definitions in float64 or mpmath, written independently of csrc, and how to measure
an error against them."""

from fractions import Fraction

import ml_dtypes
import numpy as np


def ulp(x, dtype):
    """The unit in the last place of dtype at the magnitude of the float64 or longdouble x."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.abs(np.asarray(x, np.float64)))
    lowest = np.frexp(np.float64(info.smallest_normal))[1]
    exponent = np.maximum(exponent, lowest)
    return np.ldexp(np.float64(1), exponent - info.nmant - 1)


def same_bits(a, b):
    """Whether two arrays (or scalars) have the same shape, dtype and bits (any NaN equals any NaN)."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(np.all((_bits(a) == _bits(b)) | (np.isnan(a) & np.isnan(b))))


def _bits(x):
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def relu(x):
    return np.where(np.isnan(x), x, np.maximum(x, 0)) + np.zeros((), np.asarray(x).dtype)


def relu_backward(grad_output, output):
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of comparisons with NaN
        positive = output > 0
    return np.where(positive, grad_output, np.zeros((), np.asarray(grad_output).dtype))


def exact_boxes(boxes):
    """Rows of Fractions; None for a row with a coordinate that is not finite."""
    return [
        [Fraction(float(v)) for v in row] if np.isfinite(row.astype(np.float64)).all() else None
        for row in np.asarray(boxes)
    ]


def exact_area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def exact_intersection(a, b):
    """Area of the intersection of two boxes, 0 if either has none."""
    if exact_area(a) == 0 or exact_area(b) == 0:
        return Fraction(0)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def exact_iou(a, b):
    """Intersection over union of two rows of exact_boxes; 0 for a row that is not finite."""
    if a is None or b is None:
        return Fraction(0)
    intersection = exact_intersection(a, b)
    return intersection and intersection / (exact_area(a) + exact_area(b) - intersection)


def nms(
    boxes, scores, iou_threshold, idxs=None, max_output=None, score_threshold=None, iou=exact_iou
):
    """Greedy suppression as it is defined, in exact rational arithmetic."""
    boxes = exact_boxes(boxes)
    scores = [float(score) for score in scores]
    candidates = [i for i, s in enumerate(scores) if score_threshold is None or s > score_threshold]
    candidates.sort(key=lambda i: (np.isnan(scores[i]), 0 if np.isnan(scores[i]) else -scores[i]))
    threshold = Fraction(float(iou_threshold))
    kept = []
    for i in candidates:
        if len(kept) == max_output:
            break
        rivals = [j for j in kept if idxs is None or idxs[i] == idxs[j]]
        if all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept
