"""linear and its gradients: the 1x1 convolution of its rows, row by row the same bits."""

import mmap
import sys

import ml_dtypes
import numpy as np
import pytest
import reference_conv2d as ref
from hypothesis import given
from hypothesis import strategies as st
from memory import growth_in_mib
from reference import same_bits
from strategies import laid_out

import stableops as so


def random(rng, shape, dtype=np.float32):
    return rng.uniform(-1, 1, shape).astype(dtype)


@st.composite
def problems(draw, dtype=np.float32):
    leading = draw(st.lists(st.integers(1, 5), max_size=4))
    features = draw(st.sampled_from([1, 2, 5, 16, 33, 127, 128, 129, 300]))
    outputs = draw(st.sampled_from([1, 2, 7, 16, 31, 65, 100]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bias = random(rng, outputs, dtype) if draw(st.booleans()) else None
    return random(rng, (*leading, features), dtype), random(rng, (outputs, features), dtype), bias


def as_image(x):
    """Rows as pixels: (..., F) to (1, F, 1, rows)."""
    return x.reshape(-1, x.shape[-1]).T[None, :, None, :]


@given(problem=problems())
def test_canonical_bits(problem):
    x, w, bias = problem
    y = ref.conv2d_canonical(as_image(x), w[:, :, None, None], bias)
    assert same_bits(so.linear(x, w, bias), y[0, :, 0].T.reshape(*x.shape[:-1], len(w)))


@given(problem=problems())
def test_canonical_bits_of_gradients(problem):
    x, w, _ = problem
    g = so.linear(x, w)
    gx, gw, gb = so.linear_backward(g, x, w)
    g4, x4, w4 = as_image(g), as_image(x), w[:, :, None, None]
    assert same_bits(gx, ref.grad_input_canonical(g4, x4.shape, w4)[0, :, 0].T.reshape(x.shape))
    assert same_bits(gw, ref.grad_weight_canonical(g4, x4, w4.shape)[:, :, 0, 0])
    assert same_bits(gb, ref.grad_bias_canonical(g4))


def test_many_rows():
    """More than one segment of grad_weight's sum, as a matrix product and (few features) not."""
    rng = np.random.default_rng(1)
    for features in (3, 9):
        x, g = random(rng, (9000, features)), random(rng, (9000, 2))
        gw = so.linear_backward(g, x, random(rng, (2, features)))[1]
        want = ref.grad_weight_canonical(as_image(g), as_image(x), (2, features, 1, 1))
        assert same_bits(gw, want[:, :, 0, 0])


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 14, 15, 64, 300])
def test_rows_do_not_depend_on_each_other(rows, threads):
    rng = np.random.default_rng(2)
    x, w, bias = random(rng, (300, 700)), random(rng, (257, 700)), random(rng, 257)
    whole = so.linear(x, w, bias)
    assert same_bits(so.linear(x[:rows], w, bias), whole[:rows])
    gx = so.linear_backward(whole, x, w)[0]
    some = so.linear_backward(whole[:rows], x[:rows], w, output_mask=(True, False, False))
    assert same_bits(some[0], gx[:rows])


@pytest.mark.parametrize("layout", ["F", "reversed", "sliced", "transposed", "broadcast", "offset"])
@given(problem=problems())
def test_layouts(layout, problem):
    x, w, bias = problem
    x2, w2 = laid_out(x, layout), laid_out(w, layout)
    x, w = np.ascontiguousarray(x2), np.ascontiguousarray(w2)
    y = so.linear(x, w, bias)
    assert same_bits(so.linear(x2, w2, bias), y)
    g = laid_out(y, layout)
    want = so.linear_backward(np.ascontiguousarray(g), x, w)
    for a, b in zip(so.linear_backward(g, x2, w2), want, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@given(data=st.data())
def test_narrow_types_are_rounded_once(dtype, data):
    x, w, bias = data.draw(problems(dtype))
    wide = [None if a is None else a.astype(np.float32) for a in (x, w, bias)]
    assert same_bits(so.linear(x, w, bias), so.linear(*wide).astype(dtype))


@given(problem=problems(np.float64))
def test_definition(problem):
    x, w, bias = problem
    wide = [np.zeros(()) if a is None else a.astype(np.longdouble) for a in (x, w, bias)]
    want = wide[0] @ wide[1].T + wide[2]
    size = abs(wide[0]) @ abs(wide[1]).T + abs(wide[2])
    y = so.linear(x, w, bias)
    assert np.all(abs(y - want) <= ref.error_bound(x.shape[-1], np.float64) * size)


@given(problem=problems())
def test_packed_bits(problem):
    x, w, bias = problem
    assert same_bits(so.linear(x, so.pack_linear_weight(w), bias), so.linear(x, w, bias))


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 14, 64, 300])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_packed_bits_of_many_features(rows, dtype):
    rng = np.random.default_rng(3)
    x, w = random(rng, (rows, 700), dtype), random(rng, (257, 700), dtype)
    bias = random(rng, 257, dtype)
    assert same_bits(so.linear(x, so.pack_linear_weight(w), bias), so.linear(x, w, bias))


def test_no_rows_and_no_features():
    w = np.ones((3, 4))
    assert so.linear(np.ones((0, 4)), w).shape == (0, 3)
    gx, gw, gb = so.linear_backward(np.ones((2, 0, 3)), np.ones((2, 0, 4)), w)
    assert gx.shape == (2, 0, 4)
    assert same_bits(gw, np.zeros((3, 4)))
    assert same_bits(gb, np.zeros(3))
    assert same_bits(so.linear(np.ones((2, 0)), np.ones((3, 0)), np.ones(3)), np.ones((2, 3)))
    empty = so.pack_linear_weight(np.ones((9, 0)))
    assert same_bits(so.linear(np.ones((2, 0)), empty, np.ones(9)), np.ones((2, 9)))


@pytest.mark.skipif(sys.platform != "linux", reason="untouched pages cost memory elsewhere")
def test_rows_far_apart_in_memory():
    """256 rows of a chunk within 8 GB of addresses, of which 1 MB exist: beyond 32-bit offsets."""
    step = 2**23 + 1
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = np.frombuffer(mmap.mmap(-1, 300 * step * 4, flags=flags), np.float32)
    x = np.lib.stride_tricks.as_strided(memory, (300, 8), (4 * step, 8), writeable=True)
    x[:] = np.random.default_rng(2).standard_normal(x.shape)
    w, g = np.ones((3, 8), np.float32), np.ones((300, 3), np.float32)
    for got, want in zip(
        so.linear_backward(g, x, w), so.linear_backward(g, x.copy(), w), strict=True
    ):
        assert same_bits(got, want)
    assert same_bits(so.linear(x, w), so.linear(x.copy(), w))
    images = x[:, :, None, None]
    gw = so.conv2d_backward(g[:, :, None, None], images, w[:, :, None, None])[1]
    assert same_bits(gw[..., 0, 0], so.linear_backward(g, x.copy(), w)[1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((np.ones(5), np.ones((3, 4))), r"input has shape \(5,\) and weight has shape \(3, 4\)"),
        ((np.ones(()), np.ones((3, 4))), r"input has shape \(\)"),
        ((np.ones(4), np.ones(4)), r"weight has shape \(4,\); it must be"),
        ((np.ones(4), np.ones((3, 4)), np.ones(4)), r"bias has shape \(4,\); it must be \(3,\)"),
    ],
)
def test_refusals(arguments, text):
    with pytest.raises(ValueError, match=text):
        so.linear(*arguments)


def test_refusals_of_packed_weights():
    packed = so.pack_linear_weight(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"input has shape \(5,\) and weight has shape \(3, 4\)"):
        so.linear(np.ones(5), packed)
    with pytest.raises(TypeError, match=r"<packed weight of shape .3, 4., float32>, and .*; pack"):
        so.linear(np.ones(4), so.pack_linear_weight(np.ones((3, 4), np.float32)))
    with pytest.raises(TypeError, match="linear_backward takes the array"):
        so.linear_backward(np.ones(3), np.ones(4), packed)
    with pytest.raises(TypeError, match="linear_cross_entropy takes the array"):
        so.linear_cross_entropy(np.ones(4), packed, 0)
    with pytest.raises(ValueError, match=r"weight has shape \(4,\); it must be"):
        so.pack_linear_weight(np.ones(4))


def test_refusals_of_backward():
    with pytest.raises(ValueError, match=r"grad_output has shape \(2, 4\); it must be \(2, 3\)"):
        so.linear_backward(np.ones((2, 4)), np.ones((2, 4)), np.ones((3, 4)))


@pytest.mark.parametrize("rows", [1, 8, 300])
def test_memory_is_bounded(isa, rows):
    """No copy of the weight, of 32 MB: scratch of a few MB a thread."""
    if isa == "baseline" and rows == 300:
        pytest.skip("emulated fma is slow")
    setup = f"""
x, w = np.ones(({rows}, 2048), np.float32), np.ones((4096, 2048), np.float32)
y = np.ones(({rows}, 4096), np.float32)
so.linear(x[:1], w[:8])"""
    of_input = "so.linear_backward(y, x, w, output_mask=(True, False, False))"
    assert growth_in_mib(isa, setup, f"so.linear(x, w)\n{of_input}") < 24
