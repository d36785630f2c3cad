"""Poolings against their definitions: maxima and positions exactly, means in exact arithmetic."""

import itertools

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, finite, laid_out

import stableops as so

bfloat16 = FLOAT_DTYPES[3]

# In units of eps * mean(abs(elements)): half for the last rounding, and what its docstring allows.
AVERAGE_BOUND = 0.51

POOL_LAYOUTS = [*LAYOUTS, "channels_last"]


def placed(x, layout):
    if layout == "channels_last":
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return laid_out(x, layout)


@st.composite
def windows(draw, dilated=False):
    """Keyword arguments of a pooling, all of them pairs."""
    pair = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(2))
    kernel = pair(1, 5)
    dilation = pair(1, 3) if dilated else (1, 1)
    padding = tuple(
        draw(st.integers(0, ((k - 1) * d + 1) // 2)) for k, d in zip(kernel, dilation, strict=True)
    )
    return {
        "kernel": kernel,
        "stride": pair(1, 4),
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
    }


def fits(size, axis, arguments):
    extent = (arguments["kernel"][axis] - 1) * arguments["dilation"][axis] + 1
    return size + 2 * arguments["padding"][axis] >= extent and size >= arguments["dilation"][axis]


@st.composite
def images(draw, arguments, dtype, elements=None):
    """An (N, C, H, W) array of dtype that the windows fit, in some layout."""
    sides = [
        draw(st.integers(1, high).filter(lambda size, axis=axis: fits(size, axis, arguments)))
        for axis, high in enumerate([12, 44])
    ]
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 3, 17, 33])), *sides)
    if elements is None:
        # A seeded generator fills large arrays: drawing each element would take most of the time.
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        x = rng.integers(-4, 5, shape).astype(np.float64)
        specials = rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0], shape)
        share = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
        x = np.where(rng.random(shape) < share, specials, x).astype(dtype)
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        pool = np.array(draw(st.lists(elements, min_size=1, max_size=50)))
        with np.errstate(over="ignore"):
            x = rng.choice(pool, shape).astype(dtype)
    return placed(x, draw(st.sampled_from(POOL_LAYOUTS)))


def keywords(arguments, *names):
    all_of_them = {"kernel_size": arguments["kernel"], **arguments}
    return {name: all_of_them[name] for name in ("kernel_size", "stride", *names)}


def average_grid(shape, arguments, count_include_pad, divisor_override):
    rows, cols = (
        reference.average_windows(
            shape[2 + axis],
            arguments["kernel"][axis],
            arguments["stride"][axis],
            arguments["padding"][axis],
            arguments["ceil_mode"],
        )
        for axis in (0, 1)
    )
    return rows, cols, reference.window_divisors(rows, cols, count_include_pad, divisor_override)


# Agreement with the definitions


@pytest.mark.parametrize("dtype", [*FLOAT_DTYPES, np.int64, np.uint8, np.int32, np.bool_])
@given(data=st.data())
def test_max_pool2d(dtype, data):
    arguments = data.draw(windows(dilated=True))
    if np.dtype(dtype).kind in "iub":
        x = data.draw(images(arguments, dtype, st.integers(0, 100)))
    else:
        x = data.draw(images(arguments, dtype))
    call = keywords(arguments, "padding", "dilation", "ceil_mode")
    y, indices = so.max_pool2d(x, **call, return_indices=True)
    y_expected, indices_expected = reference.max_pool2d(x, **arguments)
    assert indices.dtype == np.int64
    np.testing.assert_array_equal(indices, indices_expected)
    if y.dtype.kind in "iub":
        np.testing.assert_array_equal(y, y_expected)
        assert y.dtype == x.dtype
    else:
        assert same_bits(y, y_expected)
    assert so.max_pool2d(x, **call).tobytes() == y.tobytes()


@pytest.mark.parametrize("special", [-1.0, np.nan, np.inf], ids=["negative", "nan", "inf"])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("width", [5, 6, 31, 32, 33, 36, 64, 70])
def test_max_pool2d_three_wide_and_two_apart(width, ceil_mode, special):
    """Windows over the edge of images without a positive number; NaN in every column."""
    x = -1 - np.random.default_rng(0).random((width, 1, 7, width), np.float32)
    x[np.arange(width), 0, 3, np.arange(width)] = special
    for kernel, padding in itertools.product([1, 2, 3], [0, 1]):
        arguments = {"kernel": (kernel, 3), "stride": (2, 2), "padding": (0, padding)}
        arguments |= {"dilation": (1, 1), "ceil_mode": ceil_mode}
        y = so.max_pool2d(x, **keywords(arguments, "padding", "ceil_mode"))
        assert same_bits(y, reference.max_pool2d(x, **arguments)[0])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_max_pool2d_backward(dtype, data):
    arguments = data.draw(windows(dilated=True))
    x = data.draw(images(arguments, dtype))
    call = keywords(arguments, "padding", "dilation", "ceil_mode")
    y, indices = so.max_pool2d(x, **call, return_indices=True)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    grad = placed(
        rng.standard_normal(y.shape).astype(dtype), data.draw(st.sampled_from(POOL_LAYOUTS))
    )
    indices = placed(indices, data.draw(st.sampled_from(POOL_LAYOUTS[:-2])))
    expected = reference.max_pool2d_backward(grad, indices, x.shape)
    assert same_bits(so.max_pool2d_backward(grad, indices, x.shape), expected)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_avg_pool2d(dtype, data):
    arguments = data.draw(windows())
    x = data.draw(images(arguments, dtype, finite(dtype)))
    x = np.where(np.isfinite(x), x, np.zeros((), dtype))
    count_include_pad = data.draw(st.booleans())
    divisor = data.draw(st.sampled_from([None, None, None, 7, 1000, -30]))
    grid = average_grid(x.shape, arguments, count_include_pad, divisor)
    call = {
        **keywords(arguments, "padding", "ceil_mode"),
        "count_include_pad": count_include_pad,
        "divisor_override": divisor,
    }
    y = so.avg_pool2d(x, **call)
    if np.isfinite(y).all():
        assert reference.average_error(y, x, *grid) < AVERAGE_BOUND
    else:
        assert divisor == 7  # more than seven elements of nearly the largest size
    grad = placed(x[:, :, : y.shape[2], : y.shape[3]], data.draw(st.sampled_from(POOL_LAYOUTS)))
    if grad.shape == y.shape:
        grad_x = so.avg_pool2d_backward(grad, x.shape, **call)
        if np.isfinite(grad_x).all():
            assert reference.average_backward_error(grad_x, grad, *grid) < AVERAGE_BOUND


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_adaptive_avg_pool2d(dtype, data):
    any_size = {"kernel": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    x = data.draw(images(any_size, dtype, finite(dtype)))
    x = np.where(np.isfinite(x), x, np.zeros((), dtype))
    size = (data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14)))
    rows, cols = (reference.adaptive_windows(x.shape[2 + axis], size[axis]) for axis in (0, 1))
    grid = rows, cols, reference.window_divisors(rows, cols)
    y = so.adaptive_avg_pool2d(x, size)
    assert y.shape == (*x.shape[:2], *size)
    assert reference.average_error(y, x, *grid) < AVERAGE_BOUND
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    grad = placed(
        rng.standard_normal(y.shape).astype(dtype), data.draw(st.sampled_from(POOL_LAYOUTS))
    )
    grad_x = so.adaptive_avg_pool2d_backward(grad, x.shape)
    assert reference.average_backward_error(grad_x, grad, *grid) < AVERAGE_BOUND


def test_adaptive_output_sizes():
    x = np.arange(2 * 3 * 8 * 6.0).reshape(2, 3, 8, 6)
    whole = x.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_array_equal(so.adaptive_avg_pool2d(x, 1), whole)
    assert so.adaptive_avg_pool2d(x, None).shape == x.shape
    assert so.adaptive_avg_pool2d(x, (None, 2)).shape == (2, 3, 8, 2)
    assert so.adaptive_avg_pool2d(x, (0, 2)).shape == (2, 3, 0, 2)
    halves = so.adaptive_avg_pool2d(x, (4, 3))
    assert same_bits(halves, so.avg_pool2d(x, 2))


# Special values


def test_nan_wins():
    """pytorch 7645, 39846, tensorflow 2501: NaN was dropped, or -3.4e38 returned."""
    x = np.array([[[1.0, np.nan, 3.0, np.nan], [9.0, 9.0, 9.0, 9.0]]])
    y, indices = so.max_pool2d(x, 2, 1, return_indices=True)
    assert np.isnan(y).all()
    np.testing.assert_array_equal(indices, [[[1, 1, 3]]])


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_window_of_one_special_value(dtype, value):
    """pytorch 1465, 40131: the index was -1, and the backward pass wrote there."""
    x = np.full((1, 2, 40, 40), value, dtype)
    y, indices = so.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert same_bits(y, np.full((1, 2, 20, 20), value, dtype))
    assert indices[0, 0, 0, 0] == 0
    assert indices[0, 0, 1, 1] == 41
    so.max_pool2d_backward(y, indices, x.shape)


def test_ties_and_signed_zeros_take_the_first():
    x = np.array([[[0.0, -0.0, -1.0], [-0.0, 0.0, -0.0]]])
    y, indices = so.max_pool2d(x, 2, 1, return_indices=True)
    assert same_bits(y, np.array([[[0.0, -0.0]]]))
    np.testing.assert_array_equal(indices, [[[0, 1]]])
    assert same_bits(so.max_pool2d(x, 2, 1), y)


def test_padding_never_wins():
    """pytorch 33382: is padding 0 or -inf?"""
    x = np.full((1, 1, 4, 4), -7.0)
    np.testing.assert_array_equal(so.max_pool2d(x, 3, 1, 1), x)


def test_ceil_mode_overhang_never_counts():
    """pytorch/xla 6409, coremltools 2844: the last mean of [1, 2, 3, 4, 5] was 2.5."""
    x = np.array([[[1.0, 2, 3, 4, 5]]])
    y = so.avg_pool2d(x, (1, 2), (1, 2), ceil_mode=True)
    np.testing.assert_array_equal(y, [[[1.5, 3.5, 5.0]]])
    padded = so.avg_pool2d(x, (1, 2), (1, 2), (0, 1), ceil_mode=True)
    np.testing.assert_array_equal(padded, [[[0.5, 2.5, 4.5]]])
    clipped = so.avg_pool2d(x, (1, 2), (1, 2), (0, 1), count_include_pad=False)
    np.testing.assert_array_equal(clipped, [[[1.0, 2.5, 4.5]]])


def test_ceil_mode_size_with_kernel_one():
    """Paddle 51542: the last window must start inside the image."""
    x = np.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_array_equal(
        so.max_pool2d(x, 1, 2, ceil_mode=True), [[[0.0, 2.0], [8.0, 10.0]]]
    )


def test_divisor_override_wins():
    """executorch 18616: it was ignored with count_include_pad=False."""
    x = np.ones((1, 1, 4, 4))
    y = so.avg_pool2d(x, 2, padding=1, count_include_pad=False, divisor_override=2)
    np.testing.assert_array_equal(y[0, 0], [[0.5, 1, 0.5], [1, 2, 1], [0.5, 1, 0.5]])


@pytest.mark.parametrize("layout", ["C", "channels_last"])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_means_do_not_overflow(dtype, layout):
    top = reference.ml_dtypes.finfo(dtype).max
    x = placed(np.full((1, 3, 6, 40), top, dtype), layout)
    for y in (so.avg_pool2d(x, 3), so.avg_pool2d(x, 3, 1), so.adaptive_avg_pool2d(x, (4, 7))):
        assert same_bits(y, np.full(y.shape, top, dtype))
    x = x.copy()
    x[..., ::2] = -top
    np.testing.assert_array_equal(so.avg_pool2d(x, (3, 2)), np.zeros((1, 3, 2, 20), dtype))
    grad = placed(np.full((1, 3, 2, 20), top, dtype), layout)
    assert np.isfinite(so.avg_pool2d_backward(grad, x.shape, (3, 2))).all()


@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_means_do_not_depend_on_neighbours(layout):
    """A window that overflows is computed from scaled data, which would round subnormals away."""
    tiny = np.full((1, 2, 2, 16), 3 * 5e-324)
    expected = so.avg_pool2d(tiny, (2, 3))
    assert expected.all()
    x = tiny.copy()
    x[..., 3:6] = 1.7e308
    x[:, 1] = np.nan
    y = so.avg_pool2d(placed(x, layout), (2, 3))
    assert y[0, 0, 0, 1] == 1.7e308
    assert same_bits(y[0, 0, 0, [0, 2, 3, 4]], expected[0, 0, 0, [0, 2, 3, 4]])
    assert np.isnan(y[0, 1]).all()


@pytest.mark.parametrize("layout", ["C", "channels_last"])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_means_of_infinities(dtype, layout):
    x = np.ones((1, 2, 2, 8), dtype)
    x[0, 0, 0, 1] = np.inf
    x[0, 0, 1, 2] = np.nan
    x[0, 0, :, 4] = [np.inf, -np.inf]
    x[0, 1, 1, 7] = -np.inf
    y = so.avg_pool2d(placed(x, layout), 2).astype(np.float64)
    expected = [[[np.inf, np.nan, np.nan, 1]], [[1, 1, 1, -np.inf]]]
    np.testing.assert_array_equal(y[0], expected)


def test_float64_means_of_cancelling_terms():
    """A plain float64 sum loses every digit here."""
    x = np.array([1e16, 1.0, -1e16, 1.0, 3.0, -1e16, 1e16, 0.5, 2.5]).reshape(1, 1, 3, 3)
    for layout in ("C", "channels_last"):
        assert so.avg_pool2d(placed(np.repeat(x, 2, 1), layout), 3)[0, 0, 0, 0] == 8 / 9


# Parameters and layouts


def test_unbatched_images():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 9, 11)).astype(np.float32)
    y, indices = so.max_pool2d(x, 3, 2, return_indices=True)
    y4, indices4 = so.max_pool2d(x[None], 3, 2, return_indices=True)
    assert same_bits(y, y4[0])
    np.testing.assert_array_equal(indices, indices4[0])
    assert so.max_pool2d_backward(y, indices, x.shape).shape == x.shape
    assert same_bits(so.avg_pool2d(x, 2), so.avg_pool2d(x[None], 2)[0])
    assert so.avg_pool2d_backward(so.avg_pool2d(x, 2), x.shape, 2).shape == x.shape
    last = np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert same_bits(so.avg_pool2d(last, 2), so.avg_pool2d(x, 2))
    assert so.avg_pool2d(last, 2).strides[0] == 4
    assert so.adaptive_avg_pool2d(x, 2).shape == (5, 2, 2)


def test_stride_defaults_to_the_kernel():
    x = np.arange(36.0).reshape(1, 6, 6)
    expected = so.max_pool2d(x, (2, 3), (2, 3))
    assert same_bits(so.max_pool2d(x, (2, 3)), expected)
    assert same_bits(so.max_pool2d(x, [2, 3], []), expected)
    assert same_bits(so.max_pool2d(x, (3,)), so.max_pool2d(x, 3))


def test_channels_last_strides_are_kept():
    x = placed(np.zeros((2, 8, 6, 6), np.float32), "channels_last")
    y, indices = so.max_pool2d(x, 2, return_indices=True)
    for result in (
        y,
        so.avg_pool2d(x, 2),
        so.adaptive_avg_pool2d(x, 3),
        so.max_pool2d_backward(y, indices, x.shape),
        so.avg_pool2d_backward(y, x.shape, 2),
        so.adaptive_avg_pool2d_backward(y, x.shape),
    ):
        assert result.transpose(0, 2, 3, 1).flags.c_contiguous
    assert indices.transpose(0, 2, 3, 1).flags.c_contiguous
    sliced = placed(np.zeros((2, 16, 6, 6), np.float32), "channels_last")[:, :8, ::-1]
    assert so.max_pool2d(sliced, 2).transpose(0, 2, 3, 1).flags.c_contiguous
    for layout in ("C", "F", "broadcast"):
        assert so.max_pool2d(placed(np.ones((2, 8, 6, 6)), layout), 2).flags.c_contiguous


@pytest.mark.parametrize("kernel", [(13, 1), (40, 40), (1, 37), (9, 20)])
@pytest.mark.parametrize("layout", ["C", "F", "channels_last"])
def test_large_windows(kernel, layout):
    """More rows than are visited at a time."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 3, 40, 40))
    x[0, 1, 20:22] = np.nan
    arguments = {
        "kernel": kernel,
        "stride": (1, 2),
        "padding": (kernel[0] // 2, kernel[1] // 2),
        "dilation": (1, 1),
        "ceil_mode": False,
    }
    y, indices = so.max_pool2d(placed(x, layout), kernel, (1, 2), arguments["padding"],
                               return_indices=True)  # fmt: skip
    y_expected, indices_expected = reference.max_pool2d(x, **arguments)
    assert same_bits(y, y_expected)
    np.testing.assert_array_equal(indices, indices_expected)
    x = np.nan_to_num(x)
    grid = average_grid(x.shape, arguments, True, None)
    y = so.avg_pool2d(placed(x, layout), kernel, (1, 2), arguments["padding"])
    assert reference.average_error(y, x, *grid) < AVERAGE_BOUND
    grad = so.avg_pool2d_backward(placed(y, layout), x.shape, kernel, (1, 2), arguments["padding"])
    assert reference.average_backward_error(grad, y, *grid) < AVERAGE_BOUND


@pytest.mark.parametrize("dilation", [6, 8, 11])
def test_dilated_rows_beyond_the_row_cache(dilation):
    x = np.random.default_rng(2).standard_normal((1, 2, 50, 30))
    arguments = {
        "kernel": (4, 2),
        "stride": (1, 1),
        "padding": (2, 1),
        "dilation": (dilation, 3),
        "ceil_mode": False,
    }
    y, indices = so.max_pool2d(x, (4, 2), 1, (2, 1), (dilation, 3), return_indices=True)
    y_expected, indices_expected = reference.max_pool2d(x, **arguments)
    assert same_bits(y, y_expected)
    np.testing.assert_array_equal(indices, indices_expected)


@pytest.mark.parametrize("step", [2, 5, -1])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_wide_rows_with_steps(dtype, stride, step):
    """Columns that are no neighbours are gathered some hundred at a time."""
    x = np.random.default_rng(11).integers(-999, 999, (1, 2, 5, 3001)).astype(dtype)[..., ::step]
    plain = x.copy()
    for padding in (0, 1):
        for call in (so.max_pool2d, so.avg_pool2d):
            if dtype != np.int64 or call is so.max_pool2d:
                assert same_bits(call(x, 3, stride, padding), call(plain, 3, stride, padding))
        found = [so.max_pool2d(v, 3, stride, padding, return_indices=True)[1] for v in (x, plain)]
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("stride", [1, 2, 5, 2**18])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_windows_far_larger_than_the_image(dtype, stride):
    x = np.random.default_rng(8).integers(-9, 9, (2, 3, 4, 23)).astype(dtype)
    half = 2**18
    y, indices = so.max_pool2d(
        x, (3, 2 * half), (1, stride), (1, half), (1, 1), True, return_indices=True
    )
    starts = np.arange(y.shape[3]) * stride - half
    assert so.max_pool2d(x, (3, 2 * half), (1, stride), (1, half), 1, True).tobytes() == y.tobytes()
    for j in {0, 1, len(starts) // 2, len(starts) - 1} & set(range(len(starts))):
        window = slice(max(starts[j], 0), min(starts[j] + 2 * half, 23))
        np.testing.assert_array_equal(y[:, :, 1, j], x[:, :, :3, window].max(axis=(2, 3)))
        rows, columns = np.divmod(indices[:, :, 1, j], 23)
        assert ((rows < 3) & (columns >= window.start) & (columns < window.stop)).all()


@pytest.mark.parametrize("layout", ["C", "channels_last"])
@pytest.mark.parametrize("width", [384, 383])
def test_results_that_bypass_the_caches(layout, width):
    """Two images make 32 MB of results, one alone does not."""
    rng = np.random.default_rng(9)
    x = placed(rng.standard_normal((2, 32, 352, width), np.float32), layout)
    calls = [
        lambda x: so.max_pool2d(x, 3, 1, 1),
        lambda x: so.max_pool2d(x, (3, 2), (1, 2), (1, 0), return_indices=True)[1],
        lambda x: so.avg_pool2d(x, 3, 1, 1),
        lambda x: so.avg_pool2d_backward(x, x.shape, 3, 1, 1),
        lambda x: so.avg_pool2d_backward(
            x[..., ::2], (*x.shape[:2], x.shape[2], (x.shape[3] + 1) // 2 * 2), (1, 2)
        ),
        lambda x: so.max_pool2d_backward(x, np.broadcast_to(np.int64(5), x.shape), x.shape),
    ]
    for call in calls:
        whole = call(x)
        for i in range(2):
            assert same_bits(whole[i : i + 1], call(x[i : i + 1]))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("channels", [3, 40])
def test_backward_takes_any_indices(dtype, channels):
    """Indices that no window has: repeated, far apart, more of them than a window holds."""
    rng = np.random.default_rng(10)
    shape = (2, channels, 6, 7)
    grad = rng.standard_normal(shape).astype(dtype)
    for high in (3, 12 * 15):
        indices = rng.integers(0, high, shape)
        expected = reference.max_pool2d_backward(grad, indices, (2, channels, 12, 15))
        for layout in [*POOL_LAYOUTS[:1], "channels_last"]:
            result = so.max_pool2d_backward(
                placed(grad, layout), placed(indices, layout), (2, channels, 12, 15)
            )
            assert same_bits(result, expected)


def pooled(x):
    """Results of all poolings, with what their backward functions make of them."""
    y, indices = so.max_pool2d(x, 3, 2, 1, return_indices=True)
    mean = so.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    adaptive = so.adaptive_avg_pool2d(x, (5, 7))
    return [
        y,
        indices,
        so.max_pool2d(x, 2),
        so.max_pool2d(x, 3, 1, 1),
        so.max_pool2d_backward(y, indices, x.shape),
        mean,
        so.avg_pool2d(x, 3, 1, 1),
        so.avg_pool2d(x, 3),
        so.avg_pool2d_backward(mean, x.shape, 3, 2, 1, count_include_pad=False),
        adaptive,
        so.adaptive_avg_pool2d_backward(adaptive, x.shape),
    ]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_threads_batch_and_layout_do_not_change_bits(dtype, threads):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((3, 20, 64, 61)) * 100).astype(dtype)
    whole = pooled(x)
    alone = pooled(x[1:2])
    last = pooled(placed(x, "channels_last"))
    sliced = pooled(np.repeat(x, 2, axis=3)[..., ::2])
    for a, b, c, d in zip(whole, alone, last, sliced, strict=True):
        assert a.tobytes() == c.tobytes("C") == d.tobytes()
        assert a[1:2].tobytes() == b.tobytes()


def test_empty_batch():
    x = np.zeros((0, 3, 6, 6), np.float32)
    y, indices = so.max_pool2d(x, 2, return_indices=True)
    assert y.shape == indices.shape == (0, 3, 3, 3)
    assert so.avg_pool2d(x, 2).shape == so.adaptive_avg_pool2d(x, 3).shape == (0, 3, 3, 3)
    assert so.max_pool2d_backward(y, indices, x.shape).shape == x.shape
    assert so.avg_pool2d_backward(y, x.shape, 2).shape == x.shape
    assert so.adaptive_avg_pool2d_backward(y, x.shape).shape == x.shape


def test_integers_become_float64_for_means():
    x = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    y = so.avg_pool2d(x, 2)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [[[2.5, 4.5], [10.5, 12.5]]])


# Backward


@pytest.mark.parametrize("layout", ["C", "channels_last"])
def test_adjoint_identities(layout):
    """<pool(x), g> = <x, pool_backward(g)>, exactly: all numbers are small integers over 64."""
    rng = np.random.default_rng(4)
    x = placed(rng.integers(-50, 50, (2, 5, 12, 16)).astype(np.float64), layout)

    def agrees(y, backward):
        g = placed(rng.integers(-50, 50, y.shape).astype(np.float64), layout)
        return np.sum(y * g) == np.sum(x * backward(g)) != 0

    y = so.avg_pool2d(x, (2, 4), 1, (1, 2))
    assert agrees(y, lambda g: so.avg_pool2d_backward(g, x.shape, (2, 4), 1, (1, 2)))
    y = so.avg_pool2d(x, 4, 3, 2, True, divisor_override=8)
    assert agrees(
        y, lambda g: so.avg_pool2d_backward(g, x.shape, 4, 3, 2, True, divisor_override=8)
    )
    y = so.adaptive_avg_pool2d(x, (3, 4))
    assert agrees(y, lambda g: so.adaptive_avg_pool2d_backward(g, x.shape))
    y, indices = so.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert agrees(y, lambda g: so.max_pool2d_backward(g, indices, x.shape))


def test_max_pool2d_gradient_by_differences():
    """Where no two elements of a window are close, the maximum is linear."""
    rng = np.random.default_rng(5)
    x = rng.permutation(5 * 7).astype(np.float64).reshape(1, 1, 5, 7)
    y, indices = so.max_pool2d(x, 3, 2, 1, return_indices=True)
    g = rng.integers(-9, 9, y.shape).astype(np.float64)
    grad = so.max_pool2d_backward(g, indices, x.shape)
    for position in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[position] = 0.25
        change = so.max_pool2d(x + step, 3, 2, 1) - so.max_pool2d(x - step, 3, 2, 1)
        assert np.sum(change * g) / 0.5 == grad[position]


# What the checks must refuse


def naive_average(x, kernel):
    """A running float32 sum over rows of windows."""
    sums = np.cumsum(np.pad(x, [(0, 0), (0, 0), (0, 0), (1, 0)]), axis=3, dtype=np.float32)
    rows = sums[..., kernel:] - sums[..., :-kernel]
    return (rows / np.float32(kernel)).astype(np.float32)


def test_a_running_float32_sum_fails_the_accuracy_check():
    x = np.random.default_rng(6).standard_normal((1, 1, 1, 300)).astype(np.float32)
    x[..., 20] = 1e6
    arguments = {
        "kernel": (1, 3),
        "stride": (1, 1),
        "padding": (0, 0),
        "dilation": (1, 1),
        "ceil_mode": False,
    }
    grid = average_grid(x.shape, arguments, True, None)
    assert reference.average_error(so.avg_pool2d(x, (1, 3), 1), x, *grid) < AVERAGE_BOUND
    assert reference.average_error(naive_average(x, 3), x, *grid) > 1000 * AVERAGE_BOUND


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: so.max_pool2d(x, 0), ValueError, "kernel_size=0 .* 1 or more"),
        (lambda x: so.max_pool2d(x, (2, -1)), ValueError, r"kernel_size=\(2, -1\)"),
        (lambda x: so.max_pool2d(x, 2, 0), ValueError, "stride=0 .* 1 or more"),
        (lambda x: so.max_pool2d(x, 2, dilation=0), ValueError, "dilation=0 .* 1 or more"),
        (lambda x: so.max_pool2d(x, 2, padding=-1), ValueError, "padding=-1 .* 0 or more"),
        (lambda x: so.max_pool2d(x, 2, padding=2), ValueError, "padding=2 .* half of the window"),
        (lambda x: so.max_pool2d(x, 2, padding=3, dilation=4), ValueError, "padding=3 .*half"),
        (lambda x: so.max_pool2d(x, 7), ValueError, "window of 7 along H .* padded image of 6"),
        (lambda x: so.max_pool2d(x, (2, 11), padding=1), ValueError, "11 along W .*2 \\* 1"),
        (lambda x: so.max_pool2d(x, 2**62), ValueError, "kernel_size=4611686018427387904"),
        (lambda x: so.max_pool2d(x, 2**64), ValueError, "kernel_size=18446744073709551616"),
        (lambda x: so.max_pool2d(x, 2, dilation=2**62), ValueError, "dilation=4611686018427387904"),
        (lambda x: so.max_pool2d(x, 2.0), TypeError, "kernel_size=2.0"),
        (lambda x: so.max_pool2d(x, "2"), TypeError, "kernel_size='2'"),
        (lambda x: so.max_pool2d(x, True), TypeError, "kernel_size=True"),
        (lambda x: so.max_pool2d(x, (2, 2, 2)), ValueError, "3 entries; one or two"),
        (lambda x: so.max_pool2d(x, ()), ValueError, "0 entries; one or two"),
        (lambda x: so.max_pool2d(x[0, 0], 2), ValueError, r"input has shape \(6, 8\) with 2"),
        (lambda x: so.max_pool2d(x[None], 2), ValueError, "5 dimensions; "),
        (lambda x: so.max_pool2d(x[..., :0], 2), ValueError, r"\(2, 3, 6, 0\); images without"),
        (lambda x: so.max_pool2d(x + 1j, 2), TypeError, "input has dtype complex"),
        (lambda x: so.max_pool2d(x.astype(np.uint64), 2), TypeError, "input has dtype uint64"),
        (
            lambda x: so.max_pool2d(x[..., :2, :2], 2, 1, 2, 4),
            ValueError,
            "window 0 along H has no element",
        ),
        (lambda x: so.avg_pool2d(x, 3, padding=2), ValueError, "padding=2 .* half of the window"),
        (lambda x: so.avg_pool2d(x, 2, divisor_override=0), ValueError, "divisor_override=0"),
        (lambda x: so.avg_pool2d(x, 2, divisor_override=1.5), TypeError, "divisor_override=1.5"),
        (lambda x: so.avg_pool2d_backward(x, (2, 3, 9, 8), 2), ValueError, "must be 4 and 4"),
        (lambda x: so.avg_pool2d_backward(x, (1, 3, 12, 16), 2), ValueError, "all but H and W"),
        (lambda x: so.avg_pool2d_backward(x, 12, 2), TypeError, "input_shape=12"),
        (lambda x: so.adaptive_avg_pool2d(x, -1), ValueError, "output_size=-1 .* 0 or more"),
        (lambda x: so.adaptive_avg_pool2d(x, (1, 2, 3)), ValueError, "3 entries; two"),
        (lambda x: so.adaptive_avg_pool2d(x, 1.5), TypeError, "output_size=1.5"),
        (lambda x: so.adaptive_avg_pool2d(x[..., :0], 1), ValueError, "images without elements"),
        (lambda x: so.adaptive_avg_pool2d(x, 2**62), ValueError, "does not fit the address space"),
        (
            lambda x: so.adaptive_avg_pool2d_backward(x, (2, 3, 0, 8)),
            ValueError,
            "images without elements",
        ),
        (
            lambda x: so.max_pool2d_backward(x, np.zeros((2, 3, 6, 7), int), x.shape),
            ValueError,
            "indices has shape",
        ),
        (
            lambda x: so.max_pool2d_backward(x, np.zeros(x.shape), x.shape),
            TypeError,
            "indices has dtype float64",
        ),
        (
            lambda x: so.max_pool2d_backward(x, np.zeros(x.shape, int), (2, 3, 2**40, 2**40)),
            ValueError,
            "too large|address space",
        ),
    ],
)
def test_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(np.ones((2, 3, 6, 8)))


@pytest.mark.parametrize("layout", ["C", "F", "channels_last"])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("value", [-1, 48, 2**62, -(2**63)])
def test_index_outside_the_image(dtype, layout, value):
    grad = placed(np.ones((2, 3, 3, 4), dtype), layout)
    indices = np.zeros(grad.shape, np.int64)
    indices[1, 2, 0, 3] = value
    indices[1, 2, 2, 3] = value
    with pytest.raises(IndexError, match=rf"indices\(1, 2, 0, 3\) is {value}; .* 0 to 47"):
        so.max_pool2d_backward(grad, placed(indices, layout), (2, 3, 6, 8))


def test_unsigned_index_outside_the_image():
    indices = np.full((1, 1, 1), 2**64 - 1, np.uint64)
    with pytest.raises(IndexError, match=r"indices\(0, 0, 0\) is 18446744073709551615; "):
        so.max_pool2d_backward(np.ones((1, 1, 1)), indices, (1, 2, 2))


def test_window_too_wide_for_carried_offsets():
    x = np.broadcast_to(np.float32(1), (1, 1, 2, 2**31))
    with pytest.raises(ValueError, match="reach over at most 2147483647 elements"):
        so.max_pool2d(x, 2, (1, 2**30), return_indices=True)


def test_large_arguments_on_small_images():
    x = np.arange(12.0).reshape(1, 3, 4)
    assert so.max_pool2d(x, 2, 2**62).shape == (1, 1, 1)
    assert so.avg_pool2d(x, 2, 2**62, ceil_mode=True).shape == (1, 1, 1)
    assert so.avg_pool2d(x, 3, divisor_override=2**62)[0, 0, 0] == x[0, :3, :3].sum() / 2**62
