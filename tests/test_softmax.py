"""softmax, log_softmax and their gradients: every digit, the same bits however the array lies."""

import itertools

import numpy as np
import pytest
import reference_rows
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from reference_rows import (
    adversarial_rows,
    bound,
    dominated_rows,
    error,
    long_rows,
    row,
    worst_error,
)
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, finite, laid_out, with_specials

import stableops as so

FORWARD = [so.softmax, so.log_softmax]
BACKWARD = [so.softmax_backward, so.log_softmax_backward]


def check_softmax(y, x):
    exact = row(x).softmax()
    assert y.dtype == x.dtype
    assert worst_error(y, exact, x.dtype) <= bound(1.0, 1.0, x.dtype)


def check_log_softmax(y, x):
    exact = row(x).log_softmax()
    assert y.dtype == x.dtype
    assert worst_error(y, exact, x.dtype) <= bound(1.0, 1.5, x.dtype)


# --- agreement with the reference ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("name", adversarial_rows(np.float64))
def test_adversarial_rows(name, dtype):
    x = adversarial_rows(dtype)[name]
    check_softmax(so.softmax(x), x)
    check_log_softmax(so.log_softmax(x), x)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_any_finite_row(dtype, data):
    x = data.draw(arrays(dtype, min_dims=1, max_dims=1, elements=finite(dtype)))
    x = x[np.isfinite(x.astype(np.float64))]
    if x.size:
        check_softmax(so.softmax(x), x)
        check_log_softmax(so.log_softmax(x), x)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("k", [1, 9, 999])
def test_dominated_rows(k, dtype):
    x = dominated_rows(k).astype(dtype)
    y, z = so.softmax(x), so.log_softmax(x)
    for i in range(len(x)):
        exact = row(x[i])
        assert worst_error(y[i, :2], exact.softmax()[:2], dtype) <= bound(1.0, 1.0, dtype)
        assert worst_error(z[i, :2], exact.log_softmax()[:2], dtype) <= bound(1.0, 1.5, dtype)
    assert same_bits(y[:, 1:], np.repeat(y[:, 1:2], k, axis=1))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_long_rows(dtype):
    for x, places in long_rows(dtype):
        p, log_p = row(x).softmax(), row(x).log_softmax()
        y, z = so.softmax(x), so.log_softmax(x)
        for i in places:
            assert error(y[i], p[i], dtype) <= bound(1.0, 1.0, dtype)
            assert error(z[i], log_p[i], dtype) <= bound(1.0, 1.5, dtype)


def test_acceptance():
    assert np.array2string(so.softmax(np.array([1, 1, 1, 4000]))) == "[0. 0. 0. 1.]"
    assert so.log_softmax(np.array([40.0, 0.0, 0.0]))[0] == -8.496708510583178e-18


# --- the checks bite ---


def naive_softmax_without_max(x):
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(x)
        return e / e.sum()


def naive_softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def naive_log_softmax(x):
    with np.errstate(divide="ignore"):
        return np.log(naive_softmax(x))


def float32_running_sum(x):
    e = np.exp(x - x.max(), dtype=np.float32)
    total = np.float32(0)
    for term in e:
        total += term
    return e / total


@pytest.mark.parametrize(
    ("check", "naive", "name", "dtype"),
    [
        (check_softmax, naive_softmax_without_max, "dominant by 800.0 over 9", np.float64),
        (check_softmax, naive_softmax, "increasing", np.float32),
        (check_softmax, float32_running_sum, "0, -16.6 many times", np.float32),
        (check_log_softmax, naive_log_softmax, "dominant by 50.0 over 9", np.float64),
        (check_log_softmax, naive_log_softmax, "dominant by 800.0 over 1", np.float32),
    ],
)
def test_naive_versions_fail(check, naive, name, dtype):
    x = adversarial_rows(dtype)[name]
    with pytest.raises(AssertionError):
        check(naive(x).astype(dtype), x)


# --- special values ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("cols", [3, 40, 300])
@pytest.mark.parametrize("f", FORWARD)
def test_special_values(f, cols, dtype):
    inf, nan = np.inf, np.nan
    for position in (0, cols // 2, cols - 1):
        for value in (nan, inf):
            x = np.zeros(cols, dtype)
            x[position] = value
            assert np.isnan(f(x).astype(np.float64)).all()
        x = np.full(cols, -inf, dtype)
        assert np.isnan(f(x).astype(np.float64)).all()
        x[position] = 2.5
        expected = np.full(cols, 0.0 if f is so.softmax else -inf, dtype)
        expected[position] = 1.0 if f is so.softmax else 0.0
        assert same_bits(f(x) + np.zeros((), dtype), expected)
    for values in ([inf, -inf], [inf, -inf, nan, 1.0]):
        assert np.isnan(f(np.array(values, dtype)).astype(np.float64)).all()


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_finite_input_never_gives_nan(dtype, data):
    x = data.draw(arrays(dtype, max_dims=2, elements=finite(dtype)))
    finite_rows = np.isfinite(x.astype(np.float64)).all(axis=-1)
    for f in FORWARD:
        assert not np.isnan(f(x).astype(np.float64))[finite_rows].any()


# --- where ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("f", FORWARD)
@given(data=st.data())
def test_where_leaves_elements_out(f, dtype, data):
    x = data.draw(arrays(dtype, shape=(5, 37), elements=with_specials(dtype)))
    keep = np.random.default_rng(data.draw(st.integers(0, 99))).random((5, 37)) < 0.6
    keep[3] = False
    y = f(x, where=keep)
    absent = 0.0 if f is so.softmax else -np.inf
    assert (y[~keep].astype(np.float64) == absent).all()
    left_out = np.where(keep, x, np.array(-np.inf, dtype))
    rows = keep.any(axis=1)
    expected = np.where(keep, f(left_out), np.array(absent, dtype))
    assert same_bits(y[rows], expected[rows])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_gradient_of_what_is_left_out_is_zero(dtype):
    """Fully masked rows poison no gradient (pytorch 24816, 41508, 103749, 131060)."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 4, 40)).astype(dtype)
    keep = rng.random((4, 40)) < 0.5
    keep[1] = False
    x[~keep] = np.nan
    gradient = so.softmax_backward(g, so.softmax(x, where=keep))
    assert (gradient[~keep] == 0).all()
    assert gradient[keep].all()
    # log_softmax cannot be differentiated at -inf, where no loss depends on it.
    gradient = so.log_softmax_backward(np.where(keep, g, 0), so.log_softmax(x, where=keep))
    assert (gradient[~keep] == 0).all()
    assert gradient[keep].all()


def test_where_broadcasts():
    x = np.random.default_rng(0).standard_normal((4, 6, 50))
    keep = np.arange(50) < 20
    assert same_bits(so.softmax(x, where=keep), so.softmax(x, where=np.broadcast_to(keep, x.shape)))
    keep = np.array([True, False, True, True, False, True])[:, None]
    y = so.softmax(x, axis=(1, 2), where=keep)
    assert (y[:, [1, 4]] == 0).all()


# --- axes, layouts, batches, out ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("f", FORWARD)
@pytest.mark.parametrize("cols", [1, 5, 32, 95, 96, 131])
def test_row_alone_and_in_a_batch(f, cols, dtype):
    x = (np.random.default_rng(cols).standard_normal((70, cols)) * 6).astype(dtype)
    y = f(x)
    for i in (0, 1, 15, 16, 69):
        assert same_bits(f(x[i]), y[i])
        assert same_bits(f(x[i : i + 1]), y[i : i + 1])
    assert same_bits(np.ascontiguousarray(f(x.T, axis=0).T), y)
    assert same_bits(f(np.ascontiguousarray(x.T), axis=0).T, y)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_of_several_blocks(dtype, threads):
    x = (np.random.default_rng(3).standard_normal((3, 70_000)) * 6).astype(dtype)
    for f in FORWARD:
        y = f(x)
        assert same_bits(f(x[1]), y[1])
        assert same_bits(f(np.asfortranarray(x)), y)
        assert same_bits(f(np.repeat(x, 7, axis=0))[::7], y)
        assert same_bits(f(np.repeat(x, 7, axis=0).T, axis=0)[:, ::7].T, y)
        assert same_bits(f(x[:, ::-1])[:, ::-1], f(np.ascontiguousarray(x[:, ::-1]))[:, ::-1])


@pytest.mark.parametrize("f", FORWARD)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_axes_and_layouts(f, layout, dtype):
    x = (np.random.default_rng(5).standard_normal((3, 17, 4, 21)) * 5).astype(dtype)
    x = laid_out(x, layout)
    for axis in (0, 1, -1, (1, 3), (0, 2), (3, 1), (1, 2, 3), None, ()):
        axes = range(4) if axis is None else np.atleast_1d(np.array(axis, int)) % 4
        kept = [d for d in range(4) if d not in axes]
        order = kept + sorted(axes)
        moved = np.ascontiguousarray(x.transpose(order))
        flat = moved.reshape(int(np.prod([x.shape[d] for d in kept])), -1)
        expected = np.stack([f(r) for r in flat]).reshape(moved.shape)
        expected = expected.transpose(np.argsort(order))
        assert same_bits(f(x, axis), np.ascontiguousarray(expected))


def test_channels_last_in_and_out():
    x = np.random.default_rng(1).standard_normal((2, 5, 6, 7)).transpose(0, 3, 1, 2)
    assert so.softmax(x, axis=1).strides == x.strides


@pytest.mark.parametrize("f", FORWARD)
def test_out(f):
    rng = np.random.default_rng(2)
    for shape, axis in itertools.product([(9, 40), (3, 200)], [0, 1]):
        x = rng.standard_normal(shape).astype(np.float32)
        expected = f(x, axis)
        out = np.empty(shape[::-1], np.float32).T
        assert f(x, axis, out=out) is out
        assert same_bits(out, expected)
        inplace = x.copy()
        f(inplace, axis, out=inplace)
        assert same_bits(inplace, expected)
        room = np.zeros(x.size + 7, np.float32)
        a, b = room[: x.size].reshape(shape), room[7:].reshape(shape)
        a[...] = x
        f(a, axis, out=b)
        assert same_bits(b, expected)
        square = rng.standard_normal((40, 40))
        expected = f(square, axis).T.copy()
        f(square, axis, out=square.T)
        assert same_bits(square, expected.T.T)


@pytest.mark.parametrize("f", FORWARD)
@pytest.mark.parametrize("cols", [96, 1001, 8192, 8193, 20_011, 70_001])
def test_where_the_result_goes(f, cols, threads):
    """Next to other memory, over the operand, elsewhere: exponentials may be kept there."""
    x = (np.random.default_rng(cols).standard_normal((5, cols)) * 6).astype(np.float32)
    x[1] *= 100
    x[2, cols // 2] = np.nan
    x[3] -= 70
    expected = np.ascontiguousarray(f(np.asfortranarray(x)))
    room = np.full((7, cols + 32), 7, np.float32)
    out = room[1:-1, 16:-16]
    f(x, out=out)
    assert same_bits(out, expected)
    out[...] = 7
    assert (room == 7).all()
    assert same_bits(f(x), expected)
    assert same_bits(f(x, out=x), expected)


# --- gradients ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("cols", [1, 7, 33, 130])
@pytest.mark.parametrize(("f", "backward"), list(zip(FORWARD, BACKWARD, strict=True)))
def test_backward(f, backward, cols, dtype):
    rng = np.random.default_rng(cols)
    y = f((rng.standard_normal((3, cols)) * 5).astype(dtype))
    g = rng.standard_normal((3, cols)).astype(dtype)
    got = backward(g, y)
    assert got.dtype == dtype
    for i in range(3):
        exact = getattr(reference_rows, backward.__name__)(g[i], y[i])
        assert reference_rows.backward_error(got[i], exact, dtype) <= 2
        assert same_bits(backward(g[i], y[i]), got[i])
    assert same_bits(backward(np.asfortranarray(g), y), got)
    assert same_bits(backward(g.T, y.T, 0).T, got)
    inplace = g.copy()
    assert same_bits(backward(inplace, y, out=inplace), got)


@pytest.mark.parametrize("exponent", [-1000, -600, -510, -100, 500, 1000])
@pytest.mark.parametrize(("f", "backward"), list(zip(FORWARD, BACKWARD, strict=True)))
def test_backward_of_tiny_and_huge_gradients(f, backward, exponent):
    # What lifts the tails of exp(y) must not push a small sum of gradients below the least number.
    y = f(np.array([0.0, -1.0, 2.0, -700.0, -40.0]))
    g = np.ldexp([1.0, -0.3, 0.7, 0.6, 1e-12], exponent)
    exact = getattr(reference_rows, backward.__name__)(g, y)
    assert reference_rows.backward_error(backward(g, y), exact, np.float64) <= 2


@pytest.mark.parametrize("cols", [2, 5, 150, 9000, 300_000])
def test_backward_of_gradients_next_to_overflow(cols):
    largest = np.finfo(np.float64).max
    log_p = np.full((3, cols), -np.log(cols))
    p = np.exp(log_p)
    g = np.full((3, cols), largest)
    g[1, 1:] = -largest
    g[2] = 1.0
    # One row's scale is no other row's affair.
    together = so.log_softmax_backward(g, log_p), so.softmax_backward(g, p)
    for i in range(3):
        assert same_bits(so.log_softmax_backward(g[i], log_p[i]), together[0][i])
        assert same_bits(so.softmax_backward(g[i], p[i]), together[1][i])
    small = np.ldexp(g[:2], -100)
    for f, y, got in (
        (so.log_softmax_backward, log_p, together[0]),
        (so.softmax_backward, p, together[1]),
    ):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got[:2], np.ldexp(f(small, y[:2]), 100))
        assert np.isfinite(got[0]).all()
    assert np.isfinite(together[1]).all()
    g[1] = -largest
    g[1, 0] = largest
    log_p[:] = [-800.0] * (cols - 1) + [0.0]
    got = so.log_softmax_backward(g[:2], log_p[:2])
    assert got[0, -1] == (-np.inf if cols > 2 else -largest)
    assert (got[0, :-1] == largest).all()


def test_backward_matches_complex_step():
    x = np.array([0.3, -1.2, 2.0, 0.0])
    g = np.array([1.0, -2.0, 0.5, 3.0])
    for f, backward in zip(FORWARD, BACKWARD, strict=True):
        got = backward(g, f(x))
        for i in range(4):
            z = x.astype(complex)
            z[i] += 1e-200j
            e = np.exp(z)
            value = e / e.sum() if f is so.softmax else z - np.log(e.sum())
            assert got[i] == pytest.approx((g * value).sum().imag / 1e-200, rel=1e-13, abs=1e-15)


def test_backward_promotes():
    g, y = np.ones(3, np.float32), so.softmax(np.zeros(3))
    assert so.softmax_backward(g, y).dtype == np.float64


# --- bad and empty input ---


@pytest.mark.parametrize("f", FORWARD)
def test_empty(f):
    for shape, axis in [((0, 3), -1), ((3, 0), -1), ((0,), None), ((2, 0, 3), (0, 1))]:
        y = f(np.zeros(shape, np.float32), axis)
        assert y.shape == shape
        assert y.dtype == np.float32
    assert f(np.float64(3.0)) == (1.0 if f is so.softmax else 0.0)


@pytest.mark.parametrize("f", FORWARD)
def test_rejected(f):
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match="axis=2 is out of bounds"):
        f(x, 2)
    with pytest.raises(ValueError, match="twice"):
        f(x, (0, -2))
    with pytest.raises(TypeError, match=r"axis=1\.5"):
        f(x, 1.5)
    with pytest.raises(TypeError, match="x has dtype complex128"):
        f(x * 1j)
    with pytest.raises(ValueError, match=r"where has shape \(2,\); it must be broadcastable"):
        f(x, where=np.ones(2, bool))
    with pytest.raises(TypeError, match="where has dtype float64"):
        f(x, where=np.ones(3))
    with pytest.raises(ValueError, match=r"out has shape \(3,\)"):
        f(x, out=np.zeros(3))
    with pytest.raises(TypeError, match="out has dtype float32"):
        f(x, out=np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="read-only"):
        f(x, out=np.broadcast_to(x, x.shape))


@pytest.mark.parametrize("backward", BACKWARD)
def test_backward_rejects(backward):
    with pytest.raises(ValueError, match=r"grad_output has shape \(2,\)"):
        backward(np.ones(2), np.ones(3))
