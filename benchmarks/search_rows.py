"""Search for the rows on which softmax, logsumexp and the cross-entropy err most.

``python benchmarks/search_rows.py [--seconds 60] [--dtype float64] [NAME ...]``: hill climbing over
the bits of the elements, restarted from random rows of several kinds, with the largest error of a
row against mpmath as the height. Prints the worst row of each function as exact values. Seconds are
those of the processor, so that a busy machine searches as much as an idle one.

softmax_backward and log_softmax_backward take the first half of a row as logits and the other half
as grad_output; their height is the error in units of eps times the sum of the terms' absolute
values.
"""

import argparse
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from mpmath import mp, mpf

import stableops

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import reference_rows

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def _index_weights(n):
    return [mpf(1)] + [mpf(0)] * (n - 1)


def _loss(x):
    labels = np.zeros(len(x), np.int64)
    return stableops.softmax_cross_entropy(x, labels, reduction="none")[:, None]


def _gradient(x):
    labels = np.zeros(len(x), np.int64)
    return stableops.softmax_cross_entropy(x, labels, reduction="none", return_grad=True)[1]


def _halves(x):
    half = (x.shape[1] + 1) // 2
    return x[:, :half], x[:, -half:]


def _backward(forward, backward, exact):
    """The gradient of a batch of rows, and the height of a row."""

    def function(x):
        logits, grad_output = _halves(x)
        return backward(grad_output, forward(logits))

    def height(got, x):
        logits, grad_output = _halves(x[None])
        want = exact(grad_output[0], forward(logits)[0])
        largest = float(ml_dtypes.finfo(x.dtype).max)
        if max(size for _, size in want) >= largest:  # a sum that may overflow has no bound
            return 0.0
        return reference_rows.backward_error(got, want, x.dtype)

    return function, height


def _in_ulp(function, exact):
    """A function of a batch of rows, and the error of a row in ULP."""
    return function, lambda got, x: reference_rows.worst_error(
        got, exact(reference_rows.Row(x)), x.dtype
    )


# name: (function of a batch of rows, height of a row). Label 0 is the index.
FUNCTIONS = {
    "softmax": _in_ulp(stableops.softmax, lambda row: row.softmax()),
    "log_softmax": _in_ulp(stableops.log_softmax, lambda row: row.log_softmax()),
    "logsumexp": _in_ulp(lambda x: stableops.logsumexp(x)[:, None], lambda row: [row.logsumexp()]),
    "softmax_cross_entropy": _in_ulp(
        _loss, lambda row: [row.cross_entropy(_index_weights(len(row.values)))[0]]
    ),
    "softmax_cross_entropy_grad": _in_ulp(
        _gradient, lambda row: row.cross_entropy(_index_weights(len(row.values)))[1]
    ),
    "softmax_backward": _backward(
        stableops.softmax, stableops.softmax_backward, reference_rows.softmax_backward
    ),
    "log_softmax_backward": _backward(
        stableops.log_softmax, stableops.log_softmax_backward, reference_rows.log_softmax_backward
    ),
    "logsumexp_backward": _in_ulp(
        lambda x: stableops.logsumexp_backward(np.ones(len(x), x.dtype), x, stableops.logsumexp(x)),
        lambda row: row.softmax(),
    ),
}


def _random(rng, rows, cols, dtype):
    """Rows of every scale, dominated ones, logarithms of probabilities, the ends of the ranges."""
    kind = rng.integers(0, 7)
    x = rng.standard_normal((rows, cols)) * rng.choice([0.01, 0.3, 2, 10, 40, 300])
    if kind == 1:
        x[:, rng.integers(0, cols)] += rng.uniform(0, 700)
    elif kind == 2:
        x = np.log(rng.dirichlet(np.ones(cols) * rng.choice([0.1, 1, 10]), rows) + 1e-300)
    elif kind == 3:
        x = np.repeat(x[:, :1], cols, axis=1) + (rng.random((rows, cols)) < 0.3) * x
    elif kind == 4:
        x = np.clip(x * 10, -80, 80)
    elif kind == 5:
        x = -rng.uniform(0, 1, (rows, cols)) * rng.choice([88, 104, 709, 746])
        x[:, 0] = 0
    elif kind == 6:
        x = np.ldexp(x, rng.integers(-1074, -20, (rows, cols)))
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(dtype)


def _mutate(rng, x, dtype):
    """A few elements of each row get other low bits, another element's value, or a small shift."""
    y = x.copy()
    rows, cols = x.shape
    integers = np.dtype(f"i{x.dtype.itemsize}")
    for i in range(rows):
        j = rng.integers(0, cols)
        what = rng.integers(0, 4)
        if what == 0:
            toward = np.array(rng.choice([-np.inf, np.inf]), dtype)
            y[i, j] = np.nextafter(y[i, j], toward)
        elif what == 1:
            y[i].view(integers)[j] ^= integers.type(1) << integers.type(
                rng.integers(0, ml_dtypes.finfo(dtype).nmant)
            )
        elif what == 2:
            y[i, j] = y[i, rng.integers(0, cols)]
        else:
            y[i] = (y[i].astype(np.float64) + rng.standard_normal() * 0.1).astype(dtype)
    return np.where(np.isfinite(y.astype(np.float64)), y, x)


def _heights(function, height, x):
    return np.array([height(got, row) for got, row in zip(function(x), x, strict=True)])


def search(name, dtype, seconds, seed=0, population=12):
    """Return the largest error found, in ULP, and its row."""
    function, height_of = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    end = time.process_time() + seconds
    best, best_row = -1.0, None
    while time.process_time() < end:
        x = _random(rng, population, int(rng.choice([1, 2, 3, 4, 7, 17])), dtype)
        height = _heights(function, height_of, x)
        for _ in range(25):
            if time.process_time() >= end:
                break
            y = _mutate(rng, x, dtype)
            new = _heights(function, height_of, y)
            better = new >= height
            x[better], height[better] = y[better], new[better]
        if height.max() > best:
            best, best_row = height.max(), x[int(height.argmax())].copy()
    return best, best_row


def main():
    """Search each function for the given time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FUNCTIONS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mp.prec = reference_rows.PRECISION
    for name in arguments.names or FUNCTIONS:
        for dtype in arguments.dtype or ["float32", "float64"]:
            worst, row = search(name, DTYPES[dtype], arguments.seconds, arguments.seed)
            values = ", ".join(float(v).hex() for v in row)
            print(f"{name} {dtype}: {worst:.4f} ULP at [{values}]", flush=True)


if __name__ == "__main__":
    main()
