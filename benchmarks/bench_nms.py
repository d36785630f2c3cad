"""nms and batched_nms from 100 to 100,000 boxes, crowded (many overlaps) and sparse (few)."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case

BOXES = (100, 1_000, 8_400, 20_000, 100_000)
CLASSES = 80
IOU_THRESHOLD = 0.5


def detections(count: int, crowded: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """Boxes in (x1, y1, x2, y2), and distinct scores, so that ties cannot decide the answer.

    Crowded: twenty boxes around each object, as a detector's anchors; sparse: spread over an
    image that grows with their number, so that few overlap.
    """
    if crowded:
        objects = max(1, count // 20)
        centres = rng.uniform(0, 1000, (objects, 2))[rng.integers(0, objects, count)]
        centres += rng.normal(0, 4, (count, 2))
        sizes = rng.uniform(30, 60, (objects, 2))[rng.integers(0, objects, count)]
        sizes *= rng.uniform(0.8, 1.25, (count, 2))
    else:
        centres = rng.uniform(0, 60 * count**0.5, (count, 2))
        sizes = rng.uniform(10, 60, (count, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    scores = rng.permutation(np.linspace(0.01, 0.99, count))
    return [boxes.astype(np.float32), scores.astype(np.float32)]


def nms_case(count: int, crowded: bool) -> Case:
    kind = "crowded" if crowded else "sparse"
    return Case(
        name=f"nms {count} boxes {kind}",
        operation="nms",
        inputs=lambda rng: detections(count, crowded, rng),
        options={"iou_threshold": IOU_THRESHOLD},
        quick=count in ((100, 1_000, 8_400) if crowded else (1_000,)),
        size=count,
    )


def batched_nms_case(count: int, crowded: bool) -> Case:
    kind = "crowded" if crowded else "sparse"
    return Case(
        name=f"batched_nms {count} boxes {CLASSES} classes {kind}",
        operation="batched_nms",
        inputs=lambda rng: [*detections(count, crowded, rng), rng.integers(0, CLASSES, count)],
        options={"iou_threshold": IOU_THRESHOLD},
        quick=count == 8_400 and crowded,
        size=count,
    )


CASES = [
    make(count, crowded)
    for make in (nms_case, batched_nms_case)
    for crowded in (True, False)
    for count in BOXES
]
