"""Convolution as it is defined, in extended precision, and as the canonical sum of csrc/ops/gemm.h,
term by term with one rounding each. Both are loops over terms, vectorised over outputs only."""

import ctypes
import ctypes.util

import numpy as np

_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fma.restype, _libm.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
_fma64 = np.frompyfunc(_libm.fma, 3, 1)


def fma(a, b, c):
    """a * b + c with one rounding, for float32 or float64 arrays."""
    if a.dtype == np.float64:
        return np.asarray(_fma64(a, b, c), np.float64)
    # The product is exact in float64. The sum there is rounded to odd, so that rounding it again to
    # float32 is as one rounding (Boldo and Melquiond 2008).
    with np.errstate(invalid="ignore"):
        product, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
        total = np.asarray(product + c)
        part = total - product
        error = (product - (total - part)) + (c - part)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), 1, -1)
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    return np.where(inexact, bits + step, bits).view(np.float64).astype(np.float32)


class Chain:
    """The canonical sum of an array of outputs; `mask` says which of them have the next term."""

    def __init__(self, shape, dtype, segment=None):
        self.total, self.chain = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.terms = np.zeros(shape, int)
        self.segment = segment
        self.whole = np.zeros(shape, dtype)

    def add(self, a, b, mask=True):
        mask = np.broadcast_to(mask, self.terms.shape)
        self.chain = np.where(mask, fma(a, b, self.chain), self.chain)
        self.terms = self.terms + mask
        self._fold(mask & (self.terms % 128 == 0))
        if self.segment and self.terms.flat[0] % self.segment == 0:
            self._close()

    def _fold(self, where):
        first = self.terms <= 128
        self.total = np.where(
            where, np.where(first, self.chain, self.total + self.chain), self.total
        )
        self.chain = np.where(where, 0, self.chain).astype(self.chain.dtype)

    def _close(self):
        self.whole = self.whole + self.total if self.terms.flat[0] > self.segment else self.total
        self.total = np.zeros_like(self.total)

    def result(self):
        if self.segment:
            in_segment = self.terms.flat[0] % self.segment
            if in_segment == 0 and self.terms.flat[0]:
                return self.whole
            seen, self.terms = self.terms.flat[0], np.full_like(self.terms, in_segment)
            self._fold((self.terms % 128 != 0) | (self.terms == 0))
            return self.whole + self.total if seen > self.segment else self.total
        self._fold((self.terms % 128 != 0) | (self.terms == 0))
        return self.total


def pad_pairs(padding):
    """((top, bottom), (left, right)) of an int, a pair, or itself."""
    pair = (padding, padding) if np.isscalar(padding) else padding
    return tuple((p, p) if np.isscalar(p) else tuple(p) for p in pair)


def pair(value):
    return (value, value) if np.isscalar(value) else tuple(value)


def patches(x, kernel, stride, padding, dilation):
    """x[n, c, r, s, i, j]: what tap (r, s) of output (i, j) reads."""
    x = np.pad(x, ((0, 0), (0, 0), *pad_pairs(padding)))
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    out = [
        (x.shape[2 + a] - (kernel[a] - 1) * d - 1) // s + 1
        for a, (d, s) in enumerate(((dh, sh), (dw, sw)))
    ]
    rows = np.arange(kernel[0])[:, None, None, None] * dh + np.arange(out[0])[:, None] * sh
    columns = np.arange(kernel[1])[:, None, None] * dw + np.arange(out[1]) * sw
    return x[:, :, rows, columns]


def conv2d(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """(result, sum of |terms|) in extended precision."""
    p = patches(x, w.shape[2:], stride, padding, dilation).astype(np.longdouble)
    w = np.asarray(w).astype(np.longdouble)
    n, k = x.shape[0], w.shape[0]
    p = p.reshape(n, groups, w.shape[1], *p.shape[2:])
    w = w.reshape(groups, k // groups, *w.shape[1:])
    with np.errstate(invalid="ignore"):
        y = np.einsum("ngcrsij,gkcrs->ngkij", p, w).reshape(n, k, *p.shape[-2:])
        size = np.einsum("ngcrsij,gkcrs->ngkij", abs(p), abs(w)).reshape(y.shape)
    if bias is not None:
        b = np.asarray(bias).astype(np.longdouble)[:, None, None]
        y, size = y + b, size + abs(b)
    return y, size


def conv2d_canonical(x, w, bias=None, stride=1, padding=0, dilation=1, groups=1, channels=None):
    """The exact bits of stableops.conv2d, of some output channels if `channels` is given."""
    p = patches(x, w.shape[2:], stride, padding, dilation)
    group_in, group_out = w.shape[1], w.shape[0] // groups
    k = np.arange(w.shape[0]) if channels is None else np.asarray(channels)
    sums = Chain((x.shape[0], len(k), *p.shape[-2:]), x.dtype)
    for c in range(group_in):
        for r, s in np.ndindex(*w.shape[2:]):
            sums.add(p[:, k // group_out * group_in + c, r, s], w[k, c, r, s][:, None, None])
    y = sums.result()
    return y if bias is None else y + bias[k][:, None, None]


def grad_input_canonical(g, x_shape, w, stride=1, padding=0, dilation=1, groups=1):
    """The exact bits of conv2d_backward's grad_input."""
    (top, _), (left, _) = pad_pairs(padding)
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    group_in, group_out = w.shape[1], w.shape[0] // groups
    c = np.arange(x_shape[1])
    h, v = np.arange(x_shape[2])[:, None] + top, np.arange(x_shape[3]) + left
    sums = Chain(x_shape, g.dtype)
    for k in range(group_out):
        for r, s in np.ndindex(*w.shape[2:]):
            i, j = h - r * dh, v - s * dw
            term = (i % sh == 0) & (j % sw == 0)
            i, j = i // sh, j // sw
            outside = (i < 0) | (i >= g.shape[2]) | (j < 0) | (j >= g.shape[3])
            value = g[:, c // group_in * group_out + k][
                :, :, np.clip(i, 0, g.shape[2] - 1), np.clip(j, 0, g.shape[3] - 1)
            ]
            weight = w[c // group_in * group_out + k, c % group_in, r, s][:, None, None]
            value = np.where(outside, 0, value).astype(g.dtype)
            weight = np.where(outside & ~np.isfinite(weight), 0, weight).astype(g.dtype)
            sums.add(value, np.broadcast_to(weight, value.shape), term)
    return sums.result()


def grad_weight_canonical(g, x, w_shape, stride=1, padding=0, dilation=1, groups=1):
    """The exact bits of conv2d_backward's grad_weight."""
    p = patches(x, w_shape[2:], stride, padding, dilation)
    group_out = w_shape[0] // groups
    k = np.arange(w_shape[0])
    channels = (k // group_out * w_shape[1])[:, None] + np.arange(w_shape[1])
    sums = Chain(w_shape, g.dtype, segment=4096)
    for n, i, j in np.ndindex(g.shape[0], *g.shape[2:]):
        sums.add(g[n, :, i, j][:, None, None, None], p[n, channels, :, :, i, j])
    return sums.result()


def grad_bias_canonical(g):
    """The exact bits of conv2d_backward's grad_bias."""
    planes = g.reshape(g.shape[0], g.shape[1], -1).astype(np.float64)
    lanes = np.zeros((g.shape[0], g.shape[1], 32))
    for pixel in range(planes.shape[2]):
        lanes[:, :, pixel % 32] += planes[:, :, pixel]
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    total = np.zeros(g.shape[1])
    for n in range(g.shape[0]):
        total = total + lanes[n, :, 0]
    return total.astype(g.dtype)


def error_bound(terms, dtype):
    """Of a canonical sum, in units of the sum of |terms|."""
    return (128 + terms / 128 + 2) * np.finfo(dtype).eps / 2
