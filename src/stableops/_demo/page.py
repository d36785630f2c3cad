"""A made-up page of real digits, and the windows that slide over it.

As in `lenet`, randomness is `Generator.random` followed by elementwise arithmetic, so that a seed
gives the same page on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import stableops as so
from stableops._demo.lenet import WINDOW

if TYPE_CHECKING:
    import numpy.typing as npt

    from stableops._digits import Digits

    Array = npt.NDArray[Any]

__all__ = [
    "CLASSES",
    "NO_DIGIT",
    "Page",
    "as_windows",
    "compose_page",
    "training_samples",
    "windows_of",
]

NO_DIGIT = 10
"""The label of a window without a digit in its middle."""

CLASSES = NO_DIGIT + 1
"""Outputs of a network that reads a page."""

SCALES = (1, 2)
"""Sizes of the digits on a page, as multiples of `SIDE`."""

SIDE = 8
MARGIN = (WINDOW - SIDE) // 2
GAP = 3
"""Least distance between two digits of a page."""

NEGATIVES = 3
"""Training windows without a digit, for each one with a digit."""

UNCLEAR = 1.5
"""A digit so far off the middle, or less, makes no example of a window without a digit."""


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


def as_windows(images: Array) -> Array:
    """Put a margin around images of digits: (N, 8, 8) becomes (N, 1, 12, 12)."""
    return np.pad(images, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))[:, None]


def windows_of(ink: Array, scale: int) -> Array:
    """View every window of a page, at a scale of 1 or 2.

    Returns
    -------
    ndarray of float32, shape (rows, columns, 12, 12)
        A view: overlapping windows share their memory. The middle 8x8 pixels of window
        [row, column] are the `scale * 8` pixels of the page from `scale * row` down and from
        `scale * column` to the right.
    """
    if scale > 1:
        ink = so.avg_pool2d(ink[None], scale)[0]
    return sliding_window_view(np.pad(ink, MARGIN), (WINDOW, WINDOW))


def training_samples(
    digits: Digits, rng: np.random.Generator, *, pages: int = 16
) -> tuple[Array, Array]:
    """Draw samples for a network that tells digits from everything else on a page.

    Parameters
    ----------
    digits : Digits
        Digits to learn.
    rng : numpy.random.Generator
        Source of the pages.
    pages : int
        How many pages to compose and cut up.

    Returns
    -------
    images : ndarray of float32, shape (N, 1, 12, 12)
        All `digits` on empty paper, every digit of the pages with its surroundings, and as many
        windows that show something else or a digit far off the middle.
    labels : ndarray of int64, shape (N,)
        0 to 9, or `NO_DIGIT`.
    """
    images, labels = [as_windows(digits.images)], [digits.labels]
    for _ in range(pages):
        page = compose_page(digits, rng)
        for scale in SCALES:
            windows = windows_of(page.ink, scale)
            shown = _what_windows_show(page, scale, windows.shape[:2])
            is_digit = (shown >= 0) & (shown < NO_DIGIT)
            share = NEGATIVES * is_digit.sum() / shown.size
            chosen = is_digit | ((shown == NO_DIGIT) & (rng.random(shown.shape) < share))
            images.append(windows[chosen][:, None])
            labels.append(shown[chosen])
    return np.concatenate(images), np.concatenate(labels)


def _what_windows_show(page: Page, scale: int, shape: tuple[int, ...]) -> Array:
    """Label the window at every place: a digit, NO_DIGIT, or -1 where it could be either."""
    shown = np.full(shape, NO_DIGIT, dtype=np.int64)
    for (left, top, right, _), label in zip(page.boxes, page.labels, strict=True):
        if right - left == SIDE * scale:
            row, column = top / scale, left / scale
            shown[_around(row, UNCLEAR), _around(column, UNCLEAR)] = -1
            shown[_around(row, 0.5), _around(column, 0.5)] = label
    return shown


def _around(centre: float, reach: float) -> slice:
    """Slice of the whole numbers not farther than `reach` from a place."""
    return slice(max(0, int(np.ceil(centre - reach))), int(np.floor(centre + reach)) + 1)


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
