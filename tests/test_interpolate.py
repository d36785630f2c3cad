"""interpolate, its adjoint, and pixel_shuffle: positions, weights, bits of any layout, refusals."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, laid_out

import stableops as so


def axis_matrix(n, out, mode, align_corners, factor):
    """The weights of one axis as a matrix (out, n) of fractions."""
    matrix = np.zeros((out, n), object)
    for o in range(out):
        ratio = Fraction(n, out) if factor is None else 1 / Fraction(factor)
        if out == n or (mode == "nearest" and out == 2 * n):
            ratio = Fraction(n, out)
        if mode == "nearest":
            matrix[o, min(int(o * ratio), n - 1)] = Fraction(1)
            continue
        if align_corners:
            place = o * Fraction(n - 1, out - 1) if out > 1 else Fraction(0)
        else:
            place = max((o + Fraction(1, 2)) * ratio - Fraction(1, 2), Fraction(0))
        first = min(int(place), n - 1)
        high = place - first if first < n - 1 else Fraction(0)
        matrix[o, first] += 1 - high
        matrix[o, min(first + 1, n - 1)] += high
    return matrix.astype(np.float64)


def definition(x, matrices):
    return np.einsum("ih,jw,...hw->...ij", *matrices, np.asarray(x, np.float64))


def tiny(dtype):
    return float(ml_dtypes.finfo(dtype).smallest_subnormal)


def place_error(x, settings):
    """With a factor positions are rounded, relative to the image's size."""
    if settings.get("scale_factor") is None:
        return 0.0
    return 2.0**-50 * max(x.shape) * float(abs(x.astype(np.float64)).max())


FACTORS = [0.5, 1, 1.125, 1.5, 2, 3, 2.25, 0.25]


@st.composite
def problems(draw, dtype):
    shape = (
        draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 9, 17])),
        draw(st.integers(1, 9)), draw(st.integers(1, 20)),
    )  # fmt: skip
    mode = draw(st.sampled_from(["nearest", "bilinear"]))
    settings = {"mode": mode, "align_corners": mode == "bilinear" and draw(st.booleans())}
    if draw(st.booleans()):
        size = tuple(draw(st.integers(1, 21)) for _ in "hw")
        settings["size"] = size
        factors = (None, None)
    else:
        factors = tuple(
            draw(st.sampled_from([f for f in FACTORS if int(n * f) >= 1])) for n in shape[2:]
        )
        settings["scale_factor"] = factors
        size = tuple(int(n * f) for n, f in zip(shape[2:], factors, strict=True))
    matrices = [
        axis_matrix(n, o, mode, settings["align_corners"], f)
        for n, o, f in zip(shape[2:], size, factors, strict=True)
    ]
    x = draw(arrays(dtype, shape=shape, elements=st.floats(-100, 100)))
    return x, settings, matrices


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_interpolate(dtype, data):
    x, settings, matrices = data.draw(problems(dtype))
    y = so.interpolate(x, **settings)
    want = definition(x, matrices)
    assert y.dtype == dtype
    if settings["mode"] == "nearest":
        assert np.array_equal(y, want.astype(dtype))  # the sums have no -0
    else:
        terms = definition(abs(x.astype(np.float64)), matrices)
        unit = 2.0**-53 if dtype == np.float64 else 2.0**-24
        half = float(ml_dtypes.finfo(dtype).eps) / 2 if np.dtype(dtype).itemsize == 2 else 0
        slack = half * terms + tiny(dtype) + place_error(x, settings)
        assert (abs(y.astype(np.float64) - want) <= 5 * unit * terms + slack).all()
    laid = laid_out(x, data.draw(st.sampled_from(LAYOUTS[:5])))
    assert same_bits(so.interpolate(laid, **settings), y)
    assert same_bits(so.interpolate(x[0], **settings), y[0])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_adjoint(dtype, data):
    """The transposed matrices, with the weights that the forward pass has."""
    x, settings, matrices = data.draw(problems(dtype))
    shape = so.interpolate(x, **settings).shape
    g = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    rest = {k: v for k, v in settings.items() if k != "size"}
    gx = so.interpolate_backward(g, x.shape, **rest)
    assert gx.dtype == dtype
    assert gx.shape == x.shape
    transposed = [m.T for m in matrices]
    want = definition(g, transposed)
    terms = definition(abs(g.astype(np.float64)), transposed)
    unit = 2.0**-52 if dtype == np.float64 else 2.0**-24
    half = float(ml_dtypes.finfo(dtype).eps) / 2 if np.dtype(dtype).itemsize == 2 else 0
    slack = half * terms + tiny(dtype) + 20 * place_error(g, settings)
    assert (abs(gx.astype(np.float64) - want) <= 5 * unit * terms + slack).all()
    laid = laid_out(g, data.draw(st.sampled_from(LAYOUTS[:5])))
    assert same_bits(so.interpolate_backward(laid, x.shape, **rest), gx)
    if dtype == np.float64:
        left, right = np.sum(so.interpolate(x, **settings) * g), np.sum(gx * x)
        assert abs(left - right) <= 1e-13 * np.sum(definition(abs(x), matrices) * abs(g)) + 1e-300


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_large_images(mode, threads):
    """Several tasks an image; the same bits for an image alone and channels-last."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 20, 90, 110)).astype(np.float32)
    y = so.interpolate(x, (131, 201), mode=mode)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    z = so.interpolate(last, (131, 201), mode=mode)
    assert z.strides[1] == 4
    assert same_bits(z, y)
    assert same_bits(so.interpolate(x[1, 3:5], (131, 201), mode=mode), y[1, 3:5])
    gx = so.interpolate_backward(y, x.shape, mode)
    assert same_bits(so.interpolate_backward(z, x.shape, mode), gx)


def test_whole_positions_of_nearest_are_exact():
    """o * in / out is a whole number where the quotient in floating point falls short of it."""
    for n in range(1, 60):
        for out in range(1, 60):
            got = so.interpolate(np.arange(float(n)).reshape(1, 1, n), (1, out)).ravel()
            assert np.array_equal(got, np.arange(out) * n // out)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_factor_that_changes_no_size_changes_nothing(mode):
    """As in PyTorch, axis by axis; 16 columns become 18."""
    x = np.random.default_rng(2).standard_normal((2, 3, 7, 16))
    y = so.interpolate(x, scale_factor=1.125, mode=mode)
    assert same_bits(y, so.interpolate(x, scale_factor=(1.0, 1.125), mode=mode))
    assert same_bits(
        so.interpolate_backward(y, x.shape, mode, scale_factor=1.125),
        so.interpolate_backward(y, x.shape, mode, scale_factor=(1.0, 1.125)),
    )


@pytest.mark.parametrize("factor", [49.0, 98.0, 103.0, 107.0, 161.0, 187.0, 196.0, 197.0])
def test_whole_quotients_of_a_factor_are_exact(factor):
    """floor(i / factor): 49 * (1 / 49) would be less than 1."""
    x = np.arange(13.0).reshape(1, 13, 1)
    y = so.interpolate(x, scale_factor=(factor, 1))
    assert np.array_equal(y.ravel(), np.arange(13 * factor) // factor)
    g = np.ones_like(y)
    gx = so.interpolate_backward(g, x.shape, scale_factor=(factor, 1))
    assert (gx == factor).all()


def test_constant_stays_constant_and_nan_stays_local():
    x = np.full((1, 1, 5, 6), 0.7)
    assert abs(so.interpolate(x, 17, mode="bilinear") - 0.7).max() <= 2.0**-52
    x[0, 0, 0, 0] = np.nan
    assert np.isfinite(so.interpolate(x, (5, 12), mode="bilinear")[0, 0, 2:]).all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: so.interpolate(x), ValueError, "one of them"),
        (lambda x: so.interpolate(x, 2, 2), ValueError, "one of them"),
        (lambda x: so.interpolate(x, 0), ValueError, "size=0"),
        (lambda x: so.interpolate(x, 2.0), TypeError, "size=2.0"),
        (lambda x: so.interpolate(x, (1, 2, 3)), ValueError, "3 entries"),
        (lambda x: so.interpolate(x, None, 0.0), ValueError, "scale_factor=0.0"),
        (lambda x: so.interpolate(x, None, 0.1), ValueError, "scale_factor=0.1"),
        (lambda x: so.interpolate(x, None, 1e300), ValueError, r"would get 4e\+300$"),
        (lambda x: so.interpolate(x, np.array([2, 2])), TypeError, "an int"),
        (lambda x: so.interpolate(x, None, np.inf), ValueError, "scale_factor=inf"),
        (lambda x: so.interpolate(x, None, "2"), TypeError, "scale_factor"),
        (lambda x: so.interpolate(x, 2, mode="cubic"), ValueError, "mode='cubic'"),
        (lambda x: so.interpolate(x, 2, align_corners=True), ValueError, "align_corners"),
        (lambda x: so.interpolate(x[0, 0], 2), ValueError, "input has shape"),
        (lambda x: so.interpolate(x[:, :, :0], 2), ValueError, "input has shape"),
        (lambda x: so.interpolate_backward(x, (1, 2, 3)), ValueError, "input_shape"),
        (lambda x: so.interpolate_backward(x, (1, 1, 3, 3)), ValueError, "input_shape"),
        (lambda x: so.interpolate_backward(x, 3), TypeError, "input_shape=3"),
        (lambda x: so.interpolate_backward(x, (1, 2, 0, 3)), ValueError, "input_shape"),
        (lambda x: so.interpolate_backward(x, (1, 2, 3, 3), scale_factor=3), ValueError,
         "does not lead"),
    ],
)  # fmt: skip
def test_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(np.ones((1, 2, 4, 4)))


def test_empty_batch():
    assert so.interpolate(np.ones((0, 3, 4, 4)), 2).shape == (0, 3, 2, 2)
    assert so.interpolate_backward(np.ones((0, 3, 2, 2)), (0, 3, 4, 4)).shape == (0, 3, 4, 4)


@given(data=st.data())
def test_pixel_shuffle(data):
    r, c, h, w = (data.draw(st.integers(1, 4)) for _ in "rchw")
    lead = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    dtype = data.draw(st.sampled_from([*FLOAT_DTYPES, np.int8]))
    x = np.random.default_rng(0).integers(0, 99, (*lead, c * r * r, h, w)).astype(dtype)
    laid = laid_out(x, data.draw(st.sampled_from(LAYOUTS[:5])))
    y = so.pixel_shuffle(laid, r)
    assert y.shape == (*lead, c, h * r, w * r)
    for k, i, j, a, b in np.ndindex(c, r, r, h, w):
        assert np.array_equal(y[..., k, a * r + i, b * r + j], x[..., k * r * r + i * r + j, a, b])
    assert same_bits(so.pixel_unshuffle(y, r), x)
    assert not np.shares_memory(y, laid)


@pytest.mark.parametrize("dtype", ["O", "c16", "?", "U3", [("a", "i1"), ("b", "f8")], ">f4"])
def test_pixel_shuffle_of_any_dtype(dtype):
    x = np.arange(2 * 4 * 3 * 5).reshape(2, 4, 3, 5).astype(dtype)
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype) if dtype != "O" else x
    unaligned = unaligned.reshape(x.shape)
    unaligned[...] = x
    for given_x in (x, unaligned):
        y = so.pixel_shuffle(given_x, 2)
        assert y.dtype == x.dtype
        assert y[1, 0, 3, 6] == x[1, 2, 1, 3]
        assert (so.pixel_unshuffle(y, 2) == x).all()


@pytest.mark.parametrize("shape", [(2, 64, 70, 61), (1, 4, 300, 301), (3, 512, 5, 7)])
def test_pixel_shuffle_of_large_images(shape, threads):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    n, c, h, w = shape
    want = x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, 2 * h, 2 * w)
    for given_x in (x, last, x[:, :, ::-1][:, :, ::-1]):
        y = so.pixel_shuffle(given_x, 2)
        assert np.array_equal(y, want)
        assert np.array_equal(so.pixel_unshuffle(y, 2), x)


def test_pixel_shuffle_keeps_channels_last():
    x = np.arange(2.0 * 18 * 4 * 5).reshape(2, 18, 4, 5)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    y = so.pixel_shuffle(last, 3)
    assert y.strides[1] == 8
    assert same_bits(y, so.pixel_shuffle(x, 3))
    back = so.pixel_unshuffle(y, 3)
    assert back.strides[1] == 8
    assert same_bits(back, x)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: so.pixel_shuffle(np.ones((3, 2, 2)), 2), ValueError, "3 channels"),
        (lambda: so.pixel_shuffle(np.ma.ones((4, 2, 2)), 2), TypeError, "masked array"),
        (lambda: so.pixel_shuffle(np.ones((2, 2)), 1), ValueError, r"\(\.\.\., C, H, W\)"),
        (lambda: so.pixel_shuffle(np.ones((4, 2, 2)), 0), ValueError, "upscale_factor=0"),
        (lambda: so.pixel_shuffle(np.ones((4, 2, 2)), 2.0), TypeError, "upscale_factor=2.0"),
        (lambda: so.pixel_unshuffle(np.ones((4, 3, 2)), 2), ValueError, "height and width"),
    ],
)
def test_pixel_shuffle_refuses(call, error, text):
    with pytest.raises(error, match=text):
        call()
