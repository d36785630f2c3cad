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


def turned(boxes):
    # its angles run from x to y, which is clockwise where y points down
    return boxes * np.array([1, 1, 1, 1, -1])


def nms_rotated(boxes, scores, *, iou_threshold):
    boxes = turned(boxes)
    suppress = powerboxes.rtree_rotated_nms if len(boxes) >= RTREE_FROM else powerboxes.rotated_nms
    return lambda: suppress(boxes, scores, iou_threshold, 0.0)


def measure(distance, boxes1, boxes2):
    # a distance is 1 - measure
    return (lambda: distance(boxes1, boxes2)), lambda result: 1 - result


def box_iou(boxes1, boxes2):
    return measure(powerboxes.iou_distance, boxes1, boxes2)


def generalized_box_iou(boxes1, boxes2):
    return measure(powerboxes.giou_distance, boxes1, boxes2)


def distance_box_iou(boxes1, boxes2):
    return measure(powerboxes.diou_distance, boxes1, boxes2)


def box_iou_rotated(boxes1, boxes2):
    return measure(powerboxes.rotated_iou_distance, turned(boxes1), turned(boxes2))
