"""Softmax, log-sum-exp and cross-entropy of a row by definition, in mpmath; rows that hurt."""

from collections import Counter
from functools import cache

import ml_dtypes
import mpmath
import numpy as np
from mpmath import mp, mpf

# exp(-745) beside 1 needs 1,075 bits, and the quotient's digits besides.
PRECISION = 1400


def number(value):
    """The value of a float of any dtype, exactly."""
    return mpf(float(value))


class Row:
    """One row: every quantity follows from x_i - max, which is exact here."""

    def __init__(self, x):
        self.values = [float(v) for v in x]
        with mp.workprec(PRECISION):
            top = max(self.values)
            self.top = mpf(top)
            self.distance = {v: mp.fsub(v, top, exact=True) for v in set(self.values)}
            self.exp = {v: mp.exp(d) for v, d in self.distance.items()}
            self.sum = mp.fsum(n * self.exp[v] for v, n in Counter(self.values).items())
            self.log_sum = mp.log(self.sum)

    def softmax(self):
        with mp.workprec(PRECISION):
            quotients = {v: e / self.sum for v, e in self.exp.items()}
            return [quotients[v] for v in self.values]

    def log_softmax(self):
        with mp.workprec(PRECISION):
            differences = {v: d - self.log_sum for v, d in self.distance.items()}
            return [differences[v] for v in self.values]

    def logsumexp(self):
        with mp.workprec(PRECISION):
            return self.top + self.log_sum

    def cross_entropy(self, weights):
        """sum_i w_i (logsumexp(x) - x_i) and its gradient."""
        with mp.workprec(PRECISION):
            loss = mpf(0)
            for w, v in zip(weights, self.values, strict=True):
                if w != 0:
                    loss += w * (self.log_sum - self.distance[v])
            total = mp.fsum(weights)
            gradient = [
                self.exp[v] * total / self.sum - w
                for w, v in zip(weights, self.values, strict=True)
            ]
            return loss, gradient


@cache
def _row(key):
    return Row(key)


def row(x):
    """The Row of a one-dimensional array, kept for the other SIMD levels."""
    return _row(tuple(float(v) for v in x))


def weighted_sum(x, b):
    """sum_i b_i exp(x_i) as (sign, logarithm of the absolute value), for finite x."""
    with mp.workprec(PRECISION):
        used = [(number(w), number(v)) for w, v in zip(b, x, strict=True) if w != 0]
        if not used:
            return 0, -mpmath.inf
        top = max(v for _, v in used)
        terms = [w * mp.exp(mp.fsub(v, top, exact=True)) for w, v in used]
        # fsum drops what is far below the sum so far, which may cancel later.
        with mp.workprec(14_000):
            total = sum(terms, mpf(0))
        return int(mp.sign(total)), top + mp.log(abs(total)) if total else -mpmath.inf


def softmax_backward(grad_output, output):
    """The gradient of softmax and the sum of its terms' absolute values, an element."""
    with mp.workprec(PRECISION):
        pairs = [(number(g), number(y)) for g, y in zip(grad_output, output, strict=True)]
        dot = mp.fsum(g * y for g, y in pairs)
        size = mp.fsum(abs(g * y) for g, y in pairs)
        return [(y * (g - dot), abs(y) * (abs(g) + size)) for g, y in pairs]


def log_softmax_backward(grad_output, output):
    """The gradient of log_softmax and the sum of its terms' absolute values, an element."""
    with mp.workprec(PRECISION):
        pairs = [(number(g), number(y)) for g, y in zip(grad_output, output, strict=True)]
        total, size = mp.fsum(g for g, _ in pairs), mp.fsum(abs(g) for g, _ in pairs)
        return [(g - mp.exp(y) * total, abs(g) + mp.exp(y) * size) for g, y in pairs]


def backward_error(got, exact, dtype):
    """The largest error in units of eps times the sum of the terms, beyond one subnormal step."""
    info = ml_dtypes.finfo(dtype)
    with mp.workprec(PRECISION):
        return max(
            float(
                max(abs(number(value) - want) - number(info.smallest_subnormal), 0)
                / (number(info.eps) * size)
            )
            if size
            else 0.0
            for value, (want, size) in zip(got, exact, strict=True)
        )


def ulp(exact, dtype):
    """The unit in the last place of dtype at the magnitude of an mpf."""
    info = ml_dtypes.finfo(dtype)
    exponent = info.minexp if exact == 0 else max(mp.frexp(exact)[1] - 1, info.minexp)
    return mp.ldexp(mpf(1), int(exponent) - info.nmant)


def error(got, exact, dtype):
    """|got - exact| in ULP of dtype; infinite where a finite result was due."""
    got = float(got)
    largest = number(ml_dtypes.finfo(dtype).max)
    with mp.workprec(PRECISION):
        if not np.isfinite(got):
            due = got != 0 and abs(exact) >= largest + ulp(largest, dtype) / 2
            return 0.0 if due and (got > 0) == (exact > 0) else float("inf")
        return float(abs(mpf(got) - exact) / ulp(exact, dtype))


def worst_error(got, exact, dtype):
    got = np.asarray(got).ravel()
    assert len(got) == len(exact)
    return max((error(g, e, dtype) for g, e in zip(got, exact, strict=True)), default=0.0)


def bound(float32, float64, dtype):
    """The bound for dtype; half precision is rounded once from a result with the float32 bound."""
    if dtype == np.float64:
        return float64
    if dtype == np.float32:
        return float32
    return 0.5 + float32 * 2.0 ** (ml_dtypes.finfo(dtype).nmant - 23)


# The worst rows that benchmarks/search_rows.py has found, by function and dtype.
FOUND_BY_SEARCH = {
    "softmax float32": "-0x1.61f83cp+4 0x1.fc0a72p+5 -0x1.61f838p+4",
    "log_softmax float64": "0x1.f5fa2ed040128p-4 -0x1.625c3dc36a566p+9",
    "log_softmax float32": "-0x1.8828e2p-2 -0x1.a99d62p+2 -0x1.8828e2p-2 -0x1.fcfb44p+0",
    "logsumexp float64": "-0x1.c244126b424e3p+0 -0x1.12b0b285ec91dp+1 -0x1.40cbac0be47a9p-2",
    "logsumexp float32": "-0x1.f1e75p+0 -0x1.f1e75p+0 -0x1.f1e75p+0 -0x1.f1e752p+0",
    "logsumexp_backward float32": (
        "-0x1.49b222p+0 -0x1.0ea376p+2 0x1.48d43p-7 0x1.e374fp+0 0x1.96253cp-1 0x1.98cc6ep+0 "
        "-0x1.b24114p+0 0x1.a57b22p-1 0x1.0bec3p-1 -0x1.9eb6bcp+1 0x1.7557a4p+0 "
        "-0x1.962cbep-3 0x1.2f1ef8p+1 0x1.6ecbb6p+1 0x1.a57b22p-1 -0x1.11d582p+1 0x1.724ecp+1"
    ),
    "softmax_cross_entropy float32": (
        "-0x1.4f2fc2p-4 -0x1.8947b6p+5 -0x1.545a0ep+5 -0x1.b6aabp+5 -0x1.545a0ep+5 "
        "-0x1.9700c6p+2 -0x1.ea682ap+5"
    ),
    "softmax_cross_entropy_grad float32": (
        "0x1.9879bap-3 0x1.9b6434p+5 -0x1.17f062p-1 -0x1.51524ep-2 -0x1.9b5648p-2 "
        "0x1.f85054p-3 -0x1.ba5648p-2 -0x1.954ea8p-2 0x1.122ee2p-5 0x1.1cbeccp-2 "
        "-0x1.954ea8p-2 -0x1.e9eedap-4 0x1.8ab9cep-3 -0x1.e9eedcp-4 0x1.9b6434p+5 "
        "-0x1.ac500ap-8 -0x1.ac500ap-8"
    ),
    "softmax_cross_entropy_grad float64": (
        "-0x1.6770a5e51caaep+2 -0x1.abf45b19b6699p+4 -0x1.8ba2cc394acf8p+3 "
        "-0x1.920742fb4f679p+3 -0x1.5e7060c297070p+2 -0x1.8c77c3604ff97p+0 "
        "-0x1.cb8bb4cdd6722p+1 -0x1.b329f72e69037p+3 -0x1.9e4eb9adfa5bdp+1 "
        "-0x1.22212d1f91345p-1 -0x1.8c77c3604ff97p+0 -0x1.dd05fd0a229c6p+1 "
        "-0x1.52b5d721e3a83p+3 -0x1.f8d99531c104bp+2 -0x1.7ea28cd0588d4p+0 "
        "-0x1.65f7eab2b101bp+4 -0x1.aea0ae8efaf89p+2"
    ),
}


def adversarial_rows(dtype):
    """Finite rows of dtype at which formulas lose digits, by name."""
    info = ml_dtypes.finfo(dtype)
    largest, tiny = float(info.max), float(info.smallest_subnormal)
    rng = np.random.default_rng(7)
    rows = {}
    for t in (0.0, 12.5, 50.0, 100.0, 700.0, 800.0):
        for k in (1, 9, 999):
            rows[f"dominant by {t} over {k}"] = [t] + [0.0] * k
    rows["two tops"] = [3.0, 3.0, 1.0]
    one = np.ones((), dtype)
    rows["one ulp apart"] = [
        float(np.nextafter(one, one + one)) if dtype != ml_dtypes.bfloat16 else 1.0078125,
        1.0,
    ]
    rows["max, -max"] = [largest, -largest]
    rows["-max, max, 0"] = [-largest, largest, 0.0]
    rows["max, max"] = [largest, largest]
    rows["-max thrice"] = [-largest] * 3
    for d in (103.97, 103.98, 104.0, 104.1, 86.9, 87.3, 745.1, 745.2, 708.3, 709.5, 16.6, 36.7):
        rows[f"0, -{d}"] = [0.0, -d]
        rows[f"0, -{d} many times"] = [0.0] + [-d] * 999
    for i in range(4):
        rows[f"log of probabilities {i}"] = list(np.log(rng.dirichlet(np.ones(5 + 9 * i))))
    rows["log 1/2 twice"] = [np.log(0.5)] * 2
    rows["log 1/4 four times"] = [np.log(0.25)] * 4
    rows["sums to 1 + 1e-9"] = list(np.log(np.array([0.3, 0.7]) * (1 + 1e-9)))
    for n in (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 95, 96, 97, 1023, 1024, 1025):
        rows[f"{n} columns"] = list(rng.standard_normal(n) * 4)
    rows["equal"] = [0.37] * 5000
    rows["increasing"] = list(np.linspace(-50, 50, 401))
    rows["decreasing"] = list(np.linspace(50, -50, 401))
    rows["zeros of both signs"] = [0.0, -0.0]
    rows["subnormal"] = [tiny, -tiny, 3 * tiny, 0.0]
    rows["one column"] = [-7.25]
    for name, row_text in FOUND_BY_SEARCH.items():
        rows[f"worst of {name}"] = [float.fromhex(v) for v in row_text.split()]
    with np.errstate(over="ignore"):
        return {name: np.array(x, np.float64).astype(dtype) for name, x in rows.items()}


def long_rows(dtype):
    """Rows of which a few elements are compared: (row, their places, the first the largest)."""
    dominated = np.resize(np.random.default_rng(3).uniform(-2, 2, 64), 128_256)
    dominated[77_777] = 60
    return [
        (np.full(50_000, 0.37).astype(dtype), [0, 49_999]),
        (np.zeros(70_000, dtype), [0, 69_999]),  # a sum beyond the largest float16
        (dominated.astype(dtype), [77_777, 0, 128_255]),
        (np.where(dominated == 60, 5, -30).astype(dtype), [77_777, 0, 128_255]),
    ]


def dominated_rows(k):
    """A batch of float64 rows [t, 0 x k] for t from 0 to 800."""
    x = np.zeros((1601, k + 1))
    x[:, 0] = np.arange(0, 800.5, 0.5)
    return x
