"""Losses of confident predictions: as people write them, and as stableops computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import stableops as so

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["Row", "format_table", "loss_table"]

SMALLEST_PROBABILITY = 1e-9


class Row(NamedTuple):
    """A line of the table: what is computed, and its two values."""

    what: str
    naive: Array | float
    stable: Array | float


def naive_softmax(x: Array) -> Array:
    """Softmax, shifted so that nothing overflows."""
    e = np.exp(x - x.max())
    probabilities: Array = e / e.sum()
    return probabilities


def naive_sigmoid(x: Array) -> Array:
    """Sigmoid in one line, which overflows on the way for large negative `x`."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-x))


def naive_cross_entropy(probabilities: Array, label: int) -> float:
    """Cross-entropy of probabilities, clipped against the logarithm of 0."""
    return float(-np.log(max(probabilities[label], SMALLEST_PROBABILITY)))


def naive_fused_cross_entropy(x: Array, label: int) -> float:
    """Cross-entropy by the usual log-sum-exp formula."""
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum()) - x[label])


def loss_table() -> list[Row]:
    """Compute the table.

    Returns
    -------
    list of Row
        Everything in float64, from integers.
    """
    logits, scores = np.array([1, 1, 1, 4000]), np.array([1, 1, -4000, -4000])
    first, last = np.array([1, 0, 0, 0]), np.array([0, 0, 0, 1])
    confident = np.array([40, 0, 0])
    return [
        Row("softmax([1, 1, 1, 4000])", naive_softmax(logits), so.softmax(logits)),
        Row(
            "    cross-entropy, label 0",
            naive_cross_entropy(naive_softmax(logits), 0),
            float(so.softmax_cross_entropy(logits, first)),
        ),
        Row("sigmoid([1, 1, -4000, -4000])", naive_sigmoid(scores), so.sigmoid(scores)),
        Row(
            "    cross-entropy, label 3",
            naive_cross_entropy(naive_sigmoid(scores), 3),
            float(so.sigmoid_cross_entropy(scores, last, negatives=False, reduction="sum")),
        ),
        Row("softmax([40, 0, 0])", naive_softmax(confident), so.softmax(confident)),
        Row(
            "    cross-entropy, label 0",
            naive_fused_cross_entropy(confident, 0),
            float(so.softmax_cross_entropy(confident, np.array([1, 0, 0]))),
        ),
    ]


def format_table(rows: list[Row]) -> str:
    """Lay the table out as text, below 80 columns wide."""
    lines = [f"{'':31}{'as people write it':24}stableops"]
    for what, naive, stable in rows:
        lines.append(f"{what:31}{_as_text(naive):24}{_as_text(stable)}")
    return "\n".join(lines)


def _as_text(value: Array | float) -> str:
    """A loss with every digit, an array of probabilities with three."""
    if isinstance(value, float):
        return repr(value)
    return "[" + " ".join(f"{probability:.3g}" for probability in value) + "]"
