"""softmax_cross_entropy: loss and gradient with every digit, labels of every kind."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import growth_in_mib
from mpmath import mp, mpf
from reference import same_bits
from reference_rows import (
    PRECISION,
    adversarial_rows,
    bound,
    dominated_rows,
    error,
    long_rows,
    number,
    row,
    worst_error,
)
from strategies import FLOAT_DTYPES, LAYOUTS, arrays, finite, laid_out

import stableops as so


def exact_weights(n, label, smoothing=0.0, weight=None):
    """The weight of each class, exactly: label is an index or one number a class."""
    with mp.workprec(PRECISION):
        y = (
            [mpf(int(i == label)) for i in range(n)]
            if np.ndim(label) == 0
            else [number(v) for v in label]
        )
        w = [mpf(1)] * n if weight is None else [number(v) for v in weight]
        s = mpf(smoothing)
        return [a * ((1 - s) * b + s / n) for a, b in zip(w, y, strict=True)]


def check(got, x, weights):
    """Loss and gradient of one row within the bounds of the API."""
    loss, gradient = got
    exact_loss, exact_gradient = row(x).cross_entropy(weights)
    assert error(loss, exact_loss, x.dtype) <= bound(1.0, 1.5, x.dtype)
    assert worst_error(gradient, exact_gradient, x.dtype) <= bound(1.0, 2.0, x.dtype)


# --- agreement with the reference ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("name", adversarial_rows(np.float64))
def test_adversarial_rows(name, dtype):
    x = adversarial_rows(dtype)[name]
    for label in {0, len(x) - 1, int(np.argmax(x))}:
        check(so.softmax_cross_entropy(x, label, return_grad=True), x, exact_weights(len(x), label))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("k", [1, 9, 999])
def test_dominated_rows(k, dtype):
    x = dominated_rows(k).astype(dtype)
    for label in (0, k):
        labels = np.full(len(x), label)
        losses, gradients = so.softmax_cross_entropy(x, labels, reduction="none", return_grad=True)
        for i in range(len(x)):
            exact = row(x[i])
            loss = -exact.log_softmax()[label]
            p = exact.softmax()
            with mp.workprec(PRECISION):
                gradient = [p[c] - int(c == label) for c in (0, k)]
            assert error(losses[i], loss, dtype) <= bound(1.0, 1.5, dtype)
            assert worst_error(gradients[i, [0, k]], gradient, dtype) <= bound(1.0, 2.0, dtype)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_long_rows(dtype):
    for x, places in long_rows(dtype):
        p, log_p = row(x).softmax(), row(x).log_softmax()
        for label in places[:2]:
            loss, gradient = so.softmax_cross_entropy(x, label, return_grad=True)
            assert error(loss, -log_p[label], dtype) <= bound(1.0, 1.5, dtype)
            for i in places:
                with mp.workprec(PRECISION):
                    exact = p[i] - int(i == label)
                assert error(gradient[i], exact, dtype) <= bound(1.0, 2.0, dtype)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_any_finite_row(dtype, data):
    x = data.draw(arrays(dtype, min_dims=1, max_dims=1, elements=finite(dtype)))
    x = x[np.isfinite(x.astype(np.float64))]
    if x.size:
        label = data.draw(st.integers(0, x.size - 1))
        check(so.softmax_cross_entropy(x, label, return_grad=True), x, exact_weights(x.size, label))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("scale", [0.5, 4, 60])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothing_weights_and_soft_labels(smoothing, scale, dtype):
    rng = np.random.default_rng(11)
    for n in (2, 10, 33, 130):
        x = (rng.standard_normal(n) * scale).astype(dtype)
        w = rng.random(n).astype(np.float64 if dtype == np.float64 else np.float32)
        soft = rng.dirichlet(np.ones(n)).astype(dtype)
        hot = np.eye(n, dtype=dtype)[int(np.argmax(x))]
        for label in (int(np.argmax(x)), 0, soft, hot):
            for weight in (None, w):
                got = so.softmax_cross_entropy(
                    x,
                    label,
                    weight=weight,
                    label_smoothing=smoothing,
                    reduction="sum",
                    return_grad=True,
                )
                v = exact_weights(n, label, smoothing, weight)
                loss, gradient = row(x).cross_entropy(v)
                assert error(got[0], loss, dtype) <= bound(1.0, 1.5, dtype)
                p, total = row(x).softmax(), mp.fsum(v)
                for g, e, q, a in zip(got[1], gradient, p, v, strict=True):
                    # p V and v may cancel: 2^-60 of the larger one is allowed besides.
                    allowed = bound(1.0, 2.0, dtype)
                    slack = mpf(2) ** -60 * max(abs(q * total), abs(a))
                    close = mpf(float(g)) - e
                    assert error(g, e, dtype) <= allowed or abs(close) <= slack


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_labels_of_both_signs(dtype):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal(20) * 5).astype(dtype)
    y = rng.standard_normal(20).astype(dtype)
    loss, gradient = so.softmax_cross_entropy(x, y, return_grad=True)
    exact_loss, exact_gradient = row(x).cross_entropy(exact_weights(20, y))
    assert error(loss, exact_loss, dtype) <= 1
    assert worst_error(gradient, exact_gradient, dtype) <= 1


def test_acceptance():
    loss = so.softmax_cross_entropy
    assert loss(np.array([1, 1, 1, 4000]), np.array([1, 0, 0, 0])) == 3999.0
    assert loss(np.array([40.0, 0, 0]), 0) == 8.496708510583178e-18
    assert loss(np.array([40.0, 0, 0]), [1, 0, 0]) == 8.496708510583178e-18
    assert loss(np.array([700.0, 0]), 0) == 9.85967654375977e-305
    value, gradient = loss(np.array([3.0]), 0, return_grad=True)
    assert same_bits(value, 0.0)
    assert same_bits(gradient, np.zeros(1))


# --- the checks bite ---


def clipped(x, label):
    p = np.exp(x - x.max())
    p /= p.sum()
    gradient = p.copy()
    gradient[label] -= 1
    return -np.log(np.clip(p[label], 1e-9, 1)), gradient


def minus_log_softmax(x, label):
    z = x - x.max()
    log_p = z - np.log(np.exp(z).sum())
    gradient = np.exp(log_p)
    gradient[label] -= 1
    return -log_p[label], gradient


@pytest.mark.parametrize("naive", [clipped, minus_log_softmax])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_naive_versions_fail(naive, dtype):
    x = adversarial_rows(dtype)["dominant by 50.0 over 9"]
    with pytest.raises(AssertionError):
        check(naive(x, 0), x, exact_weights(len(x), 0))


# --- reductions and options, against a loop over samples ---


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_reductions(smoothing, weighted, reduction, dtype):
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((50, 7)) * 4).astype(dtype)
    k = rng.integers(0, 7, 50)
    k[::6] = -100
    w = rng.random(7).astype(dtype).astype(np.float64 if dtype == np.float64 else np.float32)
    weight = w if weighted else None
    loss, gradient = so.softmax_cross_entropy(
        x, k, weight=weight, label_smoothing=smoothing, reduction=reduction, return_grad=True
    )
    assert loss.dtype == gradient.dtype == dtype
    exact = [
        (mpf(0), [mpf(0)] * 7)
        if c < 0
        else row(r).cross_entropy(exact_weights(7, c, smoothing, weight))
        for r, c in zip(x, k, strict=True)
    ]
    used = k[k >= 0]
    divisor = mpf(1)
    if reduction == "mean":
        divisor = mp.fsum(number(w[c]) for c in used) if weighted else mpf(len(used))
    if reduction == "none":
        assert worst_error(loss, [e[0] for e in exact], dtype) <= bound(1.0, 1.5, dtype)
    else:
        total = mp.fsum(e[0] for e in exact) / divisor
        assert error(loss, total, dtype) <= bound(1.0, 1.0, dtype)
    for i in range(50):
        assert same_bits(gradient[i], np.zeros(7, dtype)) or k[i] >= 0
        for g, e in zip(gradient[i], exact[i][1], strict=True):
            assert error(g, e / divisor, dtype) <= bound(1.0, 2.0, dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mean_of_ten_million_samples(dtype, isa):
    """Of a few rows, so that the exact mean is known."""
    if isa != so.available_isas()[-1]:
        return  # it takes long, and means have the same bits on all levels
    rows = (np.random.default_rng(5).standard_normal((64, 2)) * 5).astype(dtype)
    which = np.random.default_rng(6).integers(0, 64, 10_000_019)
    labels = (which % 2).astype(np.int64)
    losses = [row(r).cross_entropy(exact_weights(2, i % 2))[0] for i, r in enumerate(rows)]
    with mp.workprec(PRECISION):
        counts = np.bincount(which, minlength=64)
        total = mp.fsum(int(n) * v for n, v in zip(counts, losses, strict=True))
        mean = total / len(which)
    x = rows[which]
    assert error(so.softmax_cross_entropy(x, labels), mean, dtype) <= 1
    assert error(so.softmax_cross_entropy(x, labels, reduction="sum"), total, dtype) <= 1


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_index_dtypes(dtype):
    x = np.random.default_rng(0).standard_normal((6, 5))
    k = np.array([0, 4, 2, 2, 1, 3])
    assert same_bits(so.softmax_cross_entropy(x, k.astype(dtype)), so.softmax_cross_entropy(x, k))


def test_integer_labels_of_the_shape_of_the_logits_are_weights():
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    hot = np.eye(3, dtype=np.int64)[[2, 0, 1, 1]]
    expected = so.softmax_cross_entropy(x, hot.astype(np.float32), reduction="none")
    for labels in (hot, hot.astype(bool), hot.astype(np.uint8)):
        got = so.softmax_cross_entropy(x, labels, reduction="none")
        assert got.dtype == np.float32
        assert same_bits(got, expected)
    by_index = so.softmax_cross_entropy(x, [2, 0, 1, 1], reduction="none")
    np.testing.assert_array_max_ulp(expected, by_index, 1)


def test_zero_weight_drops_a_term_at_minus_infinity():
    x = np.array([1.0, -np.inf, 0.5])
    loss, gradient = so.softmax_cross_entropy(x, [0.5, 0.0, 0.5], return_grad=True)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert gradient[1] == 0
    assert so.softmax_cross_entropy(x, [0.5, 0.1, 0.5]) == np.inf
    assert so.softmax_cross_entropy(x, 1) == np.inf


def test_special_values():
    for value in (np.nan, np.inf):
        loss, gradient = so.softmax_cross_entropy([1.0, value, 2.0], 0, return_grad=True)
        assert np.isnan(loss)
        assert np.isnan(gradient).all()
    largest = np.finfo(np.float64).max
    assert so.softmax_cross_entropy([largest, -largest], 0) == 0
    assert so.softmax_cross_entropy([largest, -largest], 1) == np.inf
    assert so.softmax_cross_entropy([largest, -largest], [0.5, 0.25]) == largest / 2
    assert (
        so.softmax_cross_entropy([[largest, -largest]], [1], weight=[1, 0.25], reduction="sum")
        == largest / 2
    )


def test_negative_weights_and_nan():
    """Allowed as in PyTorch: a class's weight is a factor like any other."""
    x = np.array([[0.5, 1.0], [2.0, -1.0], [0.0, 3.0]])
    k = np.array([0, 1, 1])
    for dtype in FLOAT_DTYPES:
        for i in range(3):
            got = so.softmax_cross_entropy(
                x[i].astype(dtype), k[i], weight=[-2, 0.75], reduction="sum", return_grad=True
            )
            check(got, x[i].astype(dtype), exact_weights(2, k[i], weight=[-2, 0.75]))
    each, gradient = so.softmax_cross_entropy(
        x, k, weight=[np.nan, 2], reduction="none", return_grad=True
    )
    assert np.isnan(each).tolist() == [True, False, False]
    assert np.isnan(gradient).tolist() == [[True] * 2, [False] * 2, [False] * 2]
    assert np.isnan(so.softmax_cross_entropy(x, k, weight=[np.nan, 2]))
    assert np.isfinite(so.softmax_cross_entropy(x[1:], k[1:], weight=[np.nan, 2]))


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_weights_that_sum_to_zero(dtype):
    """The mean is the total / 0."""
    x = np.array([[0.5, 1.0], [2.0, -1.0]], dtype)
    for weight, expected in (([-1, 1], np.inf), ([1, -1], -np.inf)):
        loss, gradient = so.softmax_cross_entropy(x, [0, 1], weight=weight, return_grad=True)
        assert loss == expected
        assert np.isnan(gradient.astype(float)).all()
    loss, gradient = so.softmax_cross_entropy(x, [0, 0], weight=[0, 1], return_grad=True)
    assert np.isnan(loss.astype(float))


@pytest.mark.parametrize("rows", [10, 300])
def test_mean_of_losses_whose_sum_overflows(rows):
    x = np.tile([1e308, 0.0], (rows, 1))
    labels = np.ones(rows, int)
    loss, gradient = so.softmax_cross_entropy(x, labels, return_grad=True)
    assert loss == 1e308
    np.testing.assert_allclose(gradient, np.tile([1 / rows, -1 / rows], (rows, 1)), rtol=4e-16)
    for settings in ({"label_smoothing": 0.25}, {"weight": [5e-324, 4.0]}, {"weight": [1, 1e30]}):
        one = so.softmax_cross_entropy(x[0], 1, return_grad=True, **settings)
        all_ = so.softmax_cross_entropy(x, labels, return_grad=True, **settings)
        assert all_[0] == pytest.approx(1e308 if "weight" in settings else one[0], rel=4e-16)
        gradient = np.array([1, -1]) if "weight" in settings else one[1]
        np.testing.assert_allclose(all_[1] * rows, np.tile(gradient, (rows, 1)), rtol=1e-15)
    loss, gradient = so.softmax_cross_entropy(x, np.tile([0.0, 1.0], (rows, 1)), return_grad=True)
    assert loss == 1e308
    np.testing.assert_allclose(gradient, np.tile([1 / rows, -1 / rows], (rows, 1)), rtol=4e-16)
    assert so.softmax_cross_entropy(x, labels, reduction="sum") == np.inf
    # On the way to a sum that does not overflow.
    signs = np.repeat([[1.0], [-1.0]], rows // 2, axis=0)
    y = np.array([0.0, 1.0]) * signs
    assert so.softmax_cross_entropy(x, y, reduction="sum") == 0
    assert so.softmax_cross_entropy(x, y) == 0


def test_mean_of_large_weights():
    x = np.array([[0.5, 1.0], [2.0, -1.0], [0.0, 3.0]])
    plain = so.softmax_cross_entropy(x, [0, 0, 0], return_grad=True)
    large = so.softmax_cross_entropy(x, [0, 0, 0], weight=[1e308, 1], return_grad=True)
    np.testing.assert_allclose(large[0], plain[0], rtol=1e-15)
    np.testing.assert_allclose(large[1], plain[1], rtol=1e-15)


def test_ignored_samples():
    x = np.full((3, 4), np.nan, np.float32)
    loss, gradient = so.softmax_cross_entropy(x, [-100] * 3, return_grad=True)
    assert np.isnan(loss)
    assert same_bits(gradient, np.zeros((3, 4), np.float32))
    loss = so.softmax_cross_entropy(x, [7] * 3, ignore_index=7, reduction="none")
    assert same_bits(loss, np.zeros(3, np.float32))
    assert so.softmax_cross_entropy(x, [-100] * 3, reduction="sum") == 0
    x[1] = [1, 2, 3, 4]
    loss, gradient = so.softmax_cross_entropy(x, [-100, 2, -100], return_grad=True)
    assert same_bits(loss, so.softmax_cross_entropy(x[1], 2))
    assert same_bits(gradient[1], so.softmax_cross_entropy(x[1], 2, return_grad=True)[1])


def test_as_torch_weighted_mean():
    """Values of torch.nn.functional.cross_entropy 2.x in float64."""
    x = np.array([[0.5, -1.0, 2.0], [1.0, 1.0, 0.0]])
    w = np.array([0.2, 0.5, 0.3])
    got = so.softmax_cross_entropy(x, [2, 1], weight=w, label_smoothing=0.1)
    log_p = so.log_softmax(x)
    nll = -(0.3 * log_p[0, 2] + 0.5 * log_p[1, 1])
    smooth = -(log_p * w).sum()
    assert got == pytest.approx((0.9 * nll + 0.1 / 3 * smooth) / 0.8, rel=1e-15)


# --- axes, layouts, batches ---


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("kind", ["index", "weights", "smoothed"])
def test_axis_and_layouts(kind, dtype, layout):
    rng = np.random.default_rng(9)
    x = laid_out((rng.standard_normal((3, 21, 5, 7)) * 5).astype(dtype), layout)
    k = rng.integers(0, 21, (3, 5, 7))
    options = {"label_smoothing": 0.1} if kind == "smoothed" else {}
    labels = rng.random(x.shape).astype(dtype) if kind == "weights" else k
    rows = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, 21)
    row_labels = (
        np.ascontiguousarray(labels.transpose(0, 2, 3, 1)).reshape(-1, 21)
        if kind == "weights"
        else k.ravel()
    )
    for reduction in ("none", "mean"):
        loss, gradient = so.softmax_cross_entropy(
            x, labels, axis=1, reduction=reduction, return_grad=True, **options
        )
        expected, expected_gradient = so.softmax_cross_entropy(
            rows, row_labels, reduction=reduction, return_grad=True, **options
        )
        assert same_bits(loss, expected.reshape(loss.shape))
        moved = np.ascontiguousarray(gradient.transpose(0, 2, 3, 1)).reshape(-1, 21)
        assert same_bits(moved, expected_gradient)
        assert same_bits(
            so.softmax_cross_entropy(x, labels, axis=1, reduction=reduction, **options), loss
        )
    for i in (0, 50, 104):
        alone = so.softmax_cross_entropy(rows[i], row_labels[i], reduction="sum", **options)
        assert same_bits(
            alone, so.softmax_cross_entropy(rows, row_labels, reduction="none", **options)[i]
        )


def test_long_rows_alone_and_together(threads):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((3, 70_000)) * 3).astype(np.float32)
    k = np.array([69_999, 12, 8192])
    loss, gradient = so.softmax_cross_entropy(x, k, reduction="none", return_grad=True)
    for i in range(3):
        alone = so.softmax_cross_entropy(x[i], k[i], reduction="none", return_grad=True)
        assert same_bits(alone[0], loss[i])
        assert same_bits(alone[1], gradient[i])
    many = so.softmax_cross_entropy(np.repeat(x, 5, 0), np.repeat(k, 5), reduction="none")
    assert same_bits(many[::5], loss)
    assert (gradient[range(3), k] < 0).all()


@pytest.mark.parametrize("cols", [96, 1001, 8193, 20_011])
def test_gradients_of_long_rows(cols, threads):
    """Rows that float32 lanes accept and rows that they do not, and labels in any block."""
    x = (np.random.default_rng(cols).standard_normal((5, cols)) * 6).astype(np.float32)
    x[1] *= 100
    x[3] -= 70
    k = np.array([cols - 1, 0, cols // 2, cols - 17, 8192 % cols])
    loss, gradient = so.softmax_cross_entropy(x, k, reduction="none", return_grad=True)
    across = so.softmax_cross_entropy(np.asfortranarray(x), k, reduction="none", return_grad=True)
    assert same_bits(across[0], loss)
    assert same_bits(np.ascontiguousarray(across[1]), gradient)


# --- bad input ---


def test_labels_out_of_range():
    x = np.zeros((2, 3, 2))
    with pytest.raises(IndexError, match=r"labels\[1, 0\] is 3; allowed are 0 to 2"):
        so.softmax_cross_entropy(x, [[0, 1], [3, 2]], axis=1)
    with pytest.raises(IndexError, match=r"labels\[0, 1\] is -1"):
        so.softmax_cross_entropy(x, [[0, -1], [3, 2]], axis=1)
    with pytest.raises(IndexError, match="labels is 4"):
        so.softmax_cross_entropy(np.zeros(3), 4)
    with pytest.raises(IndexError, match=r"labels\[0\]"):
        so.softmax_cross_entropy(np.zeros((1, 3)), np.array([2**64 - 100], np.uint64))


def test_rejected():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\); it must be \(2,\)"):
        so.softmax_cross_entropy(x, [0, 1, 2])
    with pytest.raises(TypeError, match="labels has dtype float64"):
        so.softmax_cross_entropy(x, np.zeros(2))
    with pytest.raises(TypeError, match="labels has dtype bool"):
        so.softmax_cross_entropy(x, np.zeros(2, bool))
    with pytest.raises(ValueError, match=r"weight has shape \(2,\); it must be \(3,\)"):
        so.softmax_cross_entropy(x, [0, 1], weight=[1, 2])
    for smoothing in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="label_smoothing="):
            so.softmax_cross_entropy(x, [0, 1], label_smoothing=smoothing)
    with pytest.raises(ValueError, match="reduction='avg'"):
        so.softmax_cross_entropy(x, [0, 1], reduction="avg")
    with pytest.raises(ValueError, match="no classes"):
        so.softmax_cross_entropy(np.zeros((2, 0)), [0, 1])
    for labels in (0, 1.0):
        with pytest.raises(ValueError, match=r"logits has shape \(\) and no classes"):
            so.softmax_cross_entropy(3.0, labels)
    with pytest.raises(TypeError, match="axis"):
        so.softmax_cross_entropy(x, [0, 1], axis=(0, 1))
    with pytest.raises(ValueError, match="axis=2"):
        so.softmax_cross_entropy(x, [0, 1], axis=2)


def test_no_samples():
    x = np.zeros((0, 3), ml_dtypes.bfloat16)
    k = np.zeros(0, np.int64)
    assert np.isnan(so.softmax_cross_entropy(x, k).astype(float))
    assert np.isnan(so.softmax_cross_entropy(x, []).astype(float))
    assert so.softmax_cross_entropy(x, k, reduction="sum") == 0
    loss, gradient = so.softmax_cross_entropy(x, k, reduction="none", return_grad=True)
    assert loss.shape == (0,)
    assert gradient.shape == (0, 3)


def test_memory_is_that_of_the_gradient(isa):
    """Logits of 64 MB: no probabilities, no one-hot labels, no copy, and no gradient unasked."""
    setup = """
x = np.random.default_rng(0).random((1024, 16, 1024), np.float32)
labels, columns = np.zeros((1024, 16), np.int64), np.zeros((1024, 1024), np.int64)
so.softmax_cross_entropy(x[:4], labels[:4])"""
    calls = """
so.softmax_cross_entropy(x, labels)
so.softmax_cross_entropy(x, columns, axis=1)
so.softmax_cross_entropy(x, x, axis=1)
so.softmax_cross_entropy(x[:, ::2, ::-1], labels[:, ::2])
so.softmax(x, out=x)
so.log_softmax(x, 1, out=x)
so.logsumexp(x)"""
    assert growth_in_mib(isa, setup, calls) < 8
    assert (
        growth_in_mib(isa, setup, "y = so.softmax_cross_entropy(x, labels, return_grad=True)") < 72
    )
