"""What networks add to a convolution's last step, the bits of separate passes: sum, rectifier."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from strategies import FLOAT_DTYPES, laid_out
from test_conv2d import LARGE, channels_last, problems, random

import stableops as so
from stableops import _core

BOTH = [(True, False), (False, True), (True, True)]


def fused(x, w, bias, settings, out, add, rectify):
    defaults = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    return _core.conv2d(x, w, bias, *(defaults | settings).values(), out, add, rectify, False)


def separate(x, w, bias, settings, out, add, rectify):
    y = so.conv2d(x, w, bias, **settings)
    if add:
        y = y + out
    return so.relu(y) if rectify else y


def with_specials(rng, a):
    a = a.copy()
    for value in (np.nan, np.inf, -np.inf, -0.0, 0.0):
        a[rng.random(a.shape) < 0.01] = value
    return a


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize(("add", "rectify"), BOTH)
@pytest.mark.parametrize("layout", ["C", "last", "sliced", "reversed", "transposed"])
@given(data=st.data())
def test_bits_are_those_of_separate_passes(dtype, add, rectify, layout, data):
    x, w, bias, settings = data.draw(problems(dtype))
    packed = data.draw(st.booleans())
    rng = np.random.default_rng(1)
    if data.draw(st.booleans()):
        x = with_specials(rng, x)
    shape = so.conv2d(x, w, **settings).shape
    lay = channels_last if layout == "last" else lambda a: laid_out(a, layout)
    out = lay(with_specials(rng, random(rng, shape, dtype)))
    with np.errstate(invalid="ignore"):
        want = separate(x, w, bias, settings, out, add, rectify)
    image = channels_last(x) if layout == "last" else x
    weight = so.pack_conv2d_weight(w, settings["groups"]) if packed else w
    assert fused(image, weight, bias, settings, out, add, rectify) is out
    assert same_bits(out, want)


FORMS = LARGE | {
    "depthwise": ((1, 40, 30, 29), (40, 1, 3, 3), {"groups": 40, "padding": 1}),
    "pixel lanes": ((2, 64, 28, 28), (96, 64, 1, 1), {}),
    "pixel lanes, chunks": ((2, 300, 14, 14), (96, 300, 3, 3), {"padding": 1}),
    "first layer": ((1, 3, 40, 40), (24, 3, 7, 7), {"stride": 2, "padding": 3}),
}


@pytest.mark.parametrize("case", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_bits_of_every_form(case, dtype, last, threads):
    x_shape, w_shape, settings = FORMS[case]
    rng = np.random.default_rng(2)
    x, w, bias = (random(rng, shape, dtype) for shape in (x_shape, w_shape, w_shape[:1]))
    weights = (w, so.pack_conv2d_weight(w, settings.get("groups", 1)))
    residual = random(rng, so.conv2d(x, w, **settings).shape, dtype)
    want = separate(x, w, bias, settings, residual, True, True)
    for weight in weights:
        out = channels_last(residual) if last else residual.copy()
        fused(channels_last(x) if last else x, weight, bias, settings, out, True, True)
        assert same_bits(out, want)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 8, 40])
def test_linear(dtype, rows):
    rng = np.random.default_rng(3)
    x, w, bias = (random(rng, shape, dtype) for shape in ((rows, 100), (70, 100), (70,)))
    want = so.relu(so.linear(x, w, bias))
    for weight in (w, so.pack_linear_weight(w)):
        assert same_bits(_core.linear(x, weight, bias, True), want)


def test_out_may_overlap_the_input():
    rng = np.random.default_rng(4)
    x, w = random(rng, (1, 20, 60, 60)), random(rng, (20, 20, 3, 3))
    want = separate(x, w, None, {"padding": 1}, x, True, True)
    assert fused(x, w, None, {"padding": 1}, x, True, True) is x
    assert same_bits(x, want)


def test_nothing_to_add_to():
    with pytest.raises(ValueError, match="out is None; there is nothing to add to"):
        fused(np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), None, {}, None, True, False)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("layout", ["C", "last", "sliced", "reversed"])
def test_batch_norm(dtype, layout):
    rng = np.random.default_rng(5)
    x = with_specials(rng, random(rng, (3, 21, 7, 9), dtype))
    x = channels_last(x) if layout == "last" else laid_out(x, layout)
    mean, weight, bias = (random(rng, 21, dtype) for _ in range(3))
    var = abs(random(rng, 21, dtype))
    want = so.relu(so.batch_norm(x, mean, var, weight, bias))
    y = _core.batch_norm(x, mean, var, weight, bias, False, 0.1, 1e-5, False, True)
    assert same_bits(y, want)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_zero_of_an_underflow_loses_its_sign(last):
    # -1e-60 is -0 in float32; sums of zeros never are.
    x = np.full((1, 20, 5, 5), 1e-30, np.float32)
    w = np.full((20, 20, 1, 1), -1e-30, np.float32)
    x, out = (channels_last(a) if last else a for a in (x, np.zeros_like(x)))
    assert np.signbit(so.conv2d(x, w)).all()
    fused(x, w, None, {}, out, False, True)
    assert not np.signbit(out).any()
