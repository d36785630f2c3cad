"""lsnms: near-linear non-maximum suppression."""

from __future__ import annotations

from importlib.metadata import version

import lsnms
import numpy as np


def load(_threads: int) -> str:
    return version("lsnms")


def nms(boxes, scores, *, iou_threshold):
    # it takes float64, which its users have already
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    return lambda: lsnms.nms(boxes, scores, iou_threshold=iou_threshold)


def batched_nms(boxes, scores, idxs, *, iou_threshold):
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    return lambda: lsnms.nms(boxes, scores, iou_threshold=iou_threshold, class_ids=idxs)
