"""batch_norm, group_norm, layer_norm, local_response_norm, their gradients: against exact
arithmetic, on every layout, dtype and level, where the mean is large, the deviation nothing, and
the values near the largest."""

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from reference import same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, laid_out

import stableops as so

UNIT = {np.float64: 2.0**-53, np.float32: 2.0**-24}


def exact_statistics(rows):
    """Mean and biased variance of each row (a list of float), in mpmath."""
    result = []
    for row in rows:
        values = [mpf(float(v)) for v in row]
        mean = mpmath.fsum(values) / len(values)
        result.append((mean, mpmath.fsum((v - mean) ** 2 for v in values) / len(values)))
    return result


def check_rows(got, x, weight, bias, eps, dtype, rtol):
    """Rows of got against (x - mean) / sqrt(var + eps) * weight + bias, all 2-D arrays.

    `rtol` is (a, b) of the docstring: error <= 1 ULP + a |x - mean| rstd |w| + b |mean| rstd |w|.
    """
    for g, row, w, b, (mean, var) in zip(got, x, weight, bias, exact_statistics(x), strict=True):
        rstd = 1 / mpmath.sqrt(var + mpf(eps))
        for gi, xi, wi, bi in zip(g, row, w, b, strict=True):
            scale = rstd * mpf(float(wi))
            want = (mpf(float(xi)) - mean) * scale + mpf(float(bi))
            bound = (
                2 * UNIT[dtype] * abs(want)
                + rtol[0] * (abs((mpf(float(xi)) - mean) * scale) + abs(mpf(float(bi))))
                + rtol[1] * abs(mean * scale)
                + mpf(2) ** (-149 if dtype == np.float32 else -1074)
            )
            assert abs(mpf(float(gi)) - want) <= bound, (gi, want, xi, mean, var)


FORWARD_BOUND = {np.float32: (2.0**-31, 2.0**-52), np.float64: (2.0**-49, 2.0**-90)}


def channel_rows(x):
    return np.moveaxis(np.asarray(x), 1, 0).reshape(x.shape[1], -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3, 1e6, 1e8])
@pytest.mark.parametrize("shape", [(33, 3), (4, 3, 5, 7), (2, 3, 70, 71)])
def test_large_mean(dtype, mean, shape):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + mean).astype(dtype)
    w, b = rng.standard_normal((2, 3)).astype(dtype)
    y, m, rstd = so.batch_norm(x, weight=w, bias=b, training=True, return_stats=True)
    assert y.dtype == dtype
    assert m.dtype == rstd.dtype == np.float64
    rows = channel_rows(x)
    keep = np.r_[:50, -3:0] if rows.shape[1] > 60 else np.arange(rows.shape[1])
    stats = exact_statistics(rows)
    for c, (exact_mean, var) in enumerate(stats):
        exact_rstd = 1 / mpmath.sqrt(var + mpf(1e-5))
        assert abs(mpf(m[c]) - exact_mean) <= 2.0**-51 * abs(exact_mean) + 2.0**-50 / exact_rstd
        assert abs(mpf(rstd[c]) / exact_rstd - 1) <= (2.0**-32 if dtype == np.float32 else 2.0**-50)
        a, b2 = FORWARD_BOUND[dtype]
        for got, xi in zip(channel_rows(y)[c, keep], rows[c, keep], strict=True):
            scaled = (mpf(float(xi)) - exact_mean) * exact_rstd * mpf(float(w[c]))
            want = scaled + mpf(float(b[c]))
            bound = 2 * UNIT[dtype] * abs(want) + a * (abs(scaled) + abs(mpf(float(b[c]))))
            bound += b2 * abs(exact_mean * exact_rstd * mpf(float(w[c])))
            assert abs(mpf(float(got)) - want) <= bound


def test_naive_variance_fails_this_bound():
    """E[x^2] - E[x]^2 in float32 is no variance at a mean of 1e6: it loses all digits."""
    x = (np.random.default_rng(0).standard_normal(1000) + 1e6).astype(np.float32)
    naive = np.mean(x * x) - np.mean(x) ** 2
    assert abs(naive - np.var(x.astype(np.float64))) > 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e30])
def test_constant_channel(dtype, value):
    x = np.full((3, 2, 65, 67), value, dtype)
    mean, var = np.zeros(2), np.ones(2)
    y = so.batch_norm(x, mean, var, bias=[1.5, -2], training=True, momentum=1.0)
    assert (mean == dtype(value)).all()
    assert (var == 0).all()
    assert (y == np.array([1.5, -2]).reshape(2, 1, 1)).all()


def test_largest_values_do_not_overflow():
    for dtype in (np.float32, np.float64):
        top = np.finfo(dtype).max
        for values in ([top, -top, top, -top], [top, top, top / 2, top], [top, 0, 0, 0]):
            x = np.array(values, dtype).reshape(4, 1)
            y = so.batch_norm(x, training=True)
            check_rows(y.T, x.T, np.ones((1, 4)), np.zeros((1, 4)), 1e-5, dtype, (2.0**-31, 0))
            across = so.batch_norm(np.repeat(x, 17, axis=1), training=True)
            assert same_bits(across, np.repeat(y, 17, axis=1))


def test_smallest_values_with_eps_0():
    x = np.array([1e-200, -2e-200, 3e-300, 1e-201]).reshape(4, 1)
    y = so.batch_norm(x, training=True, eps=0.0)
    check_rows(y.T, x.T, np.ones((1, 4)), np.zeros((1, 4)), 0.0, np.float64, (2.0**-49, 2.0**-90))


def reference_norm(x, axes, weight, bias, eps):
    x = np.asarray(x, np.longdouble)
    mean = x.mean(axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + np.longdouble(eps)) * weight + bias


def close(got, want, dtype, size):
    """1 ULP, and what the float64 arithmetic leaves of terms of this size, as documented."""
    info = ml_dtypes.finfo(dtype)
    got, want = np.asarray(got, np.longdouble), np.asarray(want, np.longdouble)
    rest = 2.0**-49 if dtype == np.float64 else 2.0**-31
    ulp = float(info.eps) * np.maximum(abs(want), float(info.tiny))
    assert np.all(abs(got - want) <= ulp + rest * abs(size))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_layouts_and_dtypes(dtype, data):
    """Any layout gives the bits of the contiguous copy, and these are right."""
    shape = data.draw(
        st.sampled_from(
            [(2, 6), (1, 6, 3), (5, 6, 1), (3, 6, 4, 5), (2, 6, 2, 3, 2), (2, 18, 7, 7)]
        )
    )
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    x = laid_out(rng.standard_normal(shape).astype(dtype), data.draw(st.sampled_from(LAYOUTS[:5])))
    flat = np.ascontiguousarray(x)
    c = shape[1]
    w, b = rng.standard_normal((2, c)).astype(dtype)
    wide = (1, c) + (1,) * (len(shape) - 2)
    wl, bl = (np.asarray(v, np.longdouble).reshape(wide) for v in (w, b))
    axes = (0, *range(2, len(shape)))
    y = so.batch_norm(x, weight=w, bias=b, training=True)
    assert y.dtype == dtype
    assert same_bits(y, so.batch_norm(flat, weight=w, bias=b, training=True))
    normal = reference_norm(x, axes, wl, 0, 1e-5)
    close(y, normal + bl, dtype, normal)

    mean, var = rng.standard_normal(c), rng.random(c) + 0.1
    y = so.batch_norm(x, mean, var, w, b)
    assert same_bits(y, so.batch_norm(flat, mean, var, w, b))
    normal = (np.asarray(x, np.longdouble) - mean.reshape(wide)) / np.sqrt(
        var.reshape(wide) + np.longdouble(1e-5)
    )
    close(y, normal * wl + bl, dtype, normal * wl)

    y = so.group_norm(x, 3, w, b)
    assert same_bits(y, so.group_norm(flat, 3, w, b))
    grouped = np.asarray(x, np.longdouble).reshape(shape[0], 3, -1)
    normal = reference_norm(grouped, (2,), 1, 0, 1e-5).reshape(shape)
    close(y, normal * wl + bl, dtype, normal * wl)
    assert same_bits(y[:1], so.group_norm(x[:1], 3, w, b))

    w, b = rng.standard_normal((2, *shape[1:])).astype(dtype)
    y = so.layer_norm(x, shape[1:], w, b)
    assert same_bits(y, so.layer_norm(flat, shape[1:], w, b))
    axes = tuple(range(1, len(shape)))
    normal = reference_norm(x, axes, w.astype(np.longdouble), 0, 1e-5)
    close(y, normal + b.astype(np.longdouble), dtype, normal)
    assert same_bits(y[-1:], so.layer_norm(x[-1:], shape[1:], w, b))


def channels_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 64, 65, 200])
def test_channels_last_bits(dtype, channels, threads):
    rng = np.random.default_rng(channels)
    x, g = (rng.standard_normal((2, 3, channels, 47, 53)) + 3).astype(dtype)
    w, b = rng.standard_normal((2, channels)).astype(dtype)
    y, mean, rstd = so.batch_norm(x, weight=w, bias=b, training=True, return_stats=True)
    last = so.batch_norm(channels_last(x), weight=w, bias=b, training=True, return_stats=True)
    assert all(map(same_bits, last, (y, mean, rstd)))
    if channels > 1:
        assert last[0].strides[1] == x.itemsize
    assert same_bits(so.batch_norm(channels_last(x), mean, rstd), so.batch_norm(x, mean, rstd))
    for training in (True, False):
        grads = so.batch_norm_backward(g, x, w, mean, rstd, training=training)
        others = so.batch_norm_backward(
            channels_last(g), channels_last(x), w, mean, rstd, training=training
        )
        assert all(map(same_bits, grads, others))
    a = rng.standard_normal(channels).astype(dtype)
    assert all(
        map(
            same_bits,
            so.prelu_backward(g, x - 3, a),
            so.prelu_backward(channels_last(g), channels_last(x - 3), a),
        )
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 18, 7, 7), 6), ((3, 64, 9, 11), 32), ((1, 70, 70, 71), 7), ((2, 6, 3, 2), 1),
     ((2, 6, 3, 2), 6), ((2, 200, 14, 14), 4), ((3, 24, 1, 2), 3)],
)  # fmt: skip
def test_group_norm_channels_last_bits(dtype, shape, groups, threads):
    rng = np.random.default_rng(sum(shape))
    x, g = (rng.standard_normal((2, *shape)) + 3).astype(dtype)
    w, b = rng.standard_normal((2, shape[1])).astype(dtype)
    for weight, bias in ((w, b), (None, None)):
        y = so.group_norm(x, groups, weight, bias, return_stats=True)
        z = so.group_norm(channels_last(x), groups, weight, bias, return_stats=True)
        assert all(map(same_bits, y, z))
        assert z[0].strides[1] == x.itemsize
        grads = so.group_norm_backward(g, x, groups, weight, *y[1:])
        others = so.group_norm_backward(channels_last(g), channels_last(x), groups, weight, *y[1:])
        assert all(map(same_bits, grads, others))


@pytest.mark.parametrize("scale", [1e305, 1e-200])
def test_extreme_rows_among_others(scale):
    """A row that needs another scale has the bits that it has alone, in every layout."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 5, 6))
    x[0, 4:6] *= scale
    x[1, 9] *= scale
    g, w = rng.standard_normal(x.shape), rng.standard_normal(12)
    settings = {"weight": w, "eps": 0.0, "return_stats": True}
    y = so.group_norm(x, 6, **settings)
    assert np.isfinite(y[0]).all()
    np.testing.assert_allclose(
        y[0][0, 4:6],
        so.group_norm(x[:1] / scale, 6, **settings)[0][0, 4:6],
        rtol=1e-12,
    )
    z = so.group_norm(channels_last(x), 6, **settings)
    assert all(map(same_bits, y, z))
    grads = so.group_norm_backward(g, x, 6, w, *y[1:])
    others = so.group_norm_backward(channels_last(g), channels_last(x), 6, w, *y[1:])
    assert all(map(same_bits, grads, others))
    assert all(np.isfinite(a).all() for a in grads)
    for row in (x, channels_last(x)):
        batch = so.batch_norm(row, training=True, **settings)
        assert np.isfinite(batch[0]).all()
        assert same_bits(batch[0][:, 4:5], so.batch_norm(x[:, 4:5], training=True, eps=0.0,
                                                          weight=w[4:5]))  # fmt: skip


@pytest.mark.parametrize("spatial", [(), (3,)])
@pytest.mark.parametrize("channels", [1, 3])
def test_given_statistics_near_the_largest(spatial, channels):
    """The differences overflow, or their squares; a variance of 1 beside a mean of 1e305 is one."""
    largest = np.finfo(np.float64).max
    cases = [
        ([1e305, 1.0001e305], 1e305, 1.0, 1e-5),
        ([largest, -largest], -1e300, 1e20, 0.0),
        ([largest, 1.0], -largest, largest, 1e308),
        ([1e308, 3.0], 0.0, 1.0, largest),
    ]
    for values, mean, variance, eps in cases:
        shape = (2, channels, *spatial)
        x = np.broadcast_to(np.reshape(values, (2, 1, *[1] * len(spatial))), shape)
        got = so.batch_norm(x, np.full(channels, mean), np.full(channels, variance), eps=eps)
        rstd = 1 / mpmath.sqrt(mpf(variance) + mpf(eps))
        want = [float((mpf(v) - mpf(mean)) * rstd) for v in values]
        expected = np.broadcast_to(np.reshape(want, (2, 1, *[1] * len(spatial))), shape)
        np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_running_statistics():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5)) * 2 + 1
    mean, var = rng.standard_normal(3).astype(np.float32), rng.random(3).astype(np.float32)
    want_mean = 0.75 * mean + 0.25 * x.mean((0, 2))
    want_var = 0.75 * var + 0.25 * x.var((0, 2), ddof=1)
    wide = np.zeros((3, 2), np.float32)
    strided = wide[:, 1]
    strided[:] = var
    so.batch_norm(x, mean, strided, training=True, momentum=0.25)
    np.testing.assert_allclose(mean, want_mean, rtol=1e-6)
    np.testing.assert_allclose(strided, want_var, rtol=1e-6)
    before = mean.copy(), strided.copy()
    so.batch_norm(x, mean, strided)
    assert same_bits(mean, before[0])
    assert same_bits(strided, before[1])


def test_cumulative_average():
    """1 / count as momentum gives the mean of the statistics of all batches."""
    rng = np.random.default_rng(0)
    batches = rng.standard_normal((5, 8, 2))
    mean, var = np.zeros(2), np.ones(2)
    for count, x in enumerate(batches, 1):
        so.batch_norm(x, mean, var, training=True, momentum=1 / count)
    np.testing.assert_allclose(mean, batches.mean((0, 1)), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(var, batches.var(1, ddof=1).mean(0), rtol=1e-13)


def exact_gradients(g, x, weight, eps, rows_weighted):
    """grad_x, and sums g xhat and g by column, of rows in mpmath; weight by column or a number."""
    grad_x, hats = [], []
    for gr, row, w in zip(g, x, weight, strict=True):
        n = len(row)
        values = [mpf(float(v)) for v in row]
        gradient = [mpf(float(v)) for v in gr]
        u = [a * mpf(float(b)) for a, b in zip(gradient, w, strict=True)]
        mean = mpmath.fsum(values) / n
        rstd = 1 / mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in values) / n + mpf(eps))
        xhat = [(v - mean) * rstd for v in values]
        gm = mpmath.fsum(u) / n
        hm = mpmath.fsum(a * b for a, b in zip(u, xhat, strict=True)) / n
        am = mpmath.fsum(map(abs, u)) / n
        bm = mpmath.fsum(abs(a * b) for a, b in zip(u, xhat, strict=True)) / n
        grad_x.append(
            [
                (rstd * (a - gm - b * hm), rstd * (abs(a) + am + abs(b) * bm))
                for a, b in zip(u, xhat, strict=True)
            ]
        )
        hats.append(xhat)
    return grad_x, hats


def check_gradient(got, pairs, dtype):
    """(exact value, sum of the terms' magnitudes) for each element."""
    extra = 2.0**-40 if dtype == np.float32 else 2.0**-48
    for value, (want, terms) in zip(np.ravel(got), pairs, strict=True):
        assert abs(mpf(float(value)) - want) <= 2 * UNIT[dtype] * abs(want) + extra * terms, (
            value,
            want,
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1e6, 1), (1e8, 1), (3.0, 1e-6)])
def test_gradients_of_batch_norm(dtype, mean, deviation):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((5, 2, 3, 4)) * deviation + mean).astype(dtype)
    g, w = rng.standard_normal(x.shape).astype(dtype), rng.standard_normal(2).astype(dtype)
    _, m, rstd = so.batch_norm(x, weight=w, training=True, return_stats=True, eps=1e-12)
    gx, gw, gb = so.batch_norm_backward(g, x, w, m, rstd)
    rows, grads = channel_rows(x), channel_rows(g)
    exact, hats = exact_gradients(grads, rows, np.repeat(w, 60).reshape(2, 60), 1e-12, True)
    for c in range(2):
        check_gradient(channel_rows(gx)[c], exact[c], dtype)
        terms = [mpf(float(a)) * b for a, b in zip(grads[c], hats[c], strict=True)]
        check_gradient(gw[c], [(mpmath.fsum(terms), mpmath.fsum(map(abs, terms)))], dtype)
        terms = [mpf(float(a)) for a in grads[c]]
        check_gradient(gb[c], [(mpmath.fsum(terms), mpmath.fsum(map(abs, terms)))], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0, 1e6])
@pytest.mark.parametrize("spatial", [(), (3, 2)])
def test_gradients_of_group_norm(dtype, mean, spatial):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((3, 6, *spatial)) + mean).astype(dtype)
    g, w = rng.standard_normal(x.shape).astype(dtype), rng.standard_normal(6).astype(dtype)
    _, m, rstd = so.group_norm(x, 2, w, return_stats=True)
    gx, gw, gb = so.group_norm_backward(g, x, 2, w, m, rstd)
    wide = np.broadcast_to(w.reshape(1, 6, *[1] * len(spatial)), x.shape).reshape(6, -1)
    exact, hats = exact_gradients(g.reshape(6, -1), x.reshape(6, -1), wide, 1e-5, False)
    check_gradient(gx, [pair for row in exact for pair in row], dtype)
    hats = np.array([h for row in hats for h in row], object).reshape(x.shape)
    for c in range(6):
        terms = [
            mpf(float(a)) * b for a, b in zip(g[:, c].ravel(), hats[:, c].ravel(), strict=True)
        ]
        check_gradient(gw[c], [(mpmath.fsum(terms), mpmath.fsum(map(abs, terms)))], dtype)
        terms = [mpf(float(a)) for a in g[:, c].ravel()]
        check_gradient(gb[c], [(mpmath.fsum(terms), mpmath.fsum(map(abs, terms)))], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0, 1e6])
@pytest.mark.parametrize("rows", [3, 70])
def test_gradients_of_layer_norm(dtype, mean, rows):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((rows, 19)) + mean).astype(dtype)
    g, w = rng.standard_normal(x.shape).astype(dtype), rng.standard_normal(19).astype(dtype)
    _, m, rstd = so.layer_norm(x, 19, w, return_stats=True)
    gx, gw, gb = so.layer_norm_backward(g, x, 19, w, m, rstd)
    exact, hats = exact_gradients(g, x, np.broadcast_to(w, x.shape), 1e-5, False)
    check_gradient(gx, [pair for row in exact for pair in row], dtype)
    for c in range(19):
        terms = [mpf(float(a)) * row[c] for a, row in zip(g[:, c], hats, strict=True)]
        check_gradient(gw[c], [(mpmath.fsum(terms), mpmath.fsum(map(abs, terms)))], dtype)
        terms = [mpf(float(a)) for a in g[:, c]]
        check_gradient(gb[c], [(mpmath.fsum(terms), mpmath.fsum(map(abs, terms)))], dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "near 0", "large mean", "wide", "huge", "tiny"])
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-300, 1.0])
def test_gradients_keep_the_documented_bound(dtype, kind, eps):
    """1 ULP and a share of the terms, with |d| + 1 / rstd (float32: + 2^-10 |mean|) for |d|."""
    rng = np.random.default_rng(4)
    extreme = (
        {"huge": 1e30, "tiny": 1e-30} if dtype == np.float32 else {"huge": 1e300, "tiny": 1e-290}
    )
    share = 2.0**-40 if dtype == np.float32 else 2.0**-48
    for n in (2, 3, 17, 40):
        x = rng.standard_normal(n) * extreme.get(kind, 1)
        if kind == "large mean":
            x += 1e6
        if kind == "near 0" and n > 2:
            x[0] = x[1:].mean()
        if kind == "wide":
            x *= 10.0 ** rng.uniform(*((-30, 30) if dtype == np.float32 else (-300, 300)), n)
        x, g, w = (v.astype(dtype) for v in (x, rng.standard_normal(n), rng.standard_normal(n)))
        _, m, r = so.layer_norm(x[None], n, w, eps=eps, return_stats=True)
        gx, gw, _ = so.layer_norm_backward(g[None], x[None], n, w, m, r)
        values = [mpf(float(v)) for v in x]
        mean = mpmath.fsum(values) / n
        rstd = 1 / mpmath.sqrt(mpmath.fsum((v - mean) ** 2 for v in values) / n + mpf(eps))
        u = [mpf(float(a)) * mpf(float(b)) for a, b in zip(g, w, strict=True)]
        d = [v - mean for v in values]
        more = 1 / rstd + (abs(mean) * 2.0**-10 if dtype == np.float32 else 0)
        size = [abs(v) + more for v in d]
        total = mpmath.fsum(u), mpmath.fsum(a * b for a, b in zip(u, d, strict=True))
        sizes = (
            mpmath.fsum(map(abs, u)),
            mpmath.fsum(abs(a) * b for a, b in zip(u, size, strict=True)),
        )
        smallest = mpf(2) ** (-149 if dtype == np.float32 else -1074)
        for i in range(n):
            want = rstd * (u[i] - total[0] / n - d[i] * rstd**2 * total[1] / n)
            terms = rstd * (abs(u[i]) + sizes[0] / n + size[i] * rstd**2 * sizes[1] / n)
            bound = 2 * UNIT[dtype] * abs(want) + share * terms + smallest
            assert abs(mpf(float(gx[0, i])) - want) <= bound, (n, i, gx[0, i], want)
            want = mpf(float(g[i])) * d[i] * rstd
            terms = abs(mpf(float(g[i]))) * size[i] * rstd
            bound = 2 * UNIT[dtype] * abs(want) + share * terms + smallest
            assert abs(mpf(float(gw[i])) - want) <= bound, (n, i, gw[i], want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_of_vectors_do_not_touch_their_neighbours(dtype):
    """(N, C): a group ends within a register, and the next one's weights and columns follow."""
    rng = np.random.default_rng(5)
    x, g = rng.standard_normal((2, 2, 6)).astype(dtype)
    w = rng.standard_normal(6).astype(dtype)
    _, mean, rstd = so.group_norm(x, 2, w, return_stats=True)
    gx, gw, gb = so.group_norm_backward(g, x, 2, w, mean, rstd)
    infinite = w.copy()
    infinite[3:] = np.inf
    got = so.group_norm_backward(g, x, 2, infinite, mean, rstd)
    assert same_bits(got[0][:, :3], gx[:, :3])
    mean[:, 0] = np.nan
    got = so.group_norm_backward(g, x, 2, w, mean, rstd)
    assert same_bits(got[0][:, 3:], gx[:, 3:])
    assert same_bits(got[1][3:], gw[3:])
    assert same_bits(got[2], gb)


def differences(function, x, g, h=1e-5):
    """sum(g * function(x)) differentiated by central differences."""
    grad = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = np.sum(g * (function(up) - function(down))) / (2 * h)
    return grad


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_against_differences(training):
    rng = np.random.default_rng(4)
    x, g = rng.standard_normal((2, 3, 2, 2, 3))
    w, b = rng.standard_normal((2, 2))
    mean, var = rng.standard_normal(2), rng.random(2) + 0.5
    stats = (None, None) if training else (mean, var)

    def forward(x=x, w=w, b=b):
        return so.batch_norm(x, *stats, w, b, training)

    _, m, rstd = so.batch_norm(x, *stats, w, b, training, return_stats=True)
    gx, gw, gb = so.batch_norm_backward(g, x, w, m, rstd, training=training)
    np.testing.assert_allclose(gx, differences(lambda v: forward(x=v), x, g), rtol=0, atol=1e-9)
    np.testing.assert_allclose(gw, differences(lambda v: forward(w=v), w, g), rtol=0, atol=1e-9)
    np.testing.assert_allclose(gb, differences(lambda v: forward(b=v), b, g), rtol=0, atol=1e-9)


def test_rounded_mean_is_put_right():
    """A mean rounded to float32, as other libraries save it, costs no digits of the gradient."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((50, 3)) + 1e6
    g = rng.standard_normal(x.shape)
    _, m, rstd = so.batch_norm(x, training=True, return_stats=True)
    gx, gw, _ = so.batch_norm_backward(g, x, None, m, rstd)
    other = so.batch_norm_backward(g, x, None, m.astype(np.float32), rstd)
    np.testing.assert_allclose(other[0], gx, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(other[1], gw, rtol=1e-12)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_gradient_layouts(dtype, data):
    shape = data.draw(st.sampled_from([(2, 6), (1, 6, 3), (3, 6, 4, 5), (2, 6, 7, 9)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    w = rng.standard_normal(6).astype(dtype)
    layouts = st.sampled_from(LAYOUTS[:5])
    x2, g2 = laid_out(x, data.draw(layouts)), laid_out(g, data.draw(layouts))
    stats = so.batch_norm(x, training=True, return_stats=True)[1:]
    assert all(
        map(same_bits, so.batch_norm_backward(g2, x2, w, *stats),
            so.batch_norm_backward(g, x, w, *stats))
    )  # fmt: skip
    stats = so.group_norm(x, 3, return_stats=True)[1:]
    assert all(
        map(same_bits, so.group_norm_backward(g2, x2, 3, w, *stats),
            so.group_norm_backward(g, x, 3, w, *stats))
    )  # fmt: skip
    w = rng.standard_normal(shape[1:]).astype(dtype)
    stats = so.layer_norm(x, shape[1:], return_stats=True)[1:]
    assert all(
        map(same_bits, so.layer_norm_backward(g2, x2, shape[1:], w, *stats),
            so.layer_norm_backward(g, x, shape[1:], w, *stats))
    )  # fmt: skip


def test_output_mask():
    rng = np.random.default_rng(6)
    x, g = rng.standard_normal((2, 3, 4, 5))
    w, wide = rng.standard_normal(4), rng.standard_normal((4, 5))
    batch = so.batch_norm(x, training=True, return_stats=True)[1:]
    group = so.group_norm(x, 2, return_stats=True)[1:]
    layer = so.layer_norm(x, (4, 5), return_stats=True)[1:]
    for backward in (
        lambda mask: so.batch_norm_backward(g, x, w, *batch, output_mask=mask),
        lambda mask: so.group_norm_backward(g, x, 2, w, *group, output_mask=mask),
        lambda mask: so.layer_norm_backward(g, x, (4, 5), wide, *layer, output_mask=mask),
    ):
        full = backward((True, True, True))
        for i in range(3):
            mask = tuple(j == i for j in range(3))
            some = backward(mask)
            assert same_bits(some[i], full[i])
            assert [s is None for s in some] == [not m for m in mask]


def test_long_rows(threads):
    """Several segments, several tasks a row: exact statistics all the same."""
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((2, 3, 130, 131)) + 1e4).astype(np.float32)
    y, m, rstd = so.batch_norm(x, training=True, return_stats=True)
    wide = channel_rows(x).astype(np.longdouble)
    np.testing.assert_allclose(m, wide.mean(1).astype(float), rtol=1e-15)
    np.testing.assert_allclose(1 / rstd**2 - 1e-5, wide.var(1).astype(float), rtol=1e-9)
    one = so.batch_norm(np.concatenate([x, x[:, :2]], axis=1), training=True)
    assert same_bits(one[:, :3], y)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("empty", [(0, 3, 4), (2, 3, 0), (0, 3)])
def test_empty(dtype, empty):
    x = np.zeros(empty, dtype)
    mean, var = np.zeros(3), np.ones(3)
    assert so.batch_norm(x, mean, var, training=True).shape == empty
    assert same_bits(mean, np.zeros(3))
    assert so.batch_norm(x, mean, var).shape == empty
    assert so.group_norm(x, 3).shape == empty
    gx, gw, gb = so.batch_norm_backward(x, x, None, mean, var)
    assert gx.shape == empty
    assert (gw == 0).all()
    assert (gb == 0).all()


def test_nan_stays_in_its_row():
    x = np.random.default_rng(0).standard_normal((4, 3, 5))
    x[0, 1, 2] = np.nan
    x[1, 2, 0] = np.inf
    y = so.batch_norm(x, training=True)
    assert np.isfinite(y[:, 0]).all()
    assert np.isnan(y[:, 1:]).all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: so.batch_norm(np.ones((1, 3)), training=True), ValueError, "more than one value"),
        (lambda: so.batch_norm(np.ones((2, 3))), ValueError, "running_mean=None"),
        (lambda: so.batch_norm(np.ones(3), training=True), ValueError, "two dimensions"),
        (lambda: so.batch_norm(np.ones((2, 3)), training=True, eps=-1.0), ValueError, "eps=-1.0"),
        (lambda: so.batch_norm(np.ones((2, 3)), training=True, eps="x"), TypeError, "eps='x'"),
        (lambda: so.batch_norm(np.ones((2, 3)), training=True, eps=np.nan), ValueError, "eps=nan"),
        (lambda: so.batch_norm(np.ones((2, 3)), np.zeros(3)), ValueError, "both"),
        (lambda: so.batch_norm(np.ones((2, 3)), np.zeros(2), np.ones(2)), ValueError, r"\(3,\)"),
        (lambda: so.batch_norm(np.ones((2, 3)), [0, 0, 0], [1, 1, 1], training=True), TypeError,
         "in place"),
        (lambda: so.batch_norm(np.ones((2, 3)), weight=[1.0], training=True), ValueError, "weight"),
        (lambda: so.batch_norm(np.ones((2, 3)), bias=np.ones(4), training=True), ValueError,
         "bias"),
        (lambda: so.batch_norm(1j * np.ones((2, 3)), training=True), TypeError, "input"),
        (lambda: so.batch_norm_backward(np.ones((2, 3)), np.ones((2, 3)), None, [0], [1]),
         ValueError, "mean"),
        (lambda: so.batch_norm_backward(np.ones((2, 2)), np.ones((2, 3)), None, [0], [1]),
         ValueError, "grad_output"),
        (lambda: so.group_norm(np.ones((2, 4)), 3), ValueError, "num_groups=3"),
        (lambda: so.group_norm(np.ones((2, 4)), 0), ValueError, "num_groups=0"),
        (lambda: so.group_norm(np.ones((2, 4)), 2.0), TypeError, "num_groups=2.0"),
        (lambda: so.group_norm(np.ones((2, 4)), np.ones(2, int)), TypeError, "an int"),
        (lambda: so.layer_norm(np.ones((2, 4)), 3), ValueError, "normalized_shape=3"),
        (lambda: so.layer_norm(np.ones((2, 4)), ()), ValueError, "normalized_shape"),
        (lambda: so.layer_norm(np.ones((2, 4)), 4, eps=-1), ValueError, "eps=-1"),
        (lambda: so.layer_norm(np.ones((2, 4)), 4, np.ones(3)), ValueError, "weight"),
        (lambda: so.local_response_norm(np.ones((2, 4)), 3), ValueError, "three dimensions"),
        (lambda: so.local_response_norm(np.ones((2, 4, 2)), 0), ValueError, "size=0"),
        (lambda: so.local_response_norm(np.ones((2, 4, 2)), 3, "a"), TypeError, "alpha='a'"),
    ],
)  # fmt: skip
def test_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_read_only_statistics_are_refused_before_anything_is_written():
    mean, var = np.zeros(3), np.ones(3)
    var.flags.writeable = False
    with pytest.raises(ValueError, match="running_var is read-only"):
        so.batch_norm(np.random.default_rng(0).random((2, 3)), mean, var, training=True)
    assert (mean == 0).all()


def exact_response(x, size, alpha, beta, k):
    """y, by definition, of one image (C, P) in mpmath; and the base."""
    c = x.shape[0]
    y, bases = np.empty(x.shape, object), np.empty(x.shape, object)
    for i in np.ndindex(x.shape):
        window = range(max(0, i[0] - size // 2), min(c, i[0] + (size - 1) // 2 + 1))
        total = mpmath.fsum(mpf(float(x[j, i[1]])) ** 2 for j in window)
        bases[i] = mpf(k) + mpf(alpha) / size * total
        y[i] = mpf(float(x[i])) * bases[i] ** -mpf(beta)
    return y, bases


RULES = [
    (5, 1e-4, 0.75, 1.0),
    (5, 1e-4, 0.75, 2.0),
    (3, 0.5, 0.5, 1.0),
    (4, 2.0, 1.0, 0.1),
    (9, 1, -0.5, 1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_local_response_norm(dtype, rule):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 7, 30)) * 10.0 ** rng.uniform(-3, 3, (1, 7, 30))).astype(dtype)
    y = so.local_response_norm(x, *rule)
    want, _ = exact_response(x[0], *rule)
    bound = 0.51 if dtype == np.float32 else 3.0
    for got, exact in zip(y.ravel(), want.ravel(), strict=True):
        assert abs(mpf(float(got)) - exact) <= bound * 2 * UNIT[dtype] * abs(exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_gradient_of_local_response_norm(dtype, rule):
    size, alpha, beta, _ = rule
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((2, 1, 7, 11)).astype(dtype)
    got = so.local_response_norm_backward(g, x, *rule)
    _, base = exact_response(x[0], *rule)
    for c, p in np.ndindex(7, 11):
        own = mpf(float(g[0, c, p])) * base[c, p] ** -mpf(beta)
        terms = [
            mpf(float(g[0, j, p])) * mpf(float(x[0, j, p])) * base[j, p] ** (-mpf(beta) - 1)
            for j in range(7)
            if j - size // 2 <= c <= j + (size - 1) // 2
        ]
        factor = 2 * mpf(alpha) * mpf(beta) / size * mpf(float(x[0, c, p]))
        want = own - factor * mpmath.fsum(terms)
        total = abs(own) + abs(factor) * mpmath.fsum(map(abs, terms))
        extra = 2.0**-40 if dtype == np.float32 else 2.0**-49 * size
        error = abs(mpf(float(got[0, c, p])) - want)
        assert error <= 2 * UNIT[dtype] * abs(want) + extra * total


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_local_response_norm_layouts(dtype, data):
    shape = data.draw(st.sampled_from([(2, 6, 3), (1, 1, 4), (2, 13, 9, 17), (1, 5, 20, 30)]))
    size = data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    layouts = st.sampled_from(LAYOUTS[:5])
    x2, g2 = laid_out(x, data.draw(layouts)), laid_out(g, data.draw(layouts))
    y = so.local_response_norm(x, size, 1.0)
    assert same_bits(so.local_response_norm(x2, size, 1.0), y)
    wide = np.asarray(x, np.longdouble).reshape(*shape[:2], -1)
    base = np.ones_like(wide)
    for c in range(shape[1]):
        window = wide[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        base[:, c] += (window**2).sum(1) / size
    want = (wide * base ** np.longdouble(-0.75)).reshape(shape)
    info = ml_dtypes.finfo(dtype)
    ulp = float(info.eps) * np.maximum(abs(want), float(info.tiny))
    limit = 3.0 if dtype == np.float64 else 0.51
    assert np.all(abs(np.asarray(y, np.longdouble) - want) <= limit * ulp)
    assert same_bits(
        so.local_response_norm_backward(g2, x2, size, 1.0),
        so.local_response_norm_backward(g, x, size, 1.0),
    )


def test_response_at_the_limits():
    x = np.array([0.0, 3.0, np.inf, np.nan, 2.0]).reshape(1, 1, 5)
    y = so.local_response_norm(x, 1, alpha=1.0, beta=0.5, k=0.0).ravel()
    assert same_bits(y, np.array([np.nan, 1, np.nan, np.nan, 1]))
    negative = so.local_response_norm(np.ones((1, 1, 1), np.float32), 1, alpha=1.0, k=-2.0)
    assert np.isnan(negative).all()
    assert so.local_response_norm(x[..., 1:2], 3, beta=0.0, k=0.0, alpha=0.0) == 3.0


@given(x=arrays(np.float64, shape=(6, 4)))
def test_extreme_values_give_numbers(x):
    """Finite input has a finite result, whatever its size (eps > 0)."""
    y = so.batch_norm(x, training=True)
    assert np.isfinite(y).all()
    assert (abs(y) <= 3).all()
    assert np.isfinite(so.layer_norm(x, 4)).all()
