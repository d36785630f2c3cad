"""Whether the libraries give the same answer: a wrong answer has no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# the largest difference, relative to the largest value of the result; a reduction over thousands
# of terms and Winograd's convolution are inside, a wrong element is not
TOLERANCES = {"float16": 4e-3, "float32": 3e-4, "float64": 1e-9}
# positions and kept boxes: rounding may decide a few comparisons otherwise
INTEGER_TOLERANCE = 1e-3
BLOCK = 1 << 20

Results = Sequence[np.ndarray]


def disagreement(results: Results, reference: Results) -> str | None:
    """What is different beyond the tolerance, in words, or None."""
    if len(results) != len(reference):
        return f"{len(results)} results instead of {len(reference)}"
    for i, (result, expected) in enumerate(zip(results, reference, strict=True)):
        text = array_disagreement(result, expected)
        if text:
            return text if len(reference) == 1 else f"result {i + 1}: {text}"
    return None


def array_disagreement(result: np.ndarray, expected: np.ndarray) -> str | None:
    if result.dtype.kind in "iu" and expected.dtype.kind in "iu":
        return integer_disagreement(result, expected)
    if result.shape != expected.shape:
        return f"shape {result.shape} instead of {expected.shape}"
    coarser = min(result.dtype, expected.dtype, key=lambda dtype: dtype.itemsize)
    tolerance = TOLERANCES.get(coarser.name, TOLERANCES["float32"])
    scale = difference = 0.0
    # in blocks, so that a large result needs no large temporaries
    for got, want in zip(blocks(result), blocks(expected), strict=True):
        got, want = got.astype(np.float64), want.astype(np.float64)
        if not np.array_equal(np.isfinite(got), np.isfinite(want)):
            return "NaN or infinity in other places"
        finite = np.isfinite(want)
        scale = max(scale, np.abs(want[finite]).max(initial=0.0))
        difference = max(difference, np.abs(got - want)[finite].max(initial=0.0))
    if difference <= tolerance * scale:
        return None
    return f"differs by {difference:.3g} where the largest value is {scale:.3g}"


def blocks(array: np.ndarray) -> Sequence[np.ndarray]:
    flat = np.ascontiguousarray(array).reshape(-1)
    return [flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK)]


def integer_disagreement(result: np.ndarray, expected: np.ndarray) -> str | None:
    if result.shape == expected.shape and result.ndim > 1:
        different = np.count_nonzero(result != expected)
    else:
        different = len(np.setxor1d(result, expected))
    if different <= INTEGER_TOLERANCE * expected.size:
        return None
    return f"{different} of {expected.size} indices differ"


def wrong_answers(
    names: Sequence[str], load: Callable[[str], Results]
) -> tuple[dict[str, str], str | None]:
    """Those that disagree with the majority, with by how much; and one of the majority.

    Without a majority every library is named: there is no telling which of them is right.
    """
    for reference in names[: len(names) // 2 + 1]:
        expected = load(reference)
        different = {
            name: text
            for name in names
            if name != reference and (text := disagreement(load(name), expected))
        }
        if 2 * len(different) < len(names) or len(names) == 1:
            return {
                name: f"{text} (as {reference} computes it)" for name, text in different.items()
            }, reference
    return dict.fromkeys(names, f"no two agree: {', '.join(names)}"), None
