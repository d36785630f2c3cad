"""The page as a picture: enlarged, with the boxes that were found and the digits read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stableops._demo.page import enlarge

if TYPE_CHECKING:
    import numpy.typing as npt

    from stableops._demo.detect import Detections, Outcome
    from stableops._demo.page import Page

    Array = npt.NDArray[Any]

__all__ = ["draw_page"]

ZOOM = 6


def _colour(*red_green_blue: int) -> Array:
    return np.array(red_green_blue, dtype=np.float32)


PAPER = _colour(252, 249, 240)
INK = _colour(36, 48, 92)
CANDIDATE = _colour(122, 176, 222)
RIGHT = _colour(18, 140, 92)
WRONG = _colour(214, 58, 40)
MISSED = _colour(222, 148, 14)

# 3x5 pixels, a row after the other.
GLYPHS = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001010010",
    "111101111101111",
    "111101111001111",
)


def draw_page(page: Page, candidates: Detections, kept: Detections, outcome: Outcome) -> Array:
    """Draw a page and what was found on it.

    Parameters
    ----------
    page : Page
        The page.
    candidates : Detections
        All boxes before suppression: thin lines.
    kept : Detections
        The boxes left after it: frames with the digit that was read, green if it is right, red
        if not.
    outcome : Outcome
        Which boxes are right, and which digits have none: amber frames.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    ink = enlarge(page.ink, ZOOM)[:, :, None]
    pixels: Array = PAPER * (1 - ink) + INK * ink
    for box in candidates.boxes:
        _frame(pixels, box, CANDIDATE, thickness=1, strength=0.5)
    for box in page.boxes[outcome.missed]:
        _frame(pixels, box, MISSED, thickness=2)
    for box, label, right in zip(kept.boxes, kept.labels, outcome.right, strict=True):
        colour = RIGHT if right else WRONG
        _frame(pixels, box, colour, thickness=2)
        _tab(pixels, box, label, colour)
    return pixels.round().astype(np.uint8)


def _frame(
    pixels: Array, box: Array, colour: Array, *, thickness: int, strength: float = 1.0
) -> None:
    """Blend a frame into the picture, just inside a box."""
    left, top, right, bottom = (int(edge) for edge in np.round(box * ZOOM))
    frame: Array = np.zeros((bottom - top, right - left, 1), dtype=np.float32)
    for edge in (frame, frame[::-1], frame.swapaxes(0, 1), frame.swapaxes(0, 1)[::-1]):
        edge[:thickness] = strength
    here = pixels[top:bottom, left:right]
    here += frame * (colour - here)


def _tab(pixels: Array, box: Array, label: int, colour: Array) -> None:
    """Write a digit, white on a coloured tab, above a box (or in it, at the top of the page)."""
    glyph: Array = np.array(list(GLYPHS[label]), dtype=np.float32).reshape(5, 3, 1)
    glyph = np.pad(glyph, ((1, 1), (1, 1), (0, 0))).repeat(3, axis=0).repeat(3, axis=1)
    left, bottom = int(np.round(box[0] * ZOOM)), int(np.round(box[1] * ZOOM))
    top = max(0, bottom - len(glyph))
    tab = colour * (1 - glyph) + 255 * glyph
    here = pixels[top : top + tab.shape[0], left : left + tab.shape[1]]
    here[:] = tab[: here.shape[0], : here.shape[1]]
