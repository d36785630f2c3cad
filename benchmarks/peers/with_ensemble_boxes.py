"""ensemble-boxes: soft-NMS and weighted boxes fusion, for boxes in [0, 1]."""

from __future__ import annotations

from importlib.metadata import version

import ensemble_boxes
import numpy as np


def load(_threads: int) -> str:
    return version("ensemble-boxes")


def soft_nms(boxes, scores, *, method):
    labels = np.zeros(len(boxes))
    number = {"linear": 1, "gaussian": 2}[method]

    def call():
        # it writes into the scores
        return ensemble_boxes.soft_nms(
            [boxes], [scores.copy()], [labels], method=number, iou_thr=0.3, sigma=0.5, thresh=0.001
        )

    return call, lambda result: np.sort(result[1])[::-1]


def weighted_boxes_fusion(boxes, scores, idxs, model, *, iou_threshold):
    models = range(int(model.max()) + 1)
    lists = [[array[model == m] for m in models] for array in (boxes, scores, idxs)]
    return (
        lambda: ensemble_boxes.weighted_boxes_fusion(*lists, iou_thr=iou_threshold)
    ), lambda result: result[1].astype(np.float32)  # whose digits its sums have
