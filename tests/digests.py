"""Prints a digest of the bits of every operation's results on fixed inputs, as JSON.

test_reproducibility.py runs it in processes of their own, one a SIMD level and number of threads,
and compares. A family adds its operations to CASES: a name and a function of a seeded generator that
returns arrays. Sizes are chosen so that several threads take part.
"""

import hashlib
import json

import numpy as np

import stableops as so


def conv2d_case(rng):
    x = rng.standard_normal((3, 40, 30, 33)).astype(np.float32)
    w = rng.standard_normal((50, 20, 3, 3)).astype(np.float32)
    b = rng.standard_normal(50).astype(np.float32)
    settings = {"stride": (1, 2), "padding": ((1, 0), (2, 1)), "dilation": (2, 1), "groups": 2}
    y = so.conv2d(x, w, b, **settings)
    return [y, *so.conv2d_backward(y / 100, x, w, **settings)]


def linear_case(rng):
    x, w = rng.standard_normal((300, 500)), rng.standard_normal((170, 500))
    y = so.linear(x, w)
    return [y, *so.linear_backward(y, x, w)]


CASES = {
    "conv2d": conv2d_case,
    "linear": linear_case,
    "relu": lambda rng: [so.relu(rng.standard_normal((300, 1001)).astype(np.float32))],
    "relu_backward": lambda rng: [
        so.relu_backward(rng.standard_normal((300, 1001)), rng.standard_normal((1001, 300)).T)
    ],
}


def digest(arrays):
    sha = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def main():
    print(json.dumps({name: digest(f(np.random.default_rng(1))) for name, f in CASES.items()}))


if __name__ == "__main__":
    main()
