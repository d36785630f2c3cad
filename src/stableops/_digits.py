"""The handwritten digits that come with the package.

1,797 real digits of 8x8 pixels: the test part of E. Alpaydin and C. Kaynak, "Optical Recognition
of Handwritten Digits", UCI Machine Learning Repository, 1998, doi:10.24432/C50P49, licensed under
CC BY 4.0 (see ``data/digits.txt``).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Digits", "load_digits", "split_digits"]

FULL_INK = 16


class Digits(NamedTuple):
    """Images of digits and what they show.

    Attributes
    ----------
    images : ndarray of float32, shape (N, 8, 8)
        Ink, from 0 (none) to 1 (full), in steps of 1/16: exact in every float type.
    labels : ndarray of int64, shape (N,)
        The digit, 0 to 9.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def load_digits() -> Digits:
    """Load all 1,797 digits, in the order of the original data set.

    Returns
    -------
    Digits
        Images and labels.

    Examples
    --------
    >>> from stableops._digits import load_digits
    >>> digits = load_digits()
    >>> digits.images.shape, digits.images.max(), digits.labels[:10]
    ((1797, 8, 8), np.float32(1.0), array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
    """
    with np.load(Path(__file__).parent / "data" / "digits.npz") as data:
        images = data["images"].astype(np.float32) / np.float32(FULL_INK)
        return Digits(images, data["labels"].astype(np.int64))


def split_digits(digits: Digits) -> tuple[Digits, Digits]:
    """Hold out a fifth: of each digit, every fifth example.

    The split has nothing random in it. The same people wrote both parts, so that accuracy on the
    held-out part says how well a network reads known hands, not new ones.

    Parameters
    ----------
    digits : Digits
        What to split.

    Returns
    -------
    training, held_out : Digits
        Four fifths and one fifth (1,438 and 359 of the digits that come with the package).
    """
    by_label = np.argsort(digits.labels, kind="stable")
    is_held_out = np.zeros(len(by_label), dtype=bool)
    is_held_out[by_label[4::5]] = True
    training, held_out = (
        Digits(digits.images[chosen], digits.labels[chosen])
        for chosen in (~is_held_out, is_held_out)
    )
    return training, held_out
