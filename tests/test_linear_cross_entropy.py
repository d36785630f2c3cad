"""linear_cross_entropy beside the two operations that it joins, and beside the definition."""

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import growth_in_mib
from reference import same_bits
from strategies import laid_out

import stableops as so


def random(rng, shape, dtype=np.float32):
    return rng.uniform(-2, 2, shape).astype(dtype)


@st.composite
def problems(draw, dtype=np.float32):
    """(x, w, labels, bias, settings), some tokens ignored."""
    leading = draw(st.lists(st.integers(1, 6), max_size=3))
    features = draw(st.sampled_from([1, 3, 16, 33, 150]))
    classes = draw(st.sampled_from([1, 2, 10, 33, 100, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, classes, leading)
    labels[rng.random(leading) < 0.2] = -100
    bias = random(rng, classes, dtype) if draw(st.booleans()) else None
    settings = {
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    x, w = random(rng, (*leading, features), dtype), random(rng, (classes, features), dtype)
    return x, w, labels, bias, settings


def unfused(x, w, labels, bias, chunk=4096, **settings):
    """The same by the two public operations, token chunk after token chunk."""
    logits = so.linear(x, w, bias)
    loss, g = so.softmax_cross_entropy(logits, labels, return_grad=True, **settings)
    rows, columns = g.reshape(-1, len(w)), x.reshape(-1, w.shape[1])
    grad_weight, grad_bias = np.zeros_like(w), np.zeros(len(w), w.dtype)
    for first in range(0, len(rows), chunk):
        part = slice(first, first + chunk)
        _, gw, gb = so.linear_backward(rows[part], columns[part], w)
        grad_weight = grad_weight + gw if first else gw
        grad_bias = grad_bias + gb if first else gb
    return loss, so.linear_backward(g, x, w)[0], grad_weight, grad_bias


def assert_same(x, w, labels, bias, chunk=4096, **settings):
    loss, grads = so.linear_cross_entropy(x, w, labels, bias, return_grad=True, **settings)
    for got, want in zip(
        (loss, *grads), unfused(x, w, labels, bias, chunk, **settings), strict=True
    ):
        assert same_bits(np.asarray(got), np.asarray(want))
    assert same_bits(
        np.asarray(so.linear_cross_entropy(x, w, labels, bias, **settings)), np.asarray(loss)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_bits_of_the_two_operations(dtype, data):
    x, w, labels, bias, settings = data.draw(problems(dtype))
    assert_same(x, w, labels, bias, **settings)


# classes, tokens, tokens a chunk, features (from 8 on, grad_weight is a matrix product)
CHUNKS = [
    (13_000_000, 2, 1, 2),
    (300_000, 50, 41, 2),
    (300_000, 50, 41, 9),
    (40_000, 260, 256, 2),
    (3, 9000, 4096, 2),
]


@pytest.mark.parametrize(("classes", "tokens", "chunk", "features"), CHUNKS)
def test_bits_of_several_chunks(classes, tokens, chunk, features, isa):
    if isa == "baseline" and chunk == 1:
        pytest.skip("emulated fma takes half a minute, and no fewer classes have chunks of 1")
    assert min(48 * 2**20 // 4 // classes, 4096) // (128 if chunk >= 128 else 1) * (
        128 if chunk >= 128 else 1
    ) == (chunk if classes < 13_000_000 else 0)
    rng = np.random.default_rng(1)
    x, w = random(rng, (tokens, features)), random(rng, (classes, features))
    assert_same(x, w, rng.integers(0, classes, tokens), random(rng, classes), chunk)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tokens_do_not_depend_on_each_other(dtype, threads):
    rng = np.random.default_rng(2)
    x, w, bias = (
        random(rng, (300, 70), dtype),
        random(rng, (700, 70), dtype),
        random(rng, 700, dtype),
    )
    labels = rng.integers(0, 700, 300)
    both = {"reduction": "none", "return_grad": True, "output_mask": (True, False, False)}
    loss, (gx, gw, gb) = so.linear_cross_entropy(x, w, labels, bias, **both)
    assert gw is None
    assert gb is None
    for i in (0, 17, 299):
        alone, (alone_gx, _, _) = so.linear_cross_entropy(x[i], w, labels[i], bias, **both)
        assert same_bits(np.asarray(alone), np.asarray(loss[i]))
        assert same_bits(alone_gx, gx[i])


def exact_loss(x, w, labels, bias):
    """Each token's loss and gradients of their sum, from exact logits."""
    with mpmath.workprec(400):
        m = [[mpmath.mpf(float(v)) for v in row] for row in w]
        gw = [[mpmath.mpf(0)] * len(m[0]) for _ in m]
        losses, gx, gb = [], [], [mpmath.mpf(0)] * len(m)
        for row, k in zip(x, labels, strict=True):
            token = [mpmath.mpf(float(v)) for v in row]
            z = [
                mpmath.fsum(a * b for a, b in zip(token, c, strict=True)) + float(b0)
                for c, b0 in zip(m, bias, strict=True)
            ]
            rest = mpmath.fsum(mpmath.exp(v - z[k]) for j, v in enumerate(z) if j != k)
            losses.append(mpmath.log1p(rest))
            p = [mpmath.exp(v - z[k]) / (1 + rest) for v in z]
            p[k] = -rest / (1 + rest)
            gx.append(
                [mpmath.fsum(p[j] * m[j][i] for j in range(len(m))) for i in range(len(token))]
            )
            for j, pj in enumerate(p):
                gb[j] += pj
                for i, v in enumerate(token):
                    gw[j][i] += pj * v
        to_float = np.vectorize(float)
        return [to_float(np.array(a, object)) for a in (losses, gx, gw, gb)]


def test_definition():
    """Where the logits are exact, every digit is right; a confident token's loss is no 0."""
    rng = np.random.default_rng(3)
    x = rng.integers(-8, 9, (12, 5)).astype(np.float64)
    w = rng.integers(-8, 9, (20, 5)).astype(np.float64)
    bias = rng.integers(-3, 4, 20).astype(np.float64)
    labels = np.argmax(x @ w.T + bias, axis=1)
    labels[::4] = 3
    want = exact_loss(x, w, labels, bias)
    settings = {"reduction": "none", "return_grad": True}
    for dtype in (np.float64, np.float32):
        eps = np.finfo(dtype).eps
        loss, grads = so.linear_cross_entropy(
            x.astype(dtype), w.astype(dtype), labels, bias.astype(dtype), **settings
        )
        assert np.all(want[0] > 0)
        assert np.min(want[0]) < 1e-9
        np.testing.assert_allclose(loss, want[0], rtol=1.5 * eps)
        for got, exact, scale in zip(grads, want[1:], (200, 200, 12), strict=True):
            np.testing.assert_allclose(got, exact, rtol=0, atol=scale * eps)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_rounded_once(dtype):
    rng = np.random.default_rng(4)
    x, w, bias = random(rng, (30, 20), dtype), random(rng, (50, 20), dtype), random(rng, 50, dtype)
    labels = rng.integers(0, 50, 30)
    wide = [a.astype(np.float32) for a in (x, w, bias)]
    loss, grads = so.linear_cross_entropy(x, w, labels, bias, return_grad=True)
    want, want_grads = so.linear_cross_entropy(*wide[:2], labels, wide[2], return_grad=True)
    assert same_bits(np.asarray(loss), np.asarray(want).astype(dtype))
    for got, exact in zip(grads, want_grads, strict=True):
        assert same_bits(got, exact.astype(dtype))


@pytest.mark.parametrize("layout", ["F", "reversed", "sliced", "transposed", "broadcast", "offset"])
@given(problem=problems())
def test_layouts(layout, problem):
    x, w, labels, bias, settings = problem
    x2, w2 = laid_out(x, layout), laid_out(w, layout)
    x, w = np.ascontiguousarray(x2), np.ascontiguousarray(w2)
    loss, grads = so.linear_cross_entropy(x, w, labels, bias, return_grad=True, **settings)
    again, grads2 = so.linear_cross_entropy(x2, w2, labels, bias, return_grad=True, **settings)
    assert same_bits(np.asarray(again), np.asarray(loss))
    for a, b in zip(grads2, grads, strict=True):
        assert same_bits(a, b)


def test_nothing_to_do():
    w = np.ones((3, 4))
    loss, (gx, gw, gb) = so.linear_cross_entropy(
        np.ones((0, 4)), w, np.zeros(0, int), reduction="sum", return_grad=True
    )
    assert loss == 0
    assert gx.shape == (0, 4)
    assert not gw.any()
    assert not gb.any()
    assert np.isnan(so.linear_cross_entropy(np.ones((0, 4)), w, np.zeros(0, int)))
    loss, grads = so.linear_cross_entropy(np.ones((2, 4)), w, [-100, -100], return_grad=True)
    assert np.isnan(loss)
    assert not any(g.any() for g in grads)
    loss = so.linear_cross_entropy(np.ones((2, 0)), np.ones((3, 0)), [0, 1])
    assert abs(loss - np.log(3)) < 1e-15
    loss, (gx, gw, gb) = so.linear_cross_entropy(
        np.ones((2, 0)), np.ones((3, 0)), [0, 1], reduction="sum", return_grad=True
    )
    assert gx.shape == (2, 0)
    assert gw.shape == (3, 0)
    assert abs(gb - np.array([-1 / 3, -1 / 3, 2 / 3])).max() < 1e-15


X, W = np.ones((2, 4)), np.ones((3, 4))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"input": np.ones((2, 5))}, ValueError, r"input has shape \(2, 5\) and weight has shape"),
        ({"input": np.ones(())}, ValueError, r"input has shape \(\)"),
        ({"weight": np.ones(4)}, ValueError, r"weight has shape \(4,\); it must be \(classes"),
        ({"weight": np.ones((0, 4))}, ValueError, "with at least one class"),
        ({"bias": np.ones(2)}, ValueError, r"bias has shape \(2,\); it must be \(3,\)"),
        ({"labels": [0]}, ValueError, r"labels has shape \(1,\); it must be \(2,\) for input"),
        ({"labels": [0, 3]}, IndexError, r"labels\[1\] is 3; allowed are 0 to 2 and ignore_index"),
        ({"labels": [0.0, 1.0]}, TypeError, "labels has dtype float64"),
        ({"label_smoothing": 2}, ValueError, "label_smoothing=2 is not allowed"),
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"input": X + 1j}, TypeError, "input has dtype complex128"),
        ({"output_mask": (True,), "return_grad": True}, TypeError, "output_mask"),
    ],
)
def test_refusals(arguments, error, text):
    with pytest.raises(error, match=text):
        so.linear_cross_entropy(**{"input": X, "weight": W, "labels": [0, 1], **arguments})


def test_memory_is_bounded(isa):
    """64 MB where the logits alone would be 192 MB."""
    features = 1 if isa == "baseline" else 8  # emulated fma is slow
    setup = f"""
rng = np.random.default_rng(0)
x, w = rng.random((1500, {features}), np.float32), rng.random((32_064, {features}), np.float32)
labels = rng.integers(0, 32_064, 1500)
so.linear_cross_entropy(x[:8], w[:500], labels[:8] % 500, return_grad=True)"""
    calls = "result = so.linear_cross_entropy(x, w, labels, return_grad=True)"
    assert growth_in_mib(isa, setup, calls) < 64


def test_mean_of_losses_whose_sum_overflows():
    x, w = np.full((300, 1), 1e308), np.array([[1.0], [0.0]])
    loss, gradients = so.linear_cross_entropy(x, w, np.ones(300, int), return_grad=True)
    assert loss == 1e308
    np.testing.assert_allclose(gradients[0], np.full((300, 1), 1 / 300), rtol=1e-15)


def test_labels_of_no_tokens_have_any_dtype():
    loss = so.linear_cross_entropy(np.zeros((0, 2)), np.ones((3, 2)), [], reduction="sum")
    assert loss == 0
