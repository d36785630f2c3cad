"""Prints a digest of the bits of every operation's results on fixed inputs, as JSON.

test_reproducibility.py runs it in processes of their own, one a SIMD level and number of threads,
and compares. A family adds its operations as functions marked @case. Sizes are chosen so that several threads take part.
"""

import hashlib
import json

import numpy as np

import stableops as so


def rotated(rng, n):
    """A crowd of boxes (centre, size, degrees)."""
    boxes = so.box_convert(crowd(rng, n, np.float64)[0], "xyxy", "cxcywh")
    return np.concatenate([boxes, rng.uniform(-180, 180, (n, 1))], axis=1)


CASES = {}


def case(function):
    """Registers a function of a seeded generator that returns arrays, under its name."""
    CASES[function.__name__] = function
    return function


@case
def conv2d(rng):
    x = rng.standard_normal((3, 40, 30, 33)).astype(np.float32)
    w = rng.standard_normal((50, 20, 3, 3)).astype(np.float32)
    b = rng.standard_normal(50).astype(np.float32)
    settings = {"stride": (1, 2), "padding": ((1, 0), (2, 1)), "dilation": (2, 1), "groups": 2}
    y = so.conv2d(x, w, b, **settings)
    return [y, *so.conv2d_backward(y / 100, x, w, **settings)]


@case
def linear(rng):
    x, w = rng.standard_normal((300, 500)), rng.standard_normal((170, 500))
    y = so.linear(x, w)
    return [y, *so.linear_backward(y, x, w)]


def crowd(rng, n, dtype=np.float32):
    """Boxes and scores as a detector makes them: n boxes around n / 10 objects."""
    objects = max(1, n // 10)
    size = np.exp(rng.normal(4, 0.8, (objects, 2)))
    centre = rng.uniform(0, [1333, 800], (objects, 2))
    of = rng.integers(0, objects, n)
    centre = centre[of] + rng.normal(0, 0.12, (n, 2)) * size[of]
    size = size[of] * np.exp(rng.normal(0, 0.12, (n, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return boxes.astype(dtype), rng.random(n).astype(dtype)


CASES = {
    "box_measures": lambda rng: [
        measure(crowd(rng, 333)[0], crowd(rng, 1001)[0])
        for measure in (
            so.box_iou,
            so.generalized_box_iou,
            so.distance_box_iou,
            so.complete_box_iou,
        )
    ],
    "soft_nms": lambda rng: [
        array
        for method in ("linear", "gaussian")
        for array in so.soft_nms(*crowd(rng, 2000), method=method)
    ],
    "weighted_boxes_fusion": lambda rng: so.weighted_boxes_fusion(
        *crowd(rng, 2000), rng.integers(0, 3, 2000), rng.integers(0, 4, 2000)
    ),
    "boxes_rotated": lambda rng: [
        so.box_iou_rotated(rotated(rng, 300), rotated(rng, 200)),
        so.nms_rotated(rotated(rng, 2000), rng.random(2000), 0.4),
    ],
    "box_convert": lambda rng: [
        so.box_convert(crowd(rng, 999)[0], "xyxy", "cxcywh"),
        so.box_area(crowd(rng, 999, np.float64)[0]),
    ],
    "nms": lambda rng: [so.nms(*crowd(rng, 5000), 0.5)],
    "batched_nms": lambda rng: [
        so.batched_nms(*crowd(rng, 30_000, np.float64), rng.integers(0, 9, 30_000), 0.5)
    ],
    "relu": lambda rng: [so.relu(rng.standard_normal((300, 1001)).astype(np.float32))],
    "relu_backward": lambda rng: [
        so.relu_backward(rng.standard_normal((300, 1001)), rng.standard_normal((1001, 300)).T)
    ],
}


@case
def nms(rng):
    return [so.nms(*crowd(rng, 5000), 0.5)]


@case
def batched_nms(rng):
    return [so.batched_nms(*crowd(rng, 30_000, np.float64), rng.integers(0, 9, 30_000), 0.5)]


@case
def relu(rng):
    return [so.relu(rng.standard_normal((300, 1001)).astype(np.float32))]


@case
def relu_backward(rng):
    return [so.relu_backward(rng.standard_normal((300, 1001)), rng.standard_normal((1001, 300)).T)]


def pooling(rng, dtype):
    x = rng.standard_normal((3, 40, 57, 61)).astype(dtype)
    y, indices = so.max_pool2d(x, 3, 2, 1, return_indices=True)
    mean = so.avg_pool2d(x, 3, 2, 1)
    adaptive = so.adaptive_avg_pool2d(x, (7, 5))
    return [
        y,
        indices,
        mean,
        adaptive,
        so.max_pool2d_backward(y, indices, x.shape),
        so.avg_pool2d_backward(mean, x.shape, 3, 2, 1),
        so.adaptive_avg_pool2d_backward(adaptive, x.shape),
    ]


@case
def pool2d_float64(rng):
    return pooling(rng, np.float64)


@case
def pool2d_float32(rng):
    return pooling(rng, np.float32)


@case
def pool2d_float16(rng):
    return pooling(rng, np.float16)


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
