"""Search for the inputs on which elementwise functions and sigmoid_cross_entropy err most.

``python benchmarks/search.py [--seconds 60] [--dtype float64] [NAME ...]``: hill climbing over the
bits of the input, restarted from random points, with the error against mpmath as the height. Prints
the worst inputs found as exact values. Seconds are those of the processor, so that a busy machine
searches as much as an idle one.
"""

import argparse
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

import stableops

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import reference

DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


def _element(part):
    def function(x, y):
        return stableops.sigmoid_cross_entropy(x, y, reduction="none", return_grad=True)[part]

    return function


# name: (function of arrays, exact function, number of arguments, whether the last one is in [0, 1])
FUNCTIONS = {
    "sigmoid": (stableops.sigmoid, reference.sigmoid, 1, False),
    "log_sigmoid": (stableops.log_sigmoid, reference.log_sigmoid, 1, False),
    "softplus": (stableops.softplus, reference.softplus, 1, False),
    "sigmoid_backward": (stableops.sigmoid_backward, reference.sigmoid_backward, 2, True),
    "log_sigmoid_backward": (
        stableops.log_sigmoid_backward, reference.log_sigmoid_backward, 2, False,
    ),
    "softplus_backward": (stableops.softplus_backward, reference.softplus_backward, 2, False),
    "sigmoid_cross_entropy": (_element(0), reference.sigmoid_cross_entropy, 2, True),
    "sigmoid_cross_entropy_grad": (_element(1), reference.sigmoid_cross_entropy_grad, 2, True),
}  # fmt: skip


def _random(rng, n, arguments, unit, dtype):
    """Starting points: of every size, or next to where the functions bend."""
    kinds = [
        rng.standard_normal((arguments, n)) * 4,
        rng.uniform(-750, 750, (arguments, n)),
        np.ldexp(rng.uniform(-1, 1, (arguments, n)), rng.integers(-60, 10, (arguments, n))),
    ]
    x = np.choose(rng.integers(0, 3, (arguments, n)), kinds)
    if unit:
        x[-1] = np.choose(rng.integers(0, 3, n), [rng.random(n), np.round(rng.random(n)), x[-1]])
        x[-1] = np.clip(np.abs(x[-1]), 0, 1)
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def _mutate(rng, x, unit, dtype):
    """Flip a random bit, or step by a few units in the last place, in one argument."""
    itemsize = x.dtype.itemsize
    bits = x.view(f"u{itemsize}").copy()
    row, columns = rng.integers(0, x.shape[0], x.shape[1]), np.arange(x.shape[1])
    flip = np.left_shift(1, rng.integers(0, 8 * itemsize, x.shape[1]).astype(object))
    step = rng.integers(-8, 9, x.shape[1])
    for i in columns:
        old = int(bits[row[i], i])
        new = old ^ int(flip[i]) if rng.random() < 0.6 else old + int(step[i])
        bits[row[i], i] = new % (1 << (8 * itemsize))
    y = bits.view(dtype)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        keep = ~np.isfinite(y.astype(np.float64)).all(axis=0)
    if unit:
        last = y[-1].astype(np.float64)
        keep |= (last < 0) | (last > 1)
    y[:, keep] = x[:, keep]
    return y


def search(name, dtype, seconds, seed=0, population=64):
    """The worst error found in `seconds`, in ULP, and its arguments."""
    function, exact, arguments, unit = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    best, where, tried = -1.0, None, 0

    def heights(x):
        with np.errstate(all="ignore"):
            got = function(*x)
        errors = np.empty(x.shape[1])
        for i in range(x.shape[1]):
            values = [float(v) for v in x[:, i]]
            want = exact(*values)
            # A result that overflows is right.
            over = abs(want) > float(ml_dtypes.finfo(dtype).max)
            errors[i] = 0 if over else reference.ulp_error(got[i], want, dtype)
        return errors

    end = time.process_time() + seconds
    while time.process_time() < end:
        x = _random(rng, population, arguments, unit, dtype)
        height = heights(x)
        for _ in range(30):
            y = _mutate(rng, x, unit, dtype)
            new = heights(y)
            better = new > height
            x[:, better], height[better] = y[:, better], new[better]
            tried += population
            top = int(np.argmax(height))
            if height[top] > best:
                best, where = float(height[top]), [float(v) for v in x[:, top]]
            if time.process_time() > end:
                break
    return best, where, tried


def main():
    """Search, and print a line a function and dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=[])
    parser.add_argument("--seconds", type=float, default=60, help="for each function and dtype")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.names or FUNCTIONS:
        for dtype in options.dtype or ["float64", "float32"]:
            error, where, tried = search(name, DTYPES[dtype], options.seconds, options.seed)
            values = ", ".join(v.hex() for v in where)
            found = f"{error:.4f} ULP at ({values}) = {where}; {tried} inputs"
            print(f"{name} {dtype}: {found}", flush=True)


if __name__ == "__main__":
    main()
