"""The windows that slide over a page, and what they teach a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import stableops as so
from stableops._demo.lenet import WINDOW
from stableops._demo.page import SCALES, SIDE, compose_page

if TYPE_CHECKING:
    import numpy.typing as npt

    from stableops._demo.page import Page
    from stableops._digits import Digits

    Array = npt.NDArray[Any]

__all__ = ["CLASSES", "NO_DIGIT", "as_windows", "training_samples", "windows_of"]

NO_DIGIT = 10
"""The label of a window without a digit in its middle."""

CLASSES = NO_DIGIT + 1
"""Outputs of a network that reads a page."""

NEGATIVES = 3
"""Training windows of a page without a digit, for each one with a digit."""

UNCLEAR = 1.5
"""Up to so many pixels off the middle, a digit makes neither an example nor a counterexample."""

MARGIN = (WINDOW - SIDE) // 2


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
    digits: Digits, rng: np.random.Generator, *, pages: int = 24
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
        All `digits` on empty paper, every digit of the pages with its surroundings, and more
        windows that show something else or a digit off the middle.
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
