"""leaky_relu, prelu and dropout, forward and backward: exact products, exact masks."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, finite, laid_out, with_specials

import stableops as so


def computed_in(dtype):
    return np.float64 if dtype == np.float64 else np.float32


def times(a, b, dtype):
    """The product in the compute type, rounded to dtype."""
    c = computed_in(dtype)
    with np.errstate(all="ignore"):
        return (np.asarray(a).astype(c) * np.asarray(b).astype(c)).astype(dtype)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_leaky_relu(dtype, data):
    x = data.draw(arrays(dtype, elements=with_specials(dtype)))
    g = data.draw(arrays(dtype, shape=x.shape))
    x = laid_out(x, data.draw(st.sampled_from(LAYOUTS)))
    slope = data.draw(st.sampled_from([0.01, 0.0, 1.0, -0.5, 3e-5]))
    with np.errstate(invalid="ignore"):
        positive = x > 0
    want = np.where(positive, x, times(x, slope, dtype))
    assert same_bits(so.leaky_relu(x, slope), want)
    want = np.where(positive, g, times(g, slope, dtype))
    assert same_bits(so.leaky_relu_backward(g, x, slope), want)


def test_leaky_relu_out():
    x = np.linspace(-3, 3, 1000, dtype=np.float32)
    want = so.leaky_relu(x)
    y = x.copy()
    assert so.leaky_relu(y, out=y) is y
    assert same_bits(y, want)
    with pytest.raises(TypeError, match="negative_slope='a'"):
        so.leaky_relu(x, "a")


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_prelu(dtype, data):
    x = data.draw(arrays(dtype, elements=with_specials(dtype), min_dims=2))
    g = data.draw(arrays(dtype, shape=x.shape))
    single = data.draw(st.booleans())
    shape = data.draw(st.sampled_from([(), (1,)])) if single else (x.shape[1],)
    weight = data.draw(arrays(dtype, shape=shape, elements=finite(dtype, 10)))
    layout = data.draw(st.sampled_from(LAYOUTS))
    x = laid_out(x, layout)
    wide = weight.reshape(weight.shape + (1,) * (x.ndim - 2)) if weight.size > 1 else weight
    with np.errstate(invalid="ignore"):
        positive = x > 0
    assert same_bits(so.prelu(x, weight), np.where(positive, x, times(x, wide, dtype)))
    gx, gw = so.prelu_backward(g, x, weight)
    assert same_bits(gx, np.where(positive, g, times(g, wide, dtype)))
    assert gw.shape == weight.shape
    assert gw.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(3, 4), (40, 3), (2, 3, 5), (3, 4, 70, 71)])
def test_gradient_of_slopes(dtype, shape, threads):
    """Within 1 ULP and 2^-44 (2^-52) of the sum of absolute terms of the exact sum."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    unit = 2.0**-24 if dtype == np.float32 else 2.0**-53
    extra = 2.0**-44 if dtype == np.float32 else 2.0**-52
    gw = so.prelu_backward(g, x, np.ones(shape[1], dtype))[1]
    total = so.prelu_backward(g, x, np.ones(1, dtype))[1]
    exact = []
    for c in range(shape[1]):
        xs, gs = x[:, c].ravel(), g[:, c].ravel()
        terms = [
            Fraction(float(a)) * Fraction(float(b)) for a, b in zip(gs, xs, strict=True) if b <= 0
        ]
        exact.append((sum(terms), sum(map(abs, terms))))
    for got, (want, size) in [
        *zip(gw, exact, strict=True),
        (total[0], map(sum, zip(*exact, strict=True))),
    ]:
        assert abs(Fraction(float(got)) - want) <= 2 * unit * abs(want) + Fraction(extra) * size


def test_prelu_mask_and_refusals():
    x = np.ones((2, 3))
    assert so.prelu_backward(x, x, np.ones(3), output_mask=(False, True))[0] is None
    assert so.prelu_backward(x, x, np.ones(3), output_mask=(True, False))[1] is None
    for weight in (np.ones(2), np.ones((1, 3)), np.ones(0)):
        with pytest.raises(ValueError, match="weight has shape"):
            so.prelu(x, weight)
    with pytest.raises(ValueError, match="weight has shape"):
        so.prelu(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="grad_output"):
        so.prelu_backward(np.ones((2, 2)), x, np.ones(3))
    assert so.prelu(np.float64(-2.0), 0.5) == -1.0


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_dropout(dtype, data):
    x = data.draw(arrays(dtype, elements=with_specials(dtype)))
    p = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    seed = data.draw(st.integers(0, 2**40))
    y, mask = so.dropout(x, p, rng=seed, return_mask=True)
    assert mask.dtype == bool
    c = computed_in(dtype)
    scale = c(1 / (1 - p)) if p < 1 else c(0)
    want = np.where(mask, times(x, scale, dtype), np.zeros((), dtype))
    assert same_bits(y, want)
    laid = laid_out(x, data.draw(st.sampled_from(LAYOUTS[:5])))
    assert same_bits(so.dropout(laid, p, rng=seed), y)
    assert same_bits(so.dropout_backward(laid, mask, p), y)
    assert same_bits(so.dropout_backward(x, laid_out(mask, "F"), p), y)


def test_mask_is_that_of_philox(threads):
    """32 bits an element in C order, compared with p."""
    x = np.ones((7, 300, 101), np.float32)
    bits = np.random.Generator(np.random.Philox(5)).integers(0, 2**32, x.shape, np.uint32)
    _, mask = so.dropout(x, 0.3, rng=5, return_mask=True)
    assert same_bits(mask.view(np.uint8), (bits >= round(0.3 * 2**32)).view(np.uint8))
    share = mask.mean()
    assert abs(share - 0.7) < 5 * np.sqrt(0.21 / x.size)


def test_generator_is_advanced_and_seed_is_not():
    x = np.ones(1000)
    rng = np.random.default_rng(0)
    assert not np.array_equal(so.dropout(x, rng=rng), so.dropout(x, rng=rng))
    assert np.array_equal(so.dropout(x, rng=3), so.dropout(x, rng=3))
    assert not np.array_equal(so.dropout(x), so.dropout(x))


def test_exact_ends():
    x = np.array([1.5, -np.inf, np.nan, 0.0])
    assert same_bits(so.dropout(x, 0.0), x)
    assert same_bits(so.dropout(x, 1.0), np.zeros(4))
    assert so.dropout(x, training=False) is x
    y, mask = so.dropout(x, training=False, return_mask=True)
    assert y is x
    assert mask.all()


@pytest.mark.parametrize("p", [-0.1, 1.5, np.nan, np.inf])
@pytest.mark.parametrize("training", [True, False])
def test_probability_is_checked(p, training):
    with pytest.raises(ValueError, match=r"p=.*must be in"):
        so.dropout(np.ones(3), p, training)


def test_dropout_refuses():
    with pytest.raises(TypeError, match=r"p='0\.5'"):
        so.dropout(np.ones(3), "0.5")
    with pytest.raises(TypeError, match="rng='seed' is not allowed; a Generator"):
        so.dropout(np.ones(3), rng="seed")
    with pytest.raises(ValueError, match="rng=-1 is not allowed"):
        so.dropout(np.ones(3), rng=-1)
    with pytest.raises(TypeError, match="mask has dtype"):
        so.dropout_backward(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match="mask"):
        so.dropout_backward(np.ones(3), np.ones(2, bool))
    with pytest.raises(TypeError, match="input has dtype"):
        so.dropout(np.ones(3, complex))


def test_in_sparse_strides():
    """Every operand at a stride of its own, lines longer than a block."""
    rng = np.random.default_rng(1)
    wide = rng.standard_normal((3, 5000)).astype(ml_dtypes.bfloat16)
    x, mask = wide[:, ::2], (rng.random((3, 7500)) < 0.5)[:, ::3]
    y = so.dropout_backward(x, mask, 0.5)
    assert same_bits(y, np.where(mask, 2 * x, np.zeros((), x.dtype)))
