"""The exact results, in mpmath, and how far a library's result is from them in ULP."""

from __future__ import annotations

from collections.abc import Sequence

import mpmath
import numpy as np
from mpmath import mpf

# a result next to zero may lose 60 bits of its terms and must keep 53 and some
mpmath.mp.prec = 260

PRECISION = {"float16": 11, "float32": 24, "float64": 53}
LEAST_EXPONENT = {"float16": -24, "float32": -149, "float64": -1074}


class Row:
    """One row of logits: everything that softmax and its loss make of it, exactly.

    Equal elements have equal results, so each distinct value is worked out once.
    """

    def __init__(self, row: np.ndarray) -> None:
        values, self.inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
        self.values = [mpf(float(value)) for value in values]
        self.top = self.values[-1]
        self.powers = [mpmath.exp(value - self.top) for value in self.values]
        others = zip(self.powers[:-1], counts[:-1], strict=True)
        # the largest term's 1 is left out: beside it the rest would lose its digits
        self.rest = int(counts[-1]) - 1 + mpmath.fsum(p * int(n) for p, n in others)
        self.log_sum = mpmath.log1p(self.rest)

    def softmax(self) -> list[mpf]:
        return [power / (1 + self.rest) for power in self.powers]

    def log_softmax(self) -> list[mpf]:
        return [value - self.top - self.log_sum for value in self.values]

    def logsumexp(self) -> mpf:
        return self.top + self.log_sum

    def loss(self, label: int) -> mpf:
        return self.top - self.values[self.inverse[label]] + self.log_sum

    def gradient_at(self, label: int) -> mpf:
        """p - 1 at the label; elsewhere the gradient is p."""
        power = self.powers[self.inverse[label]]
        others = self.rest if power == 1 else 1 - power + self.rest
        return -others / (1 + self.rest)


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


def softplus(x: mpf) -> mpf:
    return mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))


def log_sigmoid(x: mpf) -> mpf:
    return -softplus(-x)


def ulp_errors(results: np.ndarray, exact: Sequence[mpf], dtype: str) -> np.ndarray:
    """|result - exact| in units of the last place that `exact` has in `dtype`."""
    exponents, wholes, fractions = zip(*(in_ulps(value, dtype) for value in exact), strict=True)
    got = results.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(got, -np.array(exponents))
        errors = np.abs((scaled - np.array(wholes)) - np.array(fractions))
    overflowed = np.isinf(wholes)
    errors[overflowed] = np.where(got[overflowed] == np.array(wholes)[overflowed], 0, np.inf)
    return np.where(np.isnan(errors), np.inf, errors)


def text(value: mpf | float, dtype: str) -> str:
    """As many digits as tell two neighbours of the dtype apart."""
    return str(mpmath.nstr(mpf(value), {"float16": 5, "float32": 9, "float64": 17}[dtype]))


def in_ulps(value: mpf, dtype: str) -> tuple[int, float, float]:
    """`value` = (whole + fraction) * 2**exponent with 2**exponent its ULP; whole is inf if it
    rounds to infinity."""
    digits = PRECISION[dtype]
    largest_exponent = int(np.frexp(float(np.finfo(dtype).max))[1])
    if abs(value) >= mpmath.ldexp(1 - mpf(2) ** -(digits + 1), largest_exponent):
        return 0, float(mpmath.sign(value)) * np.inf, 0.0
    exponent = max(mpmath.frexp(value)[1] - digits, LEAST_EXPONENT[dtype])
    scaled = mpmath.ldexp(value, -exponent)
    whole = mpmath.floor(scaled)
    return exponent, float(whole), float(scaled - whole)
