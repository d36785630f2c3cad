"""Find digits on a page: slide the network over it, then suppress all but the best boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import stableops as so
from stableops._demo.page import SCALES, SIDE
from stableops._demo.windows import NO_DIGIT, windows_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from stableops._demo.lenet import LeNet
    from stableops._demo.page import Page

    Array = npt.NDArray[Any]

__all__ = ["Detections", "Outcome", "compare", "slide", "suppress"]


class Detections(NamedTuple):
    """Boxes (x1, y1, x2, y2), the probability of each, and the digit seen in it."""

    boxes: Array
    scores: Array
    labels: Array


class Outcome(NamedTuple):
    """What became of each box and of each digit.

    Attributes
    ----------
    right, misread, false_alarm : ndarray of bool, one for each box
        The box lies on a digit and says which, or says another, or lies on none.
    missed : ndarray of bool, one for each digit of the page
        No box lies on it.
    """

    right: Array
    misread: Array
    false_alarm: Array
    missed: Array


def slide(net: LeNet, ink: Array, *, threshold: float = 0.9) -> Detections:
    """Look at every window of a page, in two sizes.

    Parameters
    ----------
    net : LeNet
        Trained with `NO_DIGIT` as its last class.
    ink : ndarray of float32, shape (H, W)
        The page.
    threshold : float
        Least probability of a digit for a box.

    Returns
    -------
    Detections
        One for each window with a digit in its middle: many for each digit.
    """
    found: list[tuple[Array, Array, Array]] = []
    for scale in SCALES:
        # One batch for each row of windows, and no copy: stableops reads the view as it is.
        for row, windows in enumerate(windows_of(ink, scale)):
            probabilities = so.softmax(net.forward(windows[:, None]), axis=1)[:, :NO_DIGIT]
            labels = probabilities.argmax(axis=1)
            scores = probabilities.max(axis=1)
            columns = np.flatnonzero(scores > threshold)
            corners = np.stack([columns, np.full_like(columns, row)], axis=1) * scale
            boxes = np.concatenate([corners, corners + SIDE * scale], axis=1)
            found.append((boxes.astype(np.float32), scores[columns], labels[columns]))
    return Detections(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def suppress(detections: Detections, *, iou_threshold: float = 0.3) -> Detections:
    """Keep the best of all boxes that overlap (non-maximum suppression)."""
    kept = so.nms(detections.boxes, detections.scores, iou_threshold)
    return Detections(*(values[kept] for values in detections))


def compare(detections: Detections, page: Page) -> Outcome:
    """Compare boxes with the truth.

    Parameters
    ----------
    detections : Detections
        As `suppress` leaves them. The box that fits a digit best is on it if their intersection
        is more than half of their union.
    page : Page
        The truth.

    Returns
    -------
    Outcome
    """
    iou = so.box_iou(page.boxes, detections.boxes)
    on_it = (iou > 0.5) & (iou == iou.max(axis=1, keepdims=True, initial=0))
    on_any = on_it.any(axis=0)
    right = (on_it & (page.labels[:, None] == detections.labels)).any(axis=0)
    return Outcome(right, on_any & ~right, ~on_any, ~on_it.any(axis=1))
