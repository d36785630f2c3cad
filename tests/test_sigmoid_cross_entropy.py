"""sigmoid_cross_entropy: loss and gradient to the last digits, ordered sums, every option."""

import functools
import itertools

import ml_dtypes
import mpmath
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from reference import same_bits, ulp_error, unit, worst_ulp_error
from strategies import EDGE_SIZES, FLOAT_DTYPES, LAYOUTS, arrays, laid_out

import stableops as so

LOSS_BOUND = {np.float64: 0.55, np.float32: 0.51, np.float16: 0.51, ml_dtypes.bfloat16: 0.51}
GRAD_BOUND = {np.float64: 0.55, np.float32: 0.51, np.float16: 0.51, ml_dtypes.bfloat16: 0.51}
# With labels that make the terms cancel; the docstring promises 1 and 1.5, the gradient 1 and 2.
CANCELLING_BOUND = {np.float64: 1.0, np.float32: 0.6}

WHAT = ("sigmoid_cross_entropy", "sigmoid_cross_entropy_grad")
HARD_LABELS = [0.0, 1.0]
SOFT_LABELS = [0.0, 1.0, 0.5, 0.1, 0.9, 1e-3, 0.999]


def logits(dtype, n, seed):
    rng = np.random.default_rng(seed)
    info = ml_dtypes.finfo(dtype)
    deep = -np.log(float(info.smallest_subnormal))
    x = np.concatenate(
        [
            rng.standard_normal(n) * 3,
            rng.uniform(-deep - 1, deep + 1, n),
            rng.uniform(-40, 40, n),
            np.ldexp(rng.uniform(-1, 1, n), rng.integers(-info.nmant - 8, 6, n)),
            [0.0, 40.0, -40.0, 4000.0, -4000.0, float(info.max), -float(info.max)],
        ]
    )
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def soft_cases(dtype, n=250):
    x = logits(dtype, n, 1)
    y = np.resize(np.array(SOFT_LABELS), x.size).astype(dtype)
    np.random.default_rng(2).shuffle(y)
    y[x.size // 2 :: 3] = np.round(y[x.size // 2 :: 3].astype(np.float64))
    return x, y


def cancelling_cases(dtype, n=120):
    """Labels next to sigmoid(x), where the gradient vanishes, and beyond 1, where the loss does."""
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(-15, 15, n), rng.standard_normal(2 * n)]).astype(dtype)
    near = so.sigmoid(x)
    bits = near.view(f"i{near.dtype.itemsize}") + rng.integers(-3, 4, near.size).astype(
        f"i{near.dtype.itemsize}"
    )
    y = bits.view(dtype).copy()
    y[::5] = near[::5] * (1 + np.asarray(2.0 ** rng.integers(-20, -1, y[::5].size), dtype))
    # loss = 0 at y = softplus(x) / x.
    beyond = np.abs(x) > 0.5
    zero = (so.softplus(x.astype(np.float64)) / x).astype(dtype)
    third = np.arange(x.size) % 3 == 0
    y[beyond & third] = zero[beyond & third]
    return x, y


@functools.cache
def exact(kind, dtype, what):
    x, y = {"soft": soft_cases, "cancelling": cancelling_cases}[kind](dtype)
    function = getattr(reference, what)
    return [function(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def check(function, dtype, kind, loss_bound, grad_bound):
    x, y = {"soft": soft_cases, "cancelling": cancelling_cases}[kind](dtype)
    with np.errstate(all="ignore"):
        loss, grad = function(x, y)
    error, i = worst_ulp_error(loss, exact(kind, dtype, "sigmoid_cross_entropy"), dtype)
    assert error <= loss_bound, ("loss", x[i], y[i], error)
    error, i = worst_ulp_error(grad, exact(kind, dtype, "sigmoid_cross_entropy_grad"), dtype)
    assert error <= grad_bound, ("grad", x[i], y[i], error)


def ours(x, y):
    return so.sigmoid_cross_entropy(x, y, reduction="none", return_grad=True)


def test_subnormal_loss():
    """Labels so small that y x is next to the least normal number; found by the search."""
    rng = np.random.default_rng(0)
    x = -rng.uniform(700, 1400, 200)
    y = np.ldexp(np.round(rng.uniform(1, 2, 200), 4), -rng.integers(1028, 1074, 200))
    x, y = (
        np.append(x, float.fromhex("-0x1.d61d143071d69p+9")),
        np.append(y, float.fromhex("0x0.004001p-1022")),
    )
    want = [reference.sigmoid_cross_entropy(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    assert worst_ulp_error(ours(x, y)[0], want, np.float64)[0] <= 0.76


def test_gradient_of_tiny_logits_beside_one_half():
    """The gradient is next to x / 4, with nothing left of the terms; found by the search."""
    x = np.append(np.ldexp(np.random.default_rng(0).uniform(-1, 1, 200), -np.arange(200) * 5), 0.0)
    x[-1] = float.fromhex("0x1.34daf78d05325p-54")
    want = [reference.sigmoid_cross_entropy_grad(float(a), 0.5) for a in x]
    assert worst_ulp_error(ours(x, np.full_like(x, 0.5))[1], want, np.float64)[0] <= 2


def naive_probability(x, y):
    p = 1 / (1 + np.exp(-x))
    return -(y * np.log(p) + (1 - y) * np.log(1 - p)), p - y


def naive_logits(x, y):
    return np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x))), so.sigmoid(x) - y


def naive_difference(x, y):
    return ours(x, y)[0], so.sigmoid(x) - y


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_elements(dtype):
    check(ours, dtype, "soft", LOSS_BOUND[dtype], GRAD_BOUND[dtype])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cancelling_elements(dtype):
    """Labels outside [0, 1] let the two terms cancel: the bound holds, and where next to nothing is
    left of float64 terms, 2^-105 of them (they are computed in double length)."""
    x, y = cancelling_cases(dtype)
    for got, what in zip(ours(x, y), WHAT, strict=True):
        right = exact("cancelling", dtype, what)
        for xi, yi, value, exact_value in zip(x, y, got, right, strict=True):
            xi, yi = float(xi), float(yi)
            size = abs(getattr(reference, what)(xi, 0.0) * (1 - yi)) + abs(
                getattr(reference, what)(xi, 1.0) * yi
            )
            allowed = CANCELLING_BOUND[dtype] * unit(exact_value, dtype) + size * mpf(2) ** -105
            assert abs(mpf(float(value)) - exact_value) <= allowed, (what, xi, yi)


def test_cancelling_cases_cancel():
    for dtype in (np.float64, np.float32):
        x, y = cancelling_cases(dtype)
        loss, grad = ours(x, y)
        assert np.sum(np.abs(grad) < 1e-5 * np.abs(y)) > 50
        assert np.sum(np.abs(loss) < 1e-5) > 10


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("naive", [naive_probability, naive_logits, naive_difference])
def test_checks_refuse_the_usual_formulas(naive, dtype):
    with pytest.raises(AssertionError):
        check(naive, dtype, "soft", 1.5, 2.0)
    with pytest.raises(AssertionError):
        check(naive, dtype, "cancelling", 1.5, 2.0)


def test_acceptance_values():
    x, y = np.array([1, 1, -4000, -4000]), np.array([0, 0, 0, 1])
    assert so.sigmoid_cross_entropy(x, y, negatives=False, reduction="sum") == 4000.0
    assert so.sigmoid_cross_entropy(x, y, reduction="sum") == 4002.6265233750364
    assert so.sigmoid_cross_entropy(x, y, reduction="sum").dtype == np.float64


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_special_values(dtype):
    x = np.array([np.inf, -np.inf, np.inf, -np.inf, np.nan, 0.0, 1.0]).astype(dtype)
    y = np.array([1, 0, 0, 1, 1, np.nan, 1]).astype(dtype)
    loss, grad = ours(x, y)
    assert same_bits(loss[:4], np.array([0, 0, np.inf, np.inf]).astype(dtype))
    assert np.isnan(loss[4:6]).all()
    assert np.isnan(grad[4:6]).all()
    np.testing.assert_array_equal(grad[:4].astype(float), [0, 0, 1, -1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_subnormal_results(dtype):
    """Losses and gradients far below the normal numbers have one rounding."""
    info = np.finfo(dtype)
    x = np.linspace(np.log(info.smallest_subnormal) - 1, np.log(info.tiny) + 1, 101).astype(dtype)
    tiny = (info.smallest_subnormal * np.arange(101)).astype(dtype)
    for logit, label in ((x, np.zeros_like(x)), (-x, np.ones_like(x)), (x, tiny)):
        loss, grad = ours(logit, label)
        pairs = list(zip(map(float, logit), map(float, label), strict=True))
        wanted = [reference.sigmoid_cross_entropy(*p) for p in pairs]
        assert worst_ulp_error(loss, wanted, dtype)[0] <= 0.55
        wanted = [reference.sigmoid_cross_entropy_grad(*p) for p in pairs]
        assert worst_ulp_error(grad, wanted, dtype)[0] <= 0.55


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("negatives", [True, False])
@pytest.mark.parametrize("weights", list(itertools.product([False, True], repeat=2)))
def test_weights_and_negatives(dtype, negatives, weights):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((12, 5)) * 5).astype(dtype)
    y = np.round(rng.random((12, 5))).astype(dtype)
    weight = rng.uniform(0.1, 3, (12, 1)).astype(dtype) if weights[0] else None
    pos_weight = rng.uniform(0.1, 9, 5).astype(dtype) if weights[1] else None
    options = {"weight": weight, "pos_weight": pos_weight, "negatives": negatives}
    loss, grad = so.sigmoid_cross_entropy(x, y, reduction="none", return_grad=True, **options)
    w = np.broadcast_to(1 if weight is None else weight, x.shape)
    p = np.broadcast_to(1 if pos_weight is None else pos_weight, x.shape)
    total = mpf(0)
    for i in np.ndindex(x.shape):
        values = float(x[i]), float(y[i]), float(w[i]), float(p[i])
        want = reference.sigmoid_cross_entropy(*values)
        want_grad = reference.sigmoid_cross_entropy_grad(*values)
        if not negatives and y[i] == 0:
            want = want_grad = mpf(0)
        total += want
        assert ulp_error(loss[i], want, dtype) <= 0.6
        assert ulp_error(grad[i], want_grad, dtype) <= 0.6
    assert ulp_error(
        so.sigmoid_cross_entropy(x, y, reduction="sum", **options), total, dtype
    ) <= 0.6  # fmt: skip
    mean, mean_grad = so.sigmoid_cross_entropy(x, y, return_grad=True, **options)
    assert ulp_error(mean, total / x.size, dtype) <= 0.6
    np.testing.assert_allclose(mean_grad, grad / x.size, rtol=2 * np.finfo(dtype).eps, atol=0)


def test_weights_broadcast_and_keep_the_dtype():
    x, y = np.ones((2, 3), np.float32), np.ones((2, 3), np.int8)
    loss = so.sigmoid_cross_entropy(x, y, weight=2, pos_weight=[1.0, 2.0, 3.0], reduction="none")
    assert loss.dtype == np.float32
    single = so.sigmoid_cross_entropy(x[0, :1], [1], reduction="none")[0]
    np.testing.assert_allclose(loss, np.tile([2, 4, 6], (2, 1)) * single, rtol=1e-7)


def test_labels_of_integers_and_bools_keep_the_dtype_and_floats_promote():
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    y = np.array([0, 1, 0, 1, 1, 0, 1])
    want = so.sigmoid_cross_entropy(x, y.astype(np.float32), reduction="none")
    for labels in (y, y.astype(bool), y.astype(np.uint8)):
        assert same_bits(so.sigmoid_cross_entropy(x, labels, reduction="none"), want)
    assert so.sigmoid_cross_entropy(x, y.astype(float), reduction="none").dtype == np.float64


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1023, 1025, 8191, 8192, 8193, 50_001])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sums_have_one_rounding(n, dtype):
    rng = np.random.default_rng(n)
    x = (rng.standard_normal(n) * 8).astype(dtype)
    y = np.round(rng.random(n)).astype(dtype)
    # The elements in a wider type: what the sum is made of.
    wide = x.astype(np.longdouble)
    t = np.log1p(np.exp(-np.abs(wide)))
    exact_sum = np.sum(np.where(y == 1, np.maximum(-wide, 0), np.maximum(wide, 0)) + t)
    total = so.sigmoid_cross_entropy(x, y, reduction="sum")
    mean = so.sigmoid_cross_entropy(x, y)
    for got, want in ((total, exact_sum), (mean, exact_sum / n)):
        error = abs(np.longdouble(got) - want) / reference.ulp(float(want), dtype)
        assert error <= 0.55, error


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mean_of_ten_million_elements(dtype, isa):
    """Of a few elements, so that the exact mean is known."""
    if isa != so.available_isas()[-1]:
        return  # it takes long, and means have the same bits on all levels
    x = (np.random.default_rng(5).standard_normal(64) * 5).astype(dtype)
    which = np.random.default_rng(6).integers(0, 64, 10_000_019)
    y = np.resize(np.array([0, 1, 0.25], dtype), 64)
    losses = [
        reference.sigmoid_cross_entropy(float(a), float(b)) for a, b in zip(x, y, strict=True)
    ]
    counts = np.bincount(which, minlength=64)
    with mpmath.workprec(300):
        total = mpmath.fsum(int(n) * v for n, v in zip(counts, losses, strict=True))
        mean = total / which.size
    x, y = x[which], y[which]
    assert ulp_error(so.sigmoid_cross_entropy(x, y), mean, dtype) <= 1
    assert ulp_error(so.sigmoid_cross_entropy(x, y, reduction="sum"), total, dtype) <= 1


def test_negative_weights_and_nan():
    x, y = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 1.0])
    plain, plain_grad = ours(x, y)
    settings = {"reduction": "none", "return_grad": True}
    for name, factor in (("weight", [-3, -3, -3]), ("pos_weight", [1, -3, -3])):
        loss, grad = so.sigmoid_cross_entropy(x, y, **{name: factor}, **settings)
        np.testing.assert_allclose(loss, plain * factor, rtol=1e-15)
        np.testing.assert_allclose(grad, plain_grad * factor, rtol=1e-15)
        for values in so.sigmoid_cross_entropy(x, y, **{name: [1, np.nan, 1]}, **settings):
            assert np.isnan(values).tolist() == [False, True, False]
        assert np.isnan(so.sigmoid_cross_entropy(x, y, **{name: [1, np.nan, 1]}))


@pytest.mark.parametrize("negatives", [True, False])
@pytest.mark.parametrize("factor", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_positive_weight_of_a_dropped_term_does_not_count(dtype, factor, negatives):
    x = np.linspace(-3, 3, 37).astype(dtype)
    y = np.where(np.arange(37) % 2, 1, 0.0).astype(dtype)
    settings = {"negatives": negatives, "reduction": "none", "return_grad": True}
    plain = so.sigmoid_cross_entropy(x, y, **settings)
    got = so.sigmoid_cross_entropy(x, y, pos_weight=factor, **settings)
    for p, g in zip(plain, got, strict=True):
        np.testing.assert_array_equal(g[::2], p[::2])
        assert not np.isfinite(g[1::2].astype(float)).any()


@pytest.mark.parametrize("n", [10, 3000, 40_001])
def test_mean_of_losses_whose_sum_overflows(n):
    loss, gradient = so.sigmoid_cross_entropy(np.full(n, 1e308), np.zeros(n), return_grad=True)
    assert loss == 1e308
    assert same_bits(gradient, np.full(n, 1 / n))
    weight = np.where(np.arange(n) % 2, 3.0, 5e-324)
    loss = so.sigmoid_cross_entropy(np.full(n, 1e307), np.zeros(n), weight=weight)
    assert loss == pytest.approx(3e307 * (n // 2 / n), rel=4e-16)
    assert so.sigmoid_cross_entropy(np.full(n, 1e308), np.zeros(n), reduction="sum") == np.inf
    signs = np.where(np.arange(n) < n // 2, 1.0, -1.0)[: n // 2 * 2]
    x = np.full(len(signs), 1e308)
    assert so.sigmoid_cross_entropy(x, 0 * x, weight=signs, reduction="sum") == 0


def test_check_of_sums_refuses_a_float32_sum():
    x = (np.random.default_rng(0).standard_normal(50_001) * 8).astype(np.float32)
    loss = so.sigmoid_cross_entropy(x, np.ones_like(x), reduction="none")
    running = np.add.accumulate(loss)[-1]
    total = np.sum(loss.astype(np.float64))
    assert abs(running - total) / reference.ulp(total, np.float32) > 2
    ours = so.sigmoid_cross_entropy(x, np.ones_like(x), reduction="sum")
    assert abs(ours - total) / reference.ulp(total, np.float32) < 0.55


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_layouts(dtype, data):
    x = data.draw(arrays(dtype, elements=st.floats(-30, 30)))
    y = data.draw(arrays(dtype, shape=x.shape, elements=st.floats(0, 1)))
    x = laid_out(x, data.draw(st.sampled_from(LAYOUTS)))
    y = laid_out(y, data.draw(st.sampled_from(LAYOUTS)))
    w = data.draw(arrays(dtype, shape=x.shape[-1:], elements=st.floats(0, 4)))
    for reduction in ("none", "sum", "mean"):
        got = so.sigmoid_cross_entropy(x, y, weight=w, reduction=reduction, return_grad=True)
        want = so.sigmoid_cross_entropy(
            np.ascontiguousarray(x), np.ascontiguousarray(y), weight=w, reduction=reduction,
            return_grad=True,
        )  # fmt: skip
        assert same_bits(got[0], want[0])
        assert same_bits(got[1], want[1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sizes_and_threads(dtype, threads):
    """An element has the same bits alone and among others; a sum for any number of threads."""
    rng = np.random.default_rng(8)
    x = (rng.standard_normal(100_003) * 8).astype(dtype)
    y = rng.random(100_003).astype(dtype)
    loss, grad = ours(x, y)
    for n in EDGE_SIZES:
        assert same_bits(ours(x[:n], y[:n])[0], loss[:n])
        assert same_bits(ours(x[:n], y[:n])[1], grad[:n])
    total = so.sigmoid_cross_entropy(x, y, reduction="sum")
    so.set_num_threads(1)
    assert same_bits(so.sigmoid_cross_entropy(x, y, reduction="sum"), total)
    so.set_num_threads(threads)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_neighbours_do_not_count(dtype):
    """Regression: a lane that cancels took the whole vector along the careful way, signs of zeros
    included."""
    x = np.full(64, -1.0, dtype)
    y = np.full(64, 0.5, dtype)
    w = np.zeros(64, dtype)
    alone = so.sigmoid_cross_entropy(x, y, weight=w, reduction="sum", return_grad=True)[1]
    x[5] = 0
    x[40] = 0
    among = so.sigmoid_cross_entropy(x, y, weight=w, reduction="sum", return_grad=True)[1]
    rest = x != 0
    assert same_bits(among[rest], alone[rest])


def test_gradient_of_none_is_that_of_the_sum():
    x, y = soft_cases(np.float32)
    none = so.sigmoid_cross_entropy(x, y, reduction="none", return_grad=True)[1]
    assert same_bits(so.sigmoid_cross_entropy(x, y, reduction="sum", return_grad=True)[1], none)


def test_empty():
    x = np.empty((0, 3), np.float32)
    assert so.sigmoid_cross_entropy(x, x, reduction="none").shape == (0, 3)
    assert so.sigmoid_cross_entropy(x, x, reduction="sum") == 0
    with pytest.raises(ValueError, match=r"logits has shape \(0, 3\)"):
        so.sigmoid_cross_entropy(x, x)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"labels": np.ones(2)},
            ValueError,
            r"logits has shape \(3,\) and labels has shape \(2,\)",
        ),
        ({"labels": np.ones(3, complex)}, TypeError, "labels has dtype complex128"),
        ({"weight": np.ones(2)}, ValueError, r"weight has shape \(2,\); it must broadcast"),
        ({"pos_weight": np.ones((2, 2))}, ValueError, r"pos_weight has shape \(2, 2\)"),
        ({"weight": ["a"]}, TypeError, "weight has dtype"),
        ({"reduction": "max"}, ValueError, "reduction='max' is not allowed"),
    ],
)
def test_rejected_input(change, error, message):
    arguments = {"logits": np.ones(3), "labels": np.ones(3)} | change
    with pytest.raises(error, match=message):
        so.sigmoid_cross_entropy(**arguments)


def test_float16_overflow_is_infinite():
    x = np.full(4, -60000.0, np.float16)
    assert so.sigmoid_cross_entropy(x, np.ones(4), reduction="sum").dtype == np.float64
    with np.errstate(over="ignore"):
        assert np.isinf(so.sigmoid_cross_entropy(x, np.ones(4, np.float16), reduction="sum"))
        assert so.sigmoid_cross_entropy(x, np.ones(4, np.float16)) == 60000


def test_reference_agrees_with_mpmath_at_one_point():
    with mpmath.workprec(200):
        want = -mpmath.log(1 / (1 + mpmath.exp(mpf(-3))))
        assert abs(reference.sigmoid_cross_entropy(3.0, 1.0) - want) < mpf(2) ** -150
