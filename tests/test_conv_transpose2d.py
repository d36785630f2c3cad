"""conv_transpose2d and its gradients: the definition, the bits of conv2d's gradient, refusals."""

import ml_dtypes
import numpy as np
import pytest
import reference_conv2d as ref
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from strategies import LAYOUTS, laid_out

import stableops as so


def definition(x, w, bias, stride, padding, output_padding, groups, dilation):
    """Every input puts its filter at its place; float64."""
    n, c, height, width = x.shape
    _, k, r, s = w.shape
    size = [
        (a - 1) * st - 2 * p + d * (t - 1) + o + 1
        for a, st, p, d, t, o in zip(
            (height, width), stride, padding, dilation, (r, s), output_padding, strict=True
        )
    ]
    y = np.zeros((n, k * groups, *size))
    for b, ch, p, q, i, j in np.ndindex(n, c, height, width, r, s):
        row = p * stride[0] - padding[0] + i * dilation[0]
        column = q * stride[1] - padding[1] + j * dilation[1]
        if 0 <= row < size[0] and 0 <= column < size[1]:
            first = ch // (c // groups) * k
            y[b, first : first + k, row, column] += float(x[b, ch, p, q]) * w[ch, :, i, j]
    return y if bias is None else y + np.asarray(bias, np.float64).reshape(-1, 1, 1)


@st.composite
def problems(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c, k = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 5, 17]))
    kernel = [draw(st.integers(1, 4)) for _ in "hw"]
    stride = tuple(draw(st.integers(1, 4)) for _ in "hw")
    dilation = tuple(draw(st.integers(1, 3)) for _ in "hw")
    extra = tuple(
        draw(st.integers(0, max(pair) - 1)) for pair in zip(stride, dilation, strict=True)
    )
    size = [draw(st.integers(1, 5)) for _ in "hw"]
    padding = tuple(
        draw(st.integers(0, min(3, ((n - 1) * s + d * (t - 1) + o) // 2)))
        for n, s, d, t, o in zip(size, stride, dilation, kernel, extra, strict=True)
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((draw(st.integers(1, 2)), c * groups, *size)).astype(np.float32)
    w = rng.standard_normal((c * groups, k, *kernel)).astype(np.float32)
    bias = rng.standard_normal(k * groups).astype(np.float32) if draw(st.booleans()) else None
    return x, w, bias, {
        "stride": stride, "padding": padding, "output_padding": extra, "groups": groups,
        "dilation": dilation,
    }  # fmt: skip


@given(problem=problems(), layout=st.sampled_from(LAYOUTS[:5]))
def test_definition(problem, layout):
    x, w, bias, settings = problem
    y = so.conv_transpose2d(x, w, bias, **settings)
    want = definition(x, w, bias, **settings)
    assert y.dtype == np.float32
    assert y.shape == want.shape
    terms = definition(abs(x), abs(w), None if bias is None else abs(bias), **settings)
    assert (abs(y - want) <= ref.error_bound(terms, np.float32) + 2.0**-24 * abs(want)).all()
    assert same_bits(
        so.conv_transpose2d(laid_out(x, layout), laid_out(w, layout), bias, **settings), y
    )


@given(problem=problems())
def test_bits_of_the_gradient_of_conv2d(problem):
    """Without a bias it is what conv2d_backward answers for an image of that size."""
    x, w, bias, settings = problem
    y = so.conv_transpose2d(x, w, None, **settings)
    extra = settings["output_padding"]
    if all(e < s for e, s in zip(extra, settings["stride"], strict=True)):
        same = {k: v for k, v in settings.items() if k != "output_padding"}
        gx, _, _ = so.conv2d_backward(x, np.zeros(y.shape, np.float32), w, **same)
        assert same_bits(y, gx)
    if bias is not None:
        with_bias = so.conv_transpose2d(x, w, bias, **settings)
        assert same_bits(with_bias, y + bias.reshape(-1, 1, 1))


@given(problem=problems(), layout=st.sampled_from(LAYOUTS[:5]))
def test_adjoint_and_gradients(problem, layout):
    """<g, A x> = <A' g, x> = <dA, w>, the sums in float64."""
    x, w, _, settings = problem
    x, w = x.astype(np.float64), w.astype(np.float64)
    y = so.conv_transpose2d(x, w, **settings)
    g = np.random.default_rng(0).standard_normal(y.shape)
    gx, gw, gb = so.conv_transpose2d_backward(g, x, w, **settings)
    product = np.sum(g * y)
    size = np.sum(abs(g) * so.conv_transpose2d(abs(x), abs(w), **settings))
    assert abs(np.sum(gx * x) - product) <= 1e-13 * size + 1e-300
    assert abs(np.sum(gw * w) - product) <= 1e-13 * size + 1e-300
    np.testing.assert_allclose(gb, g.sum((0, 2, 3)), rtol=1e-12, atol=1e-12)
    other = so.conv_transpose2d_backward(laid_out(g, layout), laid_out(x, layout), w, **settings)
    assert all(map(same_bits, other, (gx, gw, gb)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("channels", [(3, 2), (70, 40)])
def test_dtypes_and_one_image(dtype, channels, threads):
    c, k = channels
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, c, 13, 11)).astype(dtype)
    w, b = rng.standard_normal((c, k, 4, 4)).astype(dtype), rng.standard_normal(k).astype(dtype)
    y = so.conv_transpose2d(x, w, b, 2, 1)
    assert y.dtype == dtype
    assert y.shape == (2, k, 26, 22)
    wide = [a.astype(np.float64) for a in (x, w, b)]
    want = so.conv_transpose2d(*wide, 2, 1)
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(np.float64), want, rtol=0, atol=20 * eps * abs(want).max())
    assert same_bits(so.conv_transpose2d(x[1], w, b, 2, 1), y[1])
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    z = so.conv_transpose2d(last, w, b, 2, 1)
    assert same_bits(z, y)
    assert z.strides[1] == x.itemsize


def test_places_without_a_term_get_the_bias():
    y = so.conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), [5.0], stride=3)
    want = np.full((1, 1, 4, 4), 5.0)
    want[..., ::3, ::3] = 6
    assert same_bits(y, want)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("per_group", [1, 2])
def test_infinite_weights_and_bias_of_groups(last, per_group):
    """Outputs that are computed again beside an absent term get the bias of their own group."""
    groups = 5
    x = np.ones((1, groups, 4, 6))
    w = np.ones((groups, per_group, 3, 3))
    w[:, :, 0, 0] = np.inf
    bias = np.arange(1.0, groups * per_group + 1)
    if last:
        x = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    y = so.conv_transpose2d(x, w, bias, groups=groups)
    assert same_bits(y[0, :, 5, 7], 1 + bias)
    assert np.all(y[0, :, 0, 0] == np.inf)
    with np.errstate(invalid="ignore"):
        want = definition(x, w, bias, (1, 1), (0, 0), (0, 0), groups, (1, 1))
    assert np.array_equal(y, want)


def test_output_mask_and_empty():
    x, w = np.ones((0, 2, 3, 3)), np.ones((2, 4, 2, 2))
    assert so.conv_transpose2d(x, w).shape == (0, 4, 4, 4)
    gx, gw, gb = so.conv_transpose2d_backward(np.ones((0, 4, 4, 4)), x, w)
    assert gx.shape == x.shape
    assert (gw == 0).all()
    assert (gb == 0).all()
    some = so.conv_transpose2d_backward(
        np.ones((0, 4, 4, 4)), x, w, output_mask=(False, True, False)
    )
    assert some[0] is None
    assert some[2] is None


ONE = np.ones((1, 2, 3, 3))
FILTER = np.ones((2, 1, 2, 2))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: so.conv_transpose2d(ONE, np.ones((3, 1, 2, 2))), ValueError, "weight"),
        (lambda: so.conv_transpose2d(ONE, FILTER, groups=3), ValueError, "groups=3"),
        (lambda: so.conv_transpose2d(ONE, FILTER[0]), ValueError, "weight has shape"),
        (lambda: so.conv_transpose2d(ONE[0, 0], FILTER), ValueError, "input has shape"),
        (lambda: so.conv_transpose2d(ONE, FILTER, [1.0, 2.0]), ValueError, "bias"),
        (lambda: so.conv_transpose2d(ONE, FILTER, output_padding=1), ValueError,
         "output_padding=1"),
        (lambda: so.conv_transpose2d(ONE, FILTER, padding=2), ValueError, "padding=2"),
        (lambda: so.conv_transpose2d(ONE, FILTER, padding="same"), TypeError, "padding='same'"),
        (lambda: so.conv_transpose2d(ONE, FILTER, stride=0), ValueError, "stride=0"),
        (lambda: so.conv_transpose2d(ONE, FILTER, stride=1.5), TypeError, "stride=1.5"),
        (lambda: so.conv_transpose2d(ONE, FILTER, stride=2**31 - 1, padding=0), ValueError,
         "does not fit|Unable"),
        (lambda: so.conv_transpose2d(ONE[:, :, :0], FILTER), ValueError, "at least one row"),
        (lambda: so.conv_transpose2d_backward(ONE, ONE, FILTER), ValueError, "grad_output"),
    ],
)  # fmt: skip
def test_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()
