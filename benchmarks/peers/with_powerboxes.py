"""powerboxes: box operations in Rust; the R-tree variant where there are many boxes."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import powerboxes

# below this number of boxes its plain function is the faster of the two
RTREE_FROM = 1_000


def load(_threads: int) -> str:
    return version("powerboxes")


def nms(boxes, scores, *, iou_threshold):
    # its scores are float64
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    suppress = powerboxes.rtree_nms if len(boxes) >= RTREE_FROM else powerboxes.nms
    return lambda: suppress(boxes, scores, iou_threshold, 0.0)
