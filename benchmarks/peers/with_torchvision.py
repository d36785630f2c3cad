"""torchvision's detection operators. Their compiled part must fit the installed torch."""

from __future__ import annotations

import torch
import torchvision

from benchmarks.peers.with_torch import load as load_torch
from benchmarks.peers.with_torch import on_numpy


def load(threads: int) -> str:
    load_torch(threads)
    return torchvision.__version__


def nms(boxes, scores, *, iou_threshold):
    return on_numpy(lambda b, s: torchvision.ops.nms(b, s, iou_threshold), boxes, scores)


def batched_nms(boxes, scores, idxs, *, iou_threshold):
    def call(b: torch.Tensor, s: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return torchvision.ops.batched_nms(b, s, i, iou_threshold)

    return on_numpy(call, boxes, scores, idxs)
