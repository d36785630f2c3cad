"""logsumexp: every digit, next to 0 too, with weights and signs; and its gradient."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from reference import same_bits
from reference_rows import (
    adversarial_rows,
    bound,
    dominated_rows,
    error,
    long_rows,
    number,
    row,
    ulp,
    weighted_sum,
    worst_error,
)
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, finite, laid_out

import stableops as so


def check(y, x):
    assert y.dtype == x.dtype
    assert error(y, row(x).logsumexp(), x.dtype) <= bound(1.0, 1.5, x.dtype)


# --- agreement with the reference ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("name", adversarial_rows(np.float64))
def test_adversarial_rows(name, dtype):
    x = adversarial_rows(dtype)[name]
    check(so.logsumexp(x), x)
    gradient = so.logsumexp_backward(dtype(1), x, so.logsumexp(x))
    assert worst_error(gradient, row(x).softmax(), dtype) <= bound(1.0, 1.0, dtype)
    y = so.log_softmax(x)
    if len(x) < 200 and np.isfinite(y.astype(np.float64)).all():
        check(so.logsumexp(y), y)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("k", [1, 9, 999])
def test_dominated_rows(k, dtype):
    x = (dominated_rows(k) - np.arange(0, 800.5, 0.5)[:, None]).astype(dtype)
    y = so.logsumexp(x)
    for i in range(len(x)):
        check(y[i], x[i])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_long_rows(dtype):
    for x, _ in long_rows(dtype):
        check(so.logsumexp(x), x)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_any_finite_row(dtype, data):
    x = data.draw(arrays(dtype, min_dims=1, max_dims=1, elements=finite(dtype)))
    x = x[np.isfinite(x.astype(np.float64))]
    if x.size:
        check(so.logsumexp(x), x)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_logarithms_of_probabilities(dtype, n, seed):
    x = np.log(np.random.default_rng(seed).dirichlet(np.ones(n))).astype(dtype)
    check(so.logsumexp(x), x)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_closer_to_zero_than_any_double_of_the_row(dtype):
    """The last element is the one that makes the sum closest to 1, and its neighbours."""
    for first in (0.4, 0.05, 1e-3, 1e-6):
        a = np.array(first, dtype) * -1
        b = np.log(-np.expm1(a.astype(np.float64))).astype(dtype)
        for c in (np.nextafter(b, dtype(-1000)), b, np.nextafter(b, dtype(0))):
            x = np.array([a, c], dtype)
            check(so.logsumexp(x), x)


def test_acceptance():
    assert so.logsumexp([0.0, -40.0]) == 4.248354255291589e-18
    x = np.log(np.array([0.3, 0.7]) * (1 + 1e-9))
    assert so.logsumexp(x) == pytest.approx(1e-9, rel=1e-7)
    check(so.logsumexp(x), x)


# --- the checks bite ---


def naive(x):
    m = x.max()
    return m + np.log(np.exp(x - m).sum())


def in_double_length_sum_only(x):
    """The maximum's 1 kept apart, but m + log1p(R) in one double."""
    m, i = x.max(), int(np.argmax(x))
    return m + np.log1p(np.exp(np.delete(x, i) - m).sum())


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        (naive, "dominant by 50.0 over 9"),
        (naive, "log of probabilities 1"),
        (in_double_length_sum_only, "log of probabilities 1"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_naive_versions_fail(formula, name, dtype):
    x = adversarial_rows(dtype)[name]
    x = x - x.max() if name.startswith("dominant") else x
    with pytest.raises(AssertionError):
        check(formula(x).astype(dtype), x)


# --- weights and signs ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_weights(dtype, data):
    x = data.draw(arrays(dtype, shape=(12,), elements=finite(dtype, 600)))
    b = data.draw(arrays(dtype, shape=(12,), elements=finite(dtype, 1000)))
    sign, log = weighted_sum(x, b)
    got, got_sign = so.logsumexp(x, b=b, return_sign=True)
    assert got_sign == sign
    if sign == 0:
        assert got == -np.inf
    else:
        assert error(got, log, dtype) <= bound(1.0, 1.5, dtype)
    if sign < 0:
        assert np.isnan(so.logsumexp(x, b=b).astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weights_that_cancel(dtype):
    rng = np.random.default_rng(8)
    for _ in range(30):
        x = rng.standard_normal(8).astype(dtype)
        x = np.concatenate([x, np.nextafter(x, dtype(10))])
        b = np.repeat(np.array([1, -1], dtype), 8)
        sign, log = weighted_sum(x, b)
        got, got_sign = so.logsumexp(x, b=b, return_sign=True)
        assert got_sign == sign
        assert error(got, log, dtype) <= bound(1.0, 1.5, dtype)


WEIGHTS_THAT_CANCEL = [
    # equal elements whose weights cancel entirely, beside what is left below them
    ([92, 92, 92, 0], [-9e-41, 744, -744, 0.5]),
    ([92, 92, 92, 0], [-4.5e-41, 744, -744, 0.5]),
    ([5, 5, 5, 5, 1], [1e38, 1e10, -1e38, -1e10, 1e-38]),
    ([5, 5, 5, 5, 5], [1e38, 1e-38, -1e38, 1e5, -1e5]),
    ([0, 0, 0], [3e38, 1e-45, -3e38]),
    ([9, 9, 5, 5, -3], [1, -1, 2, -2, 1]),
    ([9, 9, 5, 5], [1, -1, 2, -2]),
    ([600, 600, -600], [1, -1, 1]),
    ([600, 600, -600], [1, -1, -1e-40]),
    ([700, 700, 700, 0], [0.25, 0.5, -0.75, 1]),
    ([2000, 2000, -2000, -2000, 0.25], [3, -3, 1, -1, -1]),
    ([4000, 4000, 3000, 3000, 2000], [1, -1, 1, -1, 1]),
    ([4000, 4000, 0.5, 0.5], [1, -1, 1, 1e-30]),
    ([1e38, 1e38, -1e38, 2e-38, 2e-38], [1, -1, 1, 1, 1e-3]),
    # a sum next to 1
    ([0, 0, 0, -80], [744, -743, 1e-40, 0]),
    ([1e-30, -1e-35], [2, -1]),
    ([1e-38, 1e-40], [2, -1]),
    ([0, 1e-38, 80, 80], [0.5, 0.5, 7, -7]),
    # and next to -1
    ([0, 0, 0, -80], [-744, 743, -1e-40, 0]),
    ([1e-30, -1e-35], [-2, 1]),
    ([1e-38, 1e-40], [-2, 1]),
    ([0, 1e-38, 80, 80], [-0.5, -0.5, 7, -7]),
    ([0, 1e-20, 80, 80], [-0.5, -0.5, 7, -7]),
    # a sum near the largest double
    ([0, -10], [1.28e308, 0.5]),
    ([0, 0, -10], [1.28e308, 1.28e308, 0.5]),
]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize(("x", "b"), WEIGHTS_THAT_CANCEL)
def test_weights_that_cancel_entirely(x, b, dtype):
    with np.errstate(over="ignore"):
        x, b = np.array(x, np.float64).astype(dtype), np.array(b, np.float64).astype(dtype)
    if not (np.isfinite(x.astype(np.float64)) & np.isfinite(b.astype(np.float64))).all():
        pytest.skip("beyond float16")
    sign, log = weighted_sum(x, b)
    for columns in (len(x), 40, 300):
        wide_x, wide_b = np.full(columns, x[0]), np.zeros(columns, dtype)
        wide_x[: len(x)], wide_b[: len(x)] = x, b
        got, got_sign = so.logsumexp(wide_x[::-1], b=wide_b[::-1], return_sign=True)
        assert got_sign == sign
        assert got == -np.inf if sign == 0 else error(got, log, dtype) <= bound(1.0, 1.5, dtype)


def test_weights_infinite():
    assert so.logsumexp([1.0, 2.0], b=[np.inf, 1.0]) == np.inf
    assert so.logsumexp([1.0, 2.0], b=[-np.inf, 1.0], return_sign=True) == (np.inf, -1)
    assert np.isnan(so.logsumexp([1.0, 2.0], b=[np.inf, -np.inf]))
    assert so.logsumexp([2900.0], b=[np.inf]) == np.inf
    assert so.logsumexp([2900.0, 2900.0, 1.0], b=[np.inf, 1.0, -1.0]) == np.inf
    assert np.isnan(so.logsumexp([1.0, 1.0, np.nan], b=[1.0, -1.0, 1e-300]))


def test_weights_special():
    inf, nan = np.inf, np.nan
    assert so.logsumexp([1e20, -1e20, 1.1], b=[0, 0, 1]) == 1.1
    assert so.logsumexp([nan, inf, 2.0], b=[0, 0, 1]) == 2.0
    assert so.logsumexp([0.0, -inf], b=[2.0, -1.0]) == np.log(2.0)
    assert so.logsumexp([700.0, 1.0], b=[1e300, 1.0]) == pytest.approx(700 + np.log(1e300))
    assert so.logsumexp([1.0, 1.0], b=[0, 0]) == -inf
    assert so.logsumexp([1.0, 1.0], b=[1, -1], return_sign=True) == (-inf, 0.0)
    assert so.logsumexp([-inf, -inf], b=[1, 2], return_sign=True) == (-inf, 0.0)
    assert np.isnan(so.logsumexp([1.0, 2.0], b=[1.0, nan]))
    value, sign = so.logsumexp([1.0, nan], return_sign=True)
    assert np.isnan(value)
    assert np.isnan(sign)
    assert so.logsumexp(np.float32([1, 2]), b=np.float64([1, 2])).dtype == np.float64


def test_where():
    x = np.random.default_rng(0).standard_normal((4, 30))
    keep = np.random.default_rng(1).random((4, 30)) < 0.5
    keep[2] = False
    expected = [so.logsumexp(r[k]) if k.any() else -np.inf for r, k in zip(x, keep, strict=True)]
    got = so.logsumexp(x, where=keep)
    np.testing.assert_array_max_ulp(got, np.array(expected), 1)
    assert got[2] == -np.inf
    x[~keep] = np.nan
    assert same_bits(so.logsumexp(x, where=keep), got)
    b = np.random.default_rng(2).random((4, 30))
    assert same_bits(so.logsumexp(x, where=keep, b=b), so.logsumexp(x, b=np.where(keep, b, 0)))


# --- special values, axes, layouts, out ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("cols", [2, 40, 300])
def test_special_values(cols, dtype):
    inf, nan = np.inf, np.nan
    for position in (0, cols // 2, cols - 1):
        x = np.zeros(cols, dtype)
        x[position] = nan
        assert np.isnan(so.logsumexp(x).astype(np.float64))
        x[position] = inf
        assert so.logsumexp(x) == inf
        x[position - 1] = nan
        assert np.isnan(so.logsumexp(x).astype(np.float64))
        x[:] = -inf
        assert so.logsumexp(x) == -inf
        x[position] = inf
        assert so.logsumexp(x) == inf
        x[position] = 1.5
        assert so.logsumexp(x) == dtype(1.5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_axes_and_layouts(layout, dtype):
    x = (np.random.default_rng(5).standard_normal((3, 17, 4, 21)) * 5).astype(dtype)
    x = laid_out(x, layout)
    for axis in (0, 1, -1, (1, 3), (0, 2), None, ()):
        axes = range(4) if axis is None else np.atleast_1d(np.array(axis, int)) % 4
        kept = [d for d in range(4) if d not in axes]
        rows = np.ascontiguousarray(x.transpose(kept + sorted(axes)))
        rows = rows.reshape(int(np.prod([x.shape[d] for d in kept])), -1)
        expected = np.array([so.logsumexp(r) for r in rows]).astype(dtype)
        got = so.logsumexp(x, axis)
        assert same_bits(np.asarray(got), expected.reshape(np.shape(got)))
        kept_ones = so.logsumexp(x, axis, keepdims=True)
        assert np.ndim(kept_ones) == 4
        assert same_bits(np.asarray(kept_ones).ravel(), np.asarray(got).ravel())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_of_several_blocks(dtype, threads):
    x = (np.random.default_rng(3).standard_normal((3, 70_000)) * 6).astype(dtype)
    y = so.logsumexp(x)
    check(y[0], x[0])
    assert same_bits(so.logsumexp(x[1]), y[1])
    assert same_bits(so.logsumexp(np.asfortranarray(x)), y)
    assert same_bits(so.logsumexp(np.repeat(x, 7, axis=0))[::7], y)
    log_p = so.log_softmax(x)
    z = so.logsumexp(log_p)
    assert same_bits(so.logsumexp(log_p[1]), z[1])
    check(z[1], log_p[1])


def test_out():
    x = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    expected = so.logsumexp(x)
    room = np.zeros(12, np.float32)
    assert so.logsumexp(x, out=room[::2]) is not None
    assert same_bits(np.ascontiguousarray(room[::2]), expected)
    so.logsumexp(x, keepdims=True, out=room[:6, None])
    assert same_bits(room[:6], expected)
    y = x.copy()
    so.logsumexp(y, out=y[:, 0])
    assert same_bits(np.ascontiguousarray(y[:, 0]), expected)


# --- gradient ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("cols", [1, 7, 33, 130])
def test_backward(cols, dtype):
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((3, cols)) * 5).astype(dtype)
    g = rng.standard_normal(3).astype(dtype)
    y = so.logsumexp(x)
    got = so.logsumexp_backward(g, x, y)
    assert got.dtype == dtype
    for i in range(3):
        for value, p in zip(got[i], row(x[i]).softmax(), strict=True):
            assert error(value, p * number(g[i]), dtype) <= bound(1.0, 1.0, dtype)
        assert same_bits(so.logsumexp_backward(g[i], x[i], y[i]), got[i])
    assert same_bits(so.logsumexp_backward(g[:, None], x, y[:, None]), got)
    assert same_bits(so.logsumexp_backward(g, np.asfortranarray(x.T), y, 0).T, got)
    z = x.copy()
    so.logsumexp_backward(g, z, y, out=z)
    assert same_bits(z, got)


# --- bad and empty input ---


def test_empty():
    assert so.logsumexp(np.zeros((2, 0), np.float32)).tolist() == [-np.inf] * 2
    assert so.logsumexp(np.zeros((0, 3))).shape == (0,)
    assert so.logsumexp(np.zeros(0)) == -np.inf
    assert so.logsumexp(np.zeros((2, 0), ml_dtypes.bfloat16), keepdims=True).shape == (2, 1)
    value, sign = so.logsumexp(np.zeros((2, 0)), return_sign=True)
    assert value.tolist() == [-np.inf] * 2
    assert sign.tolist() == [0, 0]


def test_rejected():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match="axis=2"):
        so.logsumexp(x, 2)
    with pytest.raises(ValueError, match=r"b has shape \(2,\); it must be broadcastable with x"):
        so.logsumexp(x, b=np.ones(2))
    with pytest.raises(ValueError, match="where has shape"):
        so.logsumexp(x, where=np.ones(2, bool))
    with pytest.raises(TypeError, match="where has dtype"):
        so.logsumexp(x, where=np.ones(3))
    with pytest.raises(ValueError, match=r"out has shape \(3,\); it must be \(2,\)"):
        so.logsumexp(x, out=np.zeros(3))
    with pytest.raises(ValueError, match="grad_output has shape"):
        so.logsumexp_backward(np.ones(2), x, np.ones(3))
    with pytest.raises(ValueError, match=r"grad_output has shape \(3,\)"):
        so.logsumexp_backward(np.ones(3), x, np.ones(3))


def test_ulp_of_the_reference():
    assert ulp(mpf(1), np.float32) == mpf(2) ** -23
    assert ulp(mpf(0), np.float64) == mpf(2) ** -1074
