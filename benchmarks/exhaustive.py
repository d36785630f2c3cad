"""Run float32 sigmoid, softplus and log_sigmoid on all 2^32 inputs and count wrong roundings.

The reference (exhaustive.cpp, compiled when needed) is the C library's long double; what that cannot
decide is settled by mpmath.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy as np

import stableops

FUNCTIONS = {"sigmoid": 0, "softplus": 1, "log_sigmoid": 2}
CHUNK = 1 << 22
CAPACITY = 1000


def _checker(folder):
    """Compile exhaustive.cpp and return its check()."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        msg = "no C++ compiler found; set CXX"
        raise RuntimeError(msg)
    library = Path(folder) / "exhaustive.so"
    source = Path(__file__).with_suffix(".cpp")
    flags = ["-std=c++20", "-O2", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    check = ctypes.CDLL(str(library)).check
    check.restype = ctypes.c_int64
    check.argtypes = [
        ctypes.c_int,
        ctypes.c_uint32,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 1,
        ctypes.c_int64,
        *[ctypes.c_void_p] * 3,
    ]
    return check


def correctly_rounded(name, x):
    """The float32 next to the exact value of the function at the float32 x, by mpmath."""
    with mpmath.workprec(300):
        x = mpmath.mpf(float(x))
        if name == "sigmoid":
            exact = 1 / (1 + mpmath.exp(-x))
        elif name == "softplus":
            exact = mpmath.log1p(mpmath.exp(x))
        else:
            exact = -mpmath.log1p(mpmath.exp(-x))
        # In units of the last place: an integer after rounding to nearest, ties to even.
        exponent = max(int(mpmath.frexp(exact)[1]) - 24, -149)
        return np.float32(float(mpmath.ldexp(mpmath.nint(mpmath.ldexp(exact, -exponent)), exponent)))


def run(name, *, first=0, count=1 << 32, threads=None, progress=None):
    """Check stableops' float32 function `name` on `count` bit patterns from `first` on.

    Returns a dict: inputs, wrong (how many results are not correctly rounded), wrong_inputs (the first
    of them), settled (inputs that needed mpmath).
    """
    function = FUNCTIONS[name]
    compute = getattr(stableops, name)
    wrong_inputs, settled = [], []
    wrong = done = 0
    with tempfile.TemporaryDirectory() as folder:
        check = _checker(folder)

        def chunk(start):
            n = min(CHUNK, first + count - start)
            bits = np.arange(start, start + n, dtype=np.uint64).astype(np.uint32)
            y = compute(bits.view(np.float32))
            bad, open_ = np.zeros((2, CAPACITY), np.uint32)
            undecided = ctypes.c_int64(0)
            found = check(
                function, start, n, y.ctypes.data, CAPACITY, bad.ctypes.data, open_.ctypes.data,
                ctypes.addressof(undecided),
            )  # fmt: skip
            bad = list(bad[: min(found, CAPACITY)])
            for b in open_[: undecided.value]:
                x, got = b.view(np.float32), y[int(b) - start]
                if got != correctly_rounded(name, x):
                    found += 1
                    bad.append(b)
            return n, found, bad, list(open_[: undecided.value])

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            for n, found, bad, open_ in pool.map(chunk, range(first, first + count, CHUNK)):
                done += n
                wrong += found
                wrong_inputs += [float(b.view(np.float32)) for b in bad]
                settled += [float(b.view(np.float32)) for b in open_]
                if progress is not None:
                    progress(done, wrong)
    return {"inputs": done, "wrong": wrong, "wrong_inputs": wrong_inputs[:20], "settled": settled}


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:] or FUNCTIONS:
        print(name, stableops.active_isa(), run(name))
