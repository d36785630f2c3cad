"""Detection: nms and batched_nms from 100 to 100,000 boxes, crowded (many overlaps) and sparse, and
on sets that are hard for a grid; soft_nms and weighted_boxes_fusion; the IoU of two sets of boxes
and its relatives; rotated boxes."""

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


def image_crowd(count: int, rng: np.random.Generator, per_object: int = 10) -> np.ndarray:
    """Boxes of all sizes around objects of one image, as a detector makes them."""
    objects = max(1, count // per_object)
    of = rng.integers(0, objects, count)
    centres = rng.uniform(0, [1333, 800], (objects, 2))
    sizes = np.exp(rng.normal(4, 0.8, (objects, 2)))
    centres = centres[of] + rng.normal(0, 0.12, (count, 2)) * sizes[of]
    sizes = sizes[of] * np.exp(rng.normal(0, 0.12, (count, 2)))
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def one_place(count: int, rng: np.random.Generator) -> np.ndarray:
    return np.array([100, 100, 200, 220]) + rng.uniform(-9, 9, (count, 4))


def huge_over_small(count: int, rng: np.random.Generator) -> np.ndarray:
    corners = rng.uniform(0, 20_000, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)
    boxes[::100] = np.array([-1e5, -1e5, 1e5, 1e5]) + rng.uniform(0, 5e4, (len(boxes[::100]), 4))
    return boxes


def on_a_line(count: int, rng: np.random.Generator) -> np.ndarray:
    start = rng.uniform(0, 20 * count, count)
    return np.stack([start, 0 * start, start + 50, 0 * start + 10], axis=1)


def nine_decades(count: int, rng: np.random.Generator) -> np.ndarray:
    sizes = 10 ** rng.uniform(-5, 4, (count, 2))
    corners = rng.uniform(0, 10_000, (count, 2))
    return np.concatenate([corners, corners + sizes], axis=1)


def points(count: int, rng: np.random.Generator) -> np.ndarray:
    """Next to no area, so that nothing overlaps."""
    corners = rng.uniform(0, 10_000, (count, 2))
    return np.concatenate([corners, corners + 0.002], axis=1)


def crossing_strips(count: int, rng: np.random.Generator) -> np.ndarray:
    start = rng.uniform(0, 20_000, count)
    strips = np.stack([0 * start, start, 0 * start + 20_000, start + 1], axis=1)
    strips[::2] = strips[::2][:, [1, 0, 3, 2]]
    return strips


SETS = {
    "image crowd": image_crowd,
    "one place": one_place,
    "huge over small": huge_over_small,
    "on a line": on_a_line,
    "nine decades of size": nine_decades,
    "crossing strips": crossing_strips,
    "points": points,
}


def set_case(count: int, kind: str) -> Case:
    return Case(
        name=f"nms {count} boxes, {kind}",
        operation="nms",
        inputs=lambda rng: [
            SETS[kind](count, rng).astype(np.float32),
            rng.permutation(np.linspace(0.01, 0.99, count)).astype(np.float32),
        ],
        options={"iou_threshold": IOU_THRESHOLD},
    )


def unit_detections(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """float64 in [0, 1], as ensemble-boxes wants them."""
    boxes = np.clip(image_crowd(count, rng) / [1333, 800, 1333, 800], 0, 1)
    return [boxes, rng.permutation(np.linspace(0.01, 0.99, count))]


def soft_nms_case(count: int, method: str) -> Case:
    return Case(
        name=f"soft_nms {method} {count} boxes",
        operation="soft_nms",
        inputs=lambda rng: unit_detections(count, rng),
        options={"method": method},
        quick=count == 1_000,
    )


def fusion_case(count: int) -> Case:
    return Case(
        name=f"weighted_boxes_fusion {count} boxes of 3 models",
        operation="weighted_boxes_fusion",
        inputs=lambda rng: [
            *unit_detections(count, rng),
            rng.integers(0, 10, count),
            rng.integers(0, 3, count),
        ],
        options={"iou_threshold": 0.55},
        quick=count == 1_000,
    )


def pair_case(operation: str, rows: int, columns: int) -> Case:
    return Case(
        name=f"{operation} ({rows},4) x ({columns},4)",
        operation=operation,
        inputs=lambda rng: [image_crowd(n, rng).astype(np.float32) for n in (rows, columns)],
        flops=17 * rows * columns,
        quick=operation == "box_iou" and rows == 1_000,
    )


def rotated_crowd(count: int, rng: np.random.Generator) -> np.ndarray:
    boxes = image_crowd(count, rng)
    return np.column_stack(
        [
            (boxes[:, :2] + boxes[:, 2:]) / 2,
            boxes[:, 2:] - boxes[:, :2],
            rng.uniform(-180, 180, count),
        ]
    )


def rotated_pair_case(count: int) -> Case:
    return Case(
        name=f"box_iou_rotated ({count},5) x ({count},5)",
        operation="box_iou_rotated",
        inputs=lambda rng: [rotated_crowd(count, rng) for _ in range(2)],
    )


def rotated_nms_case(count: int) -> Case:
    return Case(
        name=f"nms_rotated {count} boxes",
        operation="nms_rotated",
        inputs=lambda rng: [
            rotated_crowd(count, rng),
            rng.permutation(np.linspace(0.01, 0.99, count)),
        ],
        options={"iou_threshold": IOU_THRESHOLD},
    )


CASES = [
    *(
        make(count, crowded)
        for make in (nms_case, batched_nms_case)
        for crowded in (True, False)
        for count in BOXES
    ),
    *(set_case(count, "image crowd") for count in (*BOXES, 1_000_000)),
    *(set_case(100_000, kind) for kind in SETS if kind != "image crowd"),
    set_case(1_000_000, "points"),
    *(soft_nms_case(count, how) for how in ("linear", "gaussian") for count in (1_000, 10_000)),
    *(fusion_case(count) for count in (1_000, 10_000)),
    *(
        pair_case(operation, *shape)
        for operation in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
        for shape in ((100, 100), (1_000, 1_000), (100, 100_000))
    ),
    rotated_pair_case(300),
    *(rotated_nms_case(count) for count in (1_000, 10_000)),
]
