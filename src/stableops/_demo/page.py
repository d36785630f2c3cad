"""A made-up page of real digits.

As in `training`, randomness is `Generator.random` followed by elementwise arithmetic, so that a
seed gives the same page on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from stableops._digits import Digits

    Array = npt.NDArray[Any]

__all__ = ["SCALES", "SIDE", "Page", "compose_page", "enlarge"]

SIDE = 8
"""Side of a small digit, in pixels."""

SCALES = (1, 2)
"""Sizes of the digits on a page, as multiples of `SIDE`."""

GAP = 3
"""Least distance between two digits, in pixels."""


class Page(NamedTuple):
    """A page and what was written on it.

    Attributes
    ----------
    ink : ndarray of float32, shape (H, W)
        From 0 (paper) to 1.
    boxes : ndarray of float32, shape (N, 4)
        Where each digit is: x1, y1, x2, y2.
    labels : ndarray of int64, shape (N,)
        Which digit it is.
    """

    ink: Array
    boxes: Array
    labels: Array


def compose_page(
    digits: Digits,
    rng: np.random.Generator,
    *,
    height: int = 112,
    width: int = 168,
    count: int = 48,
) -> Page:
    """Write digits of two sizes at random places of a page with lines, rings and scribbles.

    Parameters
    ----------
    digits : Digits
        To draw from, with replacement.
    rng : numpy.random.Generator
        Source of all choices.
    height, width : int
        Size of the page in pixels.
    count : int
        Number of digits; fewer if the page is full.

    Returns
    -------
    Page
    """
    ink = _clutter(rng, height, width)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    taken = np.zeros((height, width), dtype=bool)
    for _ in range(20 * count):
        if len(boxes) == count:
            break
        scale = 2 if rng.random() < 0.25 else 1
        side = SIDE * scale
        left = int(rng.random() * (width - side + 1))
        top = int(rng.random() * (height - side + 1))
        here = np.s_[top : top + side, left : left + side]
        if taken[here].any():
            continue
        chosen = int(rng.random() * len(digits.labels))
        ink[here] = np.maximum(ink[here], enlarge(digits.images[chosen], scale))
        taken[max(top - GAP, 0) : top + side + GAP, max(left - GAP, 0) : left + side + GAP] = True
        boxes.append((left, top, left + side, top + side))
        labels.append(int(digits.labels[chosen]))
    grain = rng.random((height, width)).astype(np.float32)
    ink = np.minimum(ink + np.float32(0.06) * grain, np.float32(1.0))
    return Page(ink, np.array(boxes, dtype=np.float32), np.array(labels, dtype=np.int64))


def enlarge(image: Array, scale: int) -> Array:
    """Enlarge an image by a whole number, bilinearly between pixel centres."""
    for axis in (0, 1):
        size = image.shape[axis]
        centre = (np.arange(size * scale) + 0.5) / scale - 0.5
        low = np.clip(np.floor(centre).astype(np.int64), 0, size - 1)
        high = np.minimum(low + 1, size - 1)
        part = np.clip(centre - low, 0.0, 1.0).astype(image.dtype)
        part = part[:, None] if axis == 0 else part
        image = image.take(low, axis) * (1 - part) + image.take(high, axis) * part
    return image


def _clutter(rng: np.random.Generator, height: int, width: int) -> Array:
    """Draw what lies on a page besides digits: ruled lines, strokes of a pen, rings of a cup."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ink = np.zeros((height, width), dtype=np.float32)
    ink[int(rng.random() * 12) :: 12] = 0.12

    def draw(distance: Array, radius: float, strength: float) -> None:
        """Ink everything nearer than `radius`, with an edge one pixel wide."""
        np.maximum(ink, np.float32(strength) * np.clip(radius + 0.5 - distance, 0, 1), out=ink)

    for _ in range(2):
        across, down = x - rng.random() * width, y - rng.random() * height
        size = 14 + 10 * rng.random()
        draw(np.abs(np.sqrt(across * across + down * down) - size), 0.8, 0.35)
    for _ in range(5):
        x0, y0 = rng.random() * width, rng.random() * height
        dx, dy = (20 * (2 * rng.random() - 1) for _ in "xy")
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        across, down = x - x0 - along * dx, y - y0 - along * dy
        draw(np.sqrt(across * across + down * down), 0.5, 0.5 + 0.5 * rng.random())
    for _ in range(8):
        across, down = x - rng.random() * width, y - rng.random() * height
        draw(np.sqrt(across * across + down * down), 0.5 + 1.5 * rng.random(), 0.8)
    return ink
