"""What is right: definitions in float64 or mpmath, written independently of csrc, and how to measure
an error against them."""

import ml_dtypes
import numpy as np


def ulp(x, dtype):
    """The unit in the last place of dtype at the magnitude of the float64 or longdouble x."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.abs(np.asarray(x, np.float64)))
    lowest = np.frexp(np.float64(info.smallest_normal))[1]
    exponent = np.maximum(exponent, lowest)
    return np.ldexp(np.float64(1), exponent - info.nmant - 1)


def same_bits(a, b):
    """Whether two arrays (or scalars) have the same shape, dtype and bits (any NaN equals any NaN)."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(np.all((_bits(a) == _bits(b)) | (np.isnan(a) & np.isnan(b))))


def _bits(x):
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def relu(x):
    return np.where(np.isnan(x), x, np.maximum(x, 0)) + np.zeros((), np.asarray(x).dtype)


def relu_backward(grad_output, output):
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of comparisons with NaN
        positive = output > 0
    return np.where(positive, grad_output, np.zeros((), np.asarray(grad_output).dtype))
