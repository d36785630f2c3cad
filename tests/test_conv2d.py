"""conv2d and its gradients: the definition, the canonical bits, layouts, settings, refusals."""

import copy
import pickle

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


def channels_last(x):
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@st.composite
def problems(draw, dtype=np.float32):
    """(x, w, bias, settings): every argument, sizes around the register tiles."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    group_in = draw(st.sampled_from([1, 2, 3, 5, 17]))
    group_out = draw(st.sampled_from([1, 2, 3, 4, 16, 33]))
    kernel = [draw(st.integers(1, 4)) for _ in "hw"]
    stride = tuple(draw(st.integers(1, 3)) for _ in "hw")
    dilation = tuple(draw(st.integers(1, 3)) for _ in "hw")
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in "hw")
    size = []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilation[axis] + 1 - sum(padding[axis])
        size.append(draw(st.integers(max(reach, 1), max(reach, 1) + 17)))
    batch = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = random(rng, (batch, group_in * groups, *size), dtype)
    w = random(rng, (group_out * groups, group_in, *kernel), dtype)
    bias = random(rng, group_out * groups, dtype) if draw(st.booleans()) else None
    return (
        x,
        w,
        bias,
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    )


@given(problem=problems())
def test_canonical_bits(problem):
    x, w, bias, settings = problem
    y = so.conv2d(x, w, bias, **settings)
    assert same_bits(y, ref.conv2d_canonical(x, w, bias, **settings))


@given(problem=problems(), seed=st.integers(0, 1000))
def test_canonical_bits_of_gradients(problem, seed):
    x, w, _, settings = problem
    g = random(np.random.default_rng(seed), so.conv2d(x, w, **settings).shape)
    gx, gw, gb = so.conv2d_backward(g, x, w, **settings)
    assert same_bits(gx, ref.grad_input_canonical(g, x.shape, w, **settings))
    assert same_bits(gw, ref.grad_weight_canonical(g, x, w.shape, **settings))
    assert same_bits(gb, ref.grad_bias_canonical(g))


@pytest.mark.parametrize("padding", [0, 1, ((1, 0), (2, 1))])
@pytest.mark.parametrize("stride", [1, 2, (1, 2), (3, 2)])
@pytest.mark.parametrize("size", [(3, 5), (8, 16), (15, 33), (16, 40)])
def test_canonical_bits_of_depthwise_planes(size, stride, padding):
    rng = np.random.default_rng(0)
    settings = {"stride": stride, "padding": padding, "groups": 3}
    x, w, bias = random(rng, (2, 3, *size)), random(rng, (3, 1, 3, 3)), random(rng, 3)
    w[1, 0, 0, 2] = np.inf
    y = so.conv2d(x, w, bias, **settings)
    g = random(rng, y.shape)
    gx = so.conv2d_backward(g, x, w, **settings)[0]
    with np.errstate(invalid="ignore"):
        assert same_bits(y, ref.conv2d_canonical(x, w, bias, **settings))
        assert same_bits(gx, ref.grad_input_canonical(g, x.shape, w, **settings))


@pytest.mark.parametrize("channels", [16, 37, 300])
@pytest.mark.parametrize("size", [9, 24])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 5), (5, 1)])
def test_channels_last_weights(channels, size, kernel):
    rng = np.random.default_rng(0)
    x, w = random(rng, (2, channels, size, size)), random(rng, (70, channels, *kernel))
    y = so.conv2d(x, w)
    assert same_bits(so.conv2d(x, channels_last(w)), y)
    assert same_bits(so.conv2d(x, so.pack_conv2d_weight(channels_last(w))), y)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "settings"),
    [
        ((1, 5, 6, 7), (3, 5, 3, 3), {"padding": 1}),
        ((2, 30, 5, 5), (4, 30, 3, 3), {"stride": 2}),
        ((1, 140, 3, 3), (17, 140, 1, 1), {}),
    ],
)
def test_canonical_bits_float64(x_shape, w_shape, settings):
    rng = np.random.default_rng(2)
    x, w = random(rng, x_shape, np.float64), random(rng, w_shape, np.float64)
    y = so.conv2d(x, w, **settings)
    assert same_bits(y, ref.conv2d_canonical(x, w, **settings))
    gx, gw, gb = so.conv2d_backward(y, x, w, **settings)
    assert same_bits(gx, ref.grad_input_canonical(y, x.shape, w, **settings))
    assert same_bits(gw, ref.grad_weight_canonical(y, x, w.shape, **settings))
    assert same_bits(gb, ref.grad_bias_canonical(y))


# Each goes through a part of the kernels that small sizes do not reach.
LARGE = {
    "several chunks of terms": ((1, 700, 6, 9), (40, 700, 3, 3), {"padding": 1}),
    "several images a block": ((9, 20, 7, 7), (70, 20, 3, 3), {"padding": 1}),
    "several row blocks": ((1, 3, 90, 70), (5, 3, 3, 3), {}),
    "several column blocks": ((1, 2, 3, 5000), (3, 2, 2, 3), {"padding": 1}),
    "channels split over tasks": ((1, 64, 14, 14), (300, 64, 1, 1), {}),
    "taps side by side": ((1, 8, 40, 500), (3, 8, 3, 3), {"dilation": (15, 200)}),
    "stride beyond the kernel": ((2, 16, 20, 60), (20, 16, 2, 2), {"stride": (5, 9)}),
    "many groups": ((1, 64, 9, 9), (128, 1, 3, 3), {"groups": 64, "padding": 1}),
    "rows of one block on several threads": ((1, 32, 26, 27), (40, 32, 3, 3), {"padding": 1}),
    "images of one block on several threads": ((40, 60, 5, 5), (48, 60, 3, 3), {"padding": 1}),
    "few pixels": ((3, 150, 2, 2), (100, 150, 1, 1), {}),
}


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
def test_canonical_bits_of_large_problems(case, last):
    x_shape, w_shape, settings = LARGE[case]
    rng = np.random.default_rng(3)
    x, w = random(rng, x_shape), random(rng, w_shape)
    channels = sorted({0, w_shape[0] // 2, w_shape[0] - 1})
    y = so.conv2d(channels_last(x) if last else x, w, **settings)
    assert same_bits(y[:, channels], ref.conv2d_canonical(x, w, channels=channels, **settings))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@given(data=st.data())
def test_definition(dtype, data):
    x, w, bias, settings = data.draw(problems(dtype))
    want, size = ref.conv2d(x, w, bias, **settings)
    compute = np.float64 if dtype == np.float64 else np.float32
    bound = ref.error_bound(w[0].size, compute) * size
    if dtype != compute:
        info = ml_dtypes.finfo(dtype)
        bound = bound + abs(want) * float(info.eps) * 0.51 + float(info.smallest_subnormal)
    y = so.conv2d(x, w, bias, **settings)
    assert y.dtype == dtype
    assert np.all(abs(y.astype(np.longdouble) - want) <= bound)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@given(data=st.data())
def test_narrow_types_are_rounded_once(dtype, data):
    x, w, bias, settings = data.draw(problems(dtype))
    wide = [None if a is None else a.astype(np.float32) for a in (x, w, bias)]
    y = so.conv2d(x, w, bias, **settings)
    assert same_bits(y, so.conv2d(*wide, **settings).astype(dtype))
    for got, want in zip(
        so.conv2d_backward(y, x, w, **settings),
        so.conv2d_backward(y.astype(np.float32), *wide[:2], **settings),
        strict=True,
    ):
        assert same_bits(got, want.astype(dtype))


@pytest.mark.parametrize(
    "layout", ["F", "reversed", "sliced", "transposed", "broadcast", "offset", "last"]
)
@given(problem=problems())
def test_layouts(layout, problem):
    x, w, bias, settings = problem
    lay = channels_last if layout == "last" else lambda a: laid_out(a, layout)
    x2, w2 = lay(x), lay(w)
    x, w = np.ascontiguousarray(x2), np.ascontiguousarray(w2)
    y = so.conv2d(x, w, bias, **settings)
    assert same_bits(so.conv2d(x2, w2, bias, **settings), y)
    out = lay(np.zeros_like(y))
    if out.flags.writeable:
        assert so.conv2d(x, w, bias, **settings, out=out) is out
        assert same_bits(out, y)
    g = lay(y)
    want = so.conv2d_backward(np.ascontiguousarray(g), x, w, **settings)
    for a, b in zip(so.conv2d_backward(g, x2, w2, **settings), want, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("dilation", [1, 3, 5, 9])
def test_few_channels_of_channels_last_images(dilation):
    """Their windows are transposed in squares, and the border may be wider than a vector."""
    rng = np.random.default_rng(5)
    x, w = random(rng, (2, 20, 3, 70)), random(rng, (3, 20, 2, 4))
    settings = {"padding": ((1, 0), (3 * dilation, dilation)), "dilation": (1, dilation)}
    y = so.conv2d(x, w, **settings)
    assert same_bits(so.conv2d(channels_last(x), channels_last(w), **settings), y)
    w = random(rng, (20, 3, 2, 4))
    x = random(rng, (2, 3, 3, 70))
    g = so.conv2d(x, w, dilation=(1, dilation))
    want = so.conv2d_backward(g, x, w, dilation=(1, dilation))
    last = so.conv2d_backward(channels_last(g), channels_last(x), w, dilation=(1, dilation))
    for a, b in zip(last, want, strict=True):
        assert same_bits(a, b)


def test_channels_last_stays_channels_last():
    rng = np.random.default_rng(4)
    x, w = channels_last(random(rng, (2, 5, 6, 7))), random(rng, (4, 5, 3, 3))
    y = so.conv2d(x, w)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    assert so.conv2d_backward(y, x, w)[0].transpose(0, 2, 3, 1).flags.c_contiguous
    assert so.conv2d(np.ascontiguousarray(x), w).flags.c_contiguous


def test_matrix_products():
    """1x1 layers of channels-last images: gradients by other ways, the same bits."""
    rng = np.random.default_rng(12)
    x, w = random(rng, (3, 20, 5, 7)), random(rng, (33, 20, 1, 1))
    g = random(rng, (3, 33, 5, 7))
    want = so.conv2d_backward(g, x, w)
    assert same_bits(want[1], ref.grad_weight_canonical(g, x, w.shape))
    for a, b in zip(so.conv2d_backward(channels_last(g), channels_last(x), w), want, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("case", LARGE)
def test_threads_and_batch(case, threads):
    x_shape, w_shape, settings = LARGE[case]
    rng = np.random.default_rng(5)
    x, w = random(rng, (3, *x_shape[1:])), random(rng, w_shape)
    y = so.conv2d(x, w, **settings)
    for n in range(3):
        assert same_bits(so.conv2d(x[n], w, **settings), y[n])
    gx = so.conv2d_backward(y, x, w, **settings, output_mask=(True, False, False))[0]
    assert same_bits(
        so.conv2d_backward(y[1], x[1], w, **settings, output_mask=(True, False, False))[0], gx[1]
    )


@given(problem=problems(np.float64), seed=st.integers(0, 1000))
def test_adjoint(problem, seed):
    """<conv(x, w), g> = <x, grad_x> = <w, grad_w>: the gradients of a bilinear map."""
    x, w, _, settings = problem
    y = so.conv2d(x, w, **settings)
    g = random(np.random.default_rng(seed), y.shape, np.float64)
    gx, gw, gb = so.conv2d_backward(g, x, w, **settings)
    size = np.sum(so.conv2d(abs(x), abs(w), **settings) * abs(g))
    for got in (np.sum(x * gx), np.sum(w * gw)):
        assert abs(got - np.sum(y * g)) <= 1e-13 * size
    np.testing.assert_allclose(gb, g.sum((0, 2, 3)), rtol=0, atol=1e-14 * g.size)


def test_finite_differences():
    rng = np.random.default_rng(6)
    x, w = random(rng, (1, 2, 5, 6), np.float64), random(rng, (3, 2, 3, 2), np.float64)
    settings = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}
    g = random(rng, so.conv2d(x, w, **settings).shape, np.float64)
    gx, gw, _ = so.conv2d_backward(g, x, w, **settings)
    for array, gradient in ((x, gx), (w, gw)):
        for index in np.ndindex(array.shape):
            old = array[index]
            array[index] = old + 0.5
            up = np.sum(so.conv2d(x, w, **settings) * g)
            array[index] = old - 0.5
            down = np.sum(so.conv2d(x, w, **settings) * g)
            array[index] = old
            assert abs((up - down) - gradient[index]) < 1e-13


@given(problem=problems())
def test_padding_is_data(problem):
    """Padding gives the bits that numpy.pad gives, infinite weights included."""
    x, w, bias, settings = problem
    w = w.copy()
    w.flat[0] = np.inf
    (top, bottom), (left, right) = settings.pop("padding")
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    y = so.conv2d(x, w, bias, padding=((top, bottom), (left, right)), **settings)
    assert same_bits(y, so.conv2d(padded, w, bias, **settings))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
def test_named_padding(stride, size):
    rng = np.random.default_rng(7)
    x, w = random(rng, (1, 2, size, 9)), random(rng, (3, 2, 4, 3))
    y = so.conv2d(x, w, stride=stride, padding="same", dilation=(1, 2))
    assert y.shape[2:] == (-(-size // stride), -(-9 // stride))
    total = max((y.shape[2] - 1) * stride + 4 - size, 0)
    wide = max((y.shape[3] - 1) * stride + 5 - 9, 0)
    explicit = ((total // 2, total - total // 2), (wide // 2, wide - wide // 2))
    assert same_bits(y, so.conv2d(x, w, stride=stride, padding=explicit, dilation=(1, 2)))
    assert same_bits(so.conv2d(x, w, padding="valid"), so.conv2d(x, w))
    assert same_bits(so.conv2d(x, w, padding=(2, 1)), so.conv2d(x, w, padding=((2, 2), (1, 1))))


def test_infinities_and_nan():
    x = np.zeros((1, 1, 4, 4), np.float32)
    w = np.ones((1, 1, 3, 3), np.float32)
    x[0, 0, 0, 0] = np.inf
    y = so.conv2d(x, w, padding=1)[0, 0]
    assert np.all(y[:2, :2] == np.inf)
    assert np.all(y[2:] == 0)
    assert np.all(y[:, 2:] == 0)
    w[0, 0, 2, 2] = 0
    assert np.isnan(so.conv2d(x, w, padding=2)[0, 0, 0, 0])


def test_absent_outputs_are_no_terms_of_grad_input():
    """An infinite weight over the border of grad_output is no NaN: there is nothing to multiply."""
    g = np.ones((1, 2, 4, 4), np.float32)
    w = np.ones((2, 1, 3, 3), np.float32)
    w[0, 0, 0, 0] = np.inf
    gx = so.conv2d_backward(g, np.zeros((1, 1, 6, 6), np.float32), w)[0]
    assert not np.isnan(gx).any()
    assert np.all(np.isinf(gx[0, 0, :4, :4]))
    assert np.all(np.isfinite(gx[0, 0, 4:]))
    assert np.all(np.isfinite(gx[0, 0, :, 4:]))
    assert same_bits(gx, ref.grad_input_canonical(g, (1, 1, 6, 6), w))


# The largest error in units of eps * sum |terms|; a huge term's block is a running sum of 128.
@pytest.mark.parametrize(
    ("kind", "limit"), [("positive", 6), ("ill-conditioned", 6), ("one huge term", 20)]
)
def test_accuracy(kind, limit):
    """Blocks keep the error of long sums far below that of a running sum."""
    rng = np.random.default_rng(8)
    x, w = rng.uniform(0, 1, (1, 512, 3, 3)), rng.uniform(0, 1, (40, 512, 3, 3))
    if kind == "ill-conditioned":
        x[:, 256:], w[:, 256:] = x[:, :256], -w[:, :256] * (1 + 1e-4)
    if kind == "one huge term":
        x[0, 0, 0, 0] = 1e6
    x, w = x.astype(np.float32), w.astype(np.float32)
    want, size = ref.conv2d(x, w)
    running = np.cumsum((x * w).reshape(40, -1), axis=1, dtype=np.float32)[:, -1]

    def error(y):
        return float(np.max(abs(y.ravel() - want.ravel()) / size.ravel()) * 2**24)

    assert error(so.conv2d(x, w)) < limit
    assert error(running) > 2 * limit


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 200, 200), (1, 64, 56, 56)])
def test_output_may_overlap_the_input(shape):
    rng = np.random.default_rng(9)
    x, w = random(rng, shape), random(rng, (shape[1], shape[1], 3, 3))
    y = so.conv2d(x, w, padding=1)
    assert so.conv2d(x, w, padding=1, out=x) is x
    assert same_bits(x, y)


def test_unbatched_and_masked():
    rng = np.random.default_rng(10)
    x, w = random(rng, (3, 6, 6)), random(rng, (4, 3, 3, 3))
    y = so.conv2d(x, w)
    assert same_bits(y, so.conv2d(x[None], w)[0])
    gx, gw, gb = so.conv2d_backward(y, x, w)
    assert gx.shape == x.shape
    for i in range(3):
        mask = [j == i for j in range(3)]
        some = so.conv2d_backward(y, x, w, output_mask=mask)
        assert [a is not None for a in some] == mask
        assert same_bits(some[i], (gx, gw, gb)[i])


def test_empty_batch():
    x, w = np.ones((0, 2, 5, 5), np.float32), np.ones((3, 2, 3, 3), np.float32)
    y = so.conv2d(x, w, np.ones(3, np.float32))
    assert y.shape == (0, 3, 3, 3)
    gx, gw, gb = so.conv2d_backward(y, x, w)
    assert gx.shape == x.shape
    assert not gw.any()
    assert not gb.any()
    gx, gw, gb = so.conv2d_backward(
        np.ones((1, 0, 3, 3)), np.ones((1, 2, 3, 3)), np.ones((0, 2, 1, 1))
    )
    assert same_bits(gx, np.zeros((1, 2, 3, 3)))
    assert gw.shape == (0, 2, 1, 1)
    assert gb.shape == (0,)
    y = so.conv2d(np.ones((1, 0, 4, 4)), np.ones((2, 0, 3, 3)), np.array([1.0, 2.0]))
    assert same_bits(y, np.broadcast_to(np.array([1.0, 2.0])[:, None, None], (1, 2, 2, 2)).copy())


@given(problem=problems())
def test_packed_bits(problem):
    x, w, bias, settings = problem
    packed = so.pack_conv2d_weight(w, settings["groups"])
    assert same_bits(so.conv2d(x, packed, bias, **settings), so.conv2d(x, w, bias, **settings))
    last = channels_last(x)
    assert same_bits(so.conv2d(last, packed, bias, **settings), so.conv2d(x, w, bias, **settings))


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_packed_bits_of_large_problems(case, dtype, isa):
    x_shape, w_shape, settings = LARGE[case]
    rng = np.random.default_rng(3)
    x, w = random(rng, x_shape, dtype), random(rng, w_shape, dtype)
    bias = random(rng, w_shape[0], dtype)
    packed = so.pack_conv2d_weight(w, settings.get("groups", 1))
    want = so.conv2d(x, w, bias, **settings)
    for image in (x, channels_last(x)):
        assert same_bits(so.conv2d(image, packed, bias, **settings), want)


@pytest.mark.parametrize("w_shape", [(40, 3, 5, 5), (3, 2, 3, 3)], ids=["panels", "as it is"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_packed_weight_can_be_pickled_and_copied(w_shape, dtype, isa):
    rng = np.random.default_rng(11)
    w = random(rng, w_shape, dtype)
    x = random(rng, (1, w_shape[1], 9, 9), dtype)
    packed = so.pack_conv2d_weight(np.asfortranarray(w))
    assert (packed.shape, packed.groups, packed.dtype) == (w_shape, 1, dtype)
    text = pickle.dumps(packed)
    so._core.set_active_isa("baseline")
    assert pickle.dumps(so.pack_conv2d_weight(w)) == text, "the same at every level"
    so._core.set_active_isa(isa)
    want = so.conv2d(x, w)
    w[:] = 0
    for same in (packed, pickle.loads(text), copy.deepcopy(packed)):
        assert repr(same) == repr(packed)
        assert same_bits(so.conv2d(x, same), want)


def test_packed_weight_never_changes():
    packed = so.pack_conv2d_weight(np.ones((40, 3, 5, 5)))
    with pytest.raises(AttributeError):
        packed.groups = 2
    with pytest.raises(ValueError, match="read-only"):
        packed.state[-1][:] = 0
    assert not hasattr(packed, "__setstate__")


def test_packed_weight_cannot_be_made_without_content():
    kind = type(so.pack_conv2d_weight(np.ones((40, 3, 5, 5))))
    for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()


def test_state_that_fits_no_packed_weight_is_refused():
    packed = so.pack_conv2d_weight(np.ones((40, 3, 5, 5)))
    shape, groups, dtype, panels, values = packed.state
    for state in (
        (shape, groups, dtype, panels, values[:-1]),
        (shape, groups, np.dtype(np.float32), panels, values),
        (shape, 0, dtype, panels, values),
        (shape[1:], groups, dtype, panels, values),
    ):
        with pytest.raises(ValueError, match="not the state"):
            so._core.packed_weight_of(state)


X, W = np.ones((1, 4, 5, 5)), np.ones((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"input": np.ones((4, 5))}, ValueError, r"input has shape \(4, 5\); it must be"),
        ({"weight": np.ones((6, 4, 3))}, ValueError, r"weight has shape \(6, 4, 3\)"),
        ({"weight": np.ones((6, 3, 3, 3))}, ValueError, "with groups=1; both channel counts"),
        ({"groups": 4, "weight": np.ones((6, 1, 3, 3))}, ValueError, "groups=4"),
        ({"weight": np.ones((6, 4, 6, 3))}, ValueError, "6 x 3.*padded 5 x 5; the kernel must not"),
        ({"weight": np.ones((6, 4, 0, 3))}, ValueError, "at least one row"),
        ({"dilation": 3}, ValueError, "7 x 7.*padded 5 x 5"),
        ({"bias": np.ones(5)}, ValueError, r"bias has shape \(5,\); it must be \(6,\)"),
        ({"stride": 0}, ValueError, "stride=0 is not allowed; it must be 1 to"),
        ({"stride": (1, -1)}, ValueError, r"stride=\(1, -1\) is not allowed"),
        ({"stride": 1.5}, TypeError, "stride=1.5 is not allowed; an int or a pair"),
        ({"stride": (1, 2, 3)}, TypeError, r"stride=\(1, 2, 3\) is not allowed"),
        ({"dilation": 0}, ValueError, "dilation=0 is not allowed"),
        ({"groups": 0}, ValueError, "groups=0 is not allowed"),
        ({"padding": -1}, ValueError, "padding=-1 is not allowed; it must be 0 to"),
        ({"padding": "full"}, ValueError, "padding='full' is not allowed; an int"),
        ({"padding": ((1, 1), 1)}, TypeError, "padding=.* is not allowed"),
        ({"padding": 2**70}, ValueError, "padding=1180591620717411303424 is not allowed"),
        ({"padding": 2**31 - 1}, ValueError, "does not fit the address space"),
        ({"out": np.ones((1, 6, 3, 4))}, ValueError, "out has shape"),
        ({"out": np.ones((1, 6, 3, 3), np.float32)}, TypeError, "out has dtype float32"),
        ({"input": X + 1j}, TypeError, "input has dtype complex128"),
        ({"weight": W.astype(object)}, TypeError, "weight has dtype object"),
    ],
)
def test_refusals(arguments, error, text):
    with pytest.raises(error, match=text):
        so.conv2d(**{"input": X, "weight": W, **arguments})


def test_refusals_of_backward():
    with pytest.raises(
        ValueError, match=r"grad_output has shape \(1, 6, 3, 4\); it must be \(1, 6, 3, 3\)"
    ):
        so.conv2d_backward(np.ones((1, 6, 3, 4)), X, W)
    with pytest.raises(TypeError, match=r"output_mask=.* is not allowed; three bools are"):
        so.conv2d_backward(np.ones((1, 6, 3, 3)), X, W, output_mask=(True, False))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda p: so.conv2d(X, p, groups=2), ValueError, "groups=2 does not fit; weight is <"),
        (lambda p: so.conv2d(X[:, :3], p), ValueError, r"weight has shape \(6, 4, 3, 3\)"),
        (lambda p: so.conv2d(X[..., :2], p), ValueError, "the kernel must not be larger"),
        (lambda p: so.conv2d(X, so.pack_conv2d_weight(W.astype(np.float32))), TypeError,
         "weight is <packed weight of shape .*float32>, and .*; pack the weight in that dtype"),
        (lambda p: so.conv2d(X, so.pack_linear_weight(np.ones((6, 4)))), TypeError,
         "an array is allowed, or what pack_conv2d_weight returns"),
        (lambda p: so.linear(X, p), TypeError, "or what pack_linear_weight returns"),
        (lambda p: so.conv2d_backward(np.ones((1, 6, 3, 3)), X, p), TypeError,
         "conv2d_backward takes the array"),
        (lambda p: so.pack_conv2d_weight(p), TypeError, "pack_conv2d_weight takes the array"),
        (lambda p: so.pack_conv2d_weight(W, 4), ValueError, "with groups=4; its first size must"),
        (lambda p: so.pack_conv2d_weight(W, 0), ValueError, "groups=0 is not allowed"),
        (lambda p: so.pack_conv2d_weight(W[0]), ValueError, r"weight has shape \(4, 3, 3\); it"),
        (lambda p: so.pack_conv2d_weight(W[:, :, :0]), ValueError, "at least one row"),
        (lambda p: so.pack_conv2d_weight(W + 1j), TypeError, "weight has dtype complex128"),
    ],
)  # fmt: skip
def test_refusals_of_packed_weights(call, error, text):
    packed = so.pack_conv2d_weight(W)
    with pytest.raises(error, match=text):
        call(packed)


def test_huge_settings_are_harmless():
    y = so.conv2d(X, np.ones((6, 4, 1, 1)), stride=2**31 - 1, dilation=2**31 - 1)
    assert same_bits(y, np.full((1, 6, 1, 1), 4.0))
    gx = so.conv2d_backward(y, X, np.ones((6, 4, 1, 1)), stride=2**31 - 1)[0]
    assert gx[0, 0, 0, 0] == 24
    assert np.count_nonzero(gx) == 4


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 64])
def test_memory_is_bounded(isa, last, kernel, groups):
    """No copy of the 32 MB input or output, no im2col: scratch of a few MB a thread."""
    filters = 3 if isa == "baseline" and groups == 1 else 64  # emulated fma is slow
    setup = f"""
def image(channels):
    if {last}:
        return np.ones((1, 256, 512, channels), np.float32).transpose(0, 3, 1, 2)
    return np.ones((1, channels, 256, 512), np.float32)
x, y = image(64), image({filters})
w = np.ones(({filters}, {64 // groups}, {kernel}, {kernel}), np.float32)
s = dict(padding={kernel // 2}, groups={groups})
small = so.conv2d(x[..., :32, :32], w, **s)
so.conv2d_backward(small, x[..., :32, :32], w, **s)"""
    forward = "so.conv2d(x, w, **s, out=y)"
    of_weight = "so.conv2d_backward(y, x, w, **s, output_mask=(False, True, True))"
    assert growth_in_mib(isa, setup, f"{forward}\n{of_weight}") < 12
    of_input = "gradients = so.conv2d_backward(y, x, w, **s, output_mask=(True, False, False))"
    assert growth_in_mib(isa, setup, of_input) < 32 + 12
