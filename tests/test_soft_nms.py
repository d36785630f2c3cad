"""soft_nms against its definition."""

import numpy as np
import pytest
import reference
from digests import crowd
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOAT_DTYPES, LAYOUTS, laid_out
from test_nms import box_sets, near_tie

import stableops as so

METHODS = ["linear", "gaussian"]


def check_against_definition(boxes, scores, threshold=0.3, *, method, sigma=0.5, minimum=0.001):
    indices, decayed = so.soft_nms(
        boxes, scores, threshold, method=method, sigma=sigma, score_threshold=minimum
    )
    expected = reference.soft_nms(boxes, scores, threshold, method, sigma, minimum)
    assert indices.dtype == np.int64
    assert decayed.dtype == scores.dtype
    assert indices.tolist() == [i for i, _ in expected]
    # A factor is within 18 u, relative to 1; up to len(scores) of them, none of which is below the
    # smallest factor that leaves a score above the minimum.
    exact = np.array([score for _, score in expected])
    allowed = 18 * 2.0**-53 * len(scores) + 0.5 * np.finfo(scores.dtype).eps
    assert np.all(np.abs(decayed - exact) <= allowed * np.maximum(exact, scores.max(initial=0)))


# Agreement with the definition


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_definition(dtype, method, data):
    boxes = data.draw(box_sets(dtype, max_boxes=16))
    order = data.draw(st.permutations(range(len(boxes))))
    scores = (np.array(order, np.float64) + 1) ** 0.5 / 5
    layout = data.draw(st.sampled_from([name for name in LAYOUTS if name != "broadcast"]))
    check_against_definition(
        laid_out(boxes, layout),
        scores,
        data.draw(st.sampled_from([0.0, 0.2, 0.3, 0.7])),
        method=method,
        sigma=data.draw(st.sampled_from([0.05, 0.5, 3.0])),
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 17, 150])
def test_crowd(dtype, method, n):
    boxes, scores = crowd(np.random.default_rng(n), n, dtype)
    check_against_definition(boxes, scores, method=method)


def plain_soft_nms(boxes, scores, threshold, method, sigma, minimum):
    """The definition, in float64 and without any pruning."""
    boxes = boxes.astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    scores = scores.astype(np.float64)
    live = scores > minimum
    kept = []
    while live.any():
        best = int(np.argmax(np.where(live, scores, -1)))
        kept.append((best, scores[best]))
        live[best] = False
        sides = np.minimum(boxes[:, 2:], boxes[best, 2:]) - np.maximum(
            boxes[:, :2], boxes[best, :2]
        )
        common = np.clip(sides, 0, None).prod(axis=1)
        iou = common / (area + area[best] - common)
        if method == "linear":
            factor = np.where(iou > threshold, 1 - iou, 1)
        else:
            factor = np.exp(-(iou**2) / sigma)
        scores = np.where(live, scores * factor, scores)
        live &= scores > minimum
    return kept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["crowd", "decades", "huge", "line", "one place"])
def test_many_boxes(dtype, method, kind):
    """Enough for grids of several levels; 1300 factors of at most 18 u each."""
    n = 1300
    rng = np.random.default_rng(6)
    corners = rng.uniform(-500, 500, (n, 2))
    sizes = rng.uniform(20, 60, (n, 2))
    if kind == "decades":
        sizes = 10 ** rng.uniform(-4, 3, (n, 2))
    elif kind == "huge":
        sizes[::3] = 5000
    elif kind == "line":
        corners[:, 1], sizes[:, 1] = 7, 3
    elif kind == "one place":
        corners = corners / 200
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(dtype)
    scores = rng.permutation(np.linspace(0.02, 0.98, n))
    indices, decayed = so.soft_nms(boxes, scores, 0.3, method=method)
    expected = plain_soft_nms(boxes, scores, 0.3, method, 0.5, 0.001)
    assert indices.tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(decayed, [score for _, score in expected], rtol=2.6e-12)


def test_threshold_is_compared_exactly():
    rng = np.random.default_rng(8)
    both_ways = set()
    for _ in range(50):
        boxes, thresholds = near_tie(np.float32, rng)
        for threshold in thresholds:
            check_against_definition(boxes, np.array([1.0, 0.5]), threshold, method="linear")
            _, scores = so.soft_nms(boxes, np.array([1.0, 0.5]), threshold)
            both_ways.add(scores[-1] == 0.5)
    assert both_ways == {True, False}


def test_equal_scores_go_by_index():
    boxes = np.array([[0, 0, 4, 4], [9, 9, 10, 10], [0, 0, 4, 2], [20, 20, 21, 21]], np.float32)
    # Box 2 decays from 0.8 to 0.4 and then ties with boxes 1 and 3.
    indices, scores = so.soft_nms(boxes, np.array([0.9, 0.4, 0.8, 0.4]))
    assert indices.tolist() == [0, 1, 2, 3]
    assert scores.tolist() == [0.9, 0.4, 0.4, 0.4]


# Parameters


def test_parameters_change_the_result():
    boxes, scores = crowd(np.random.default_rng(1), 80)
    base = so.soft_nms(boxes, scores)
    assert len(so.soft_nms(boxes, scores, score_threshold=0.1)[0]) < len(base[0])
    assert len(so.soft_nms(boxes, scores, 0.9)[0]) > len(base[0])
    gentle = so.soft_nms(boxes, scores, method="gaussian", sigma=5.0)
    hard = so.soft_nms(boxes, scores, method="gaussian", sigma=0.05)
    assert gentle[1].sum() > hard[1].sum()


def test_scores_are_left_out():
    boxes = np.arange(5)[:, None] * 10 + np.array([0, 0, 1, 1])
    scores = np.array([np.nan, 0.001, -1.0, 0.5, np.inf])
    indices, decayed = so.soft_nms(boxes, scores)
    assert indices.tolist() == [4, 3]
    assert decayed.tolist() == [np.inf, 0.5]


# Rejected input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "hard"}, ValueError, "method='hard' is not allowed; it must be 'linear'"),
        ({"sigma": 0.0}, ValueError, "sigma=0.0 is not allowed"),
        ({"sigma": np.nan}, ValueError, "sigma=nan"),
        ({"score_threshold": -1.0}, ValueError, "score_threshold=-1.0 is not allowed"),
        ({"iou_threshold": 2}, ValueError, "iou_threshold=2 is not allowed"),
        ({"sigma": "wide"}, TypeError, "sigma='wide'"),
    ],
)
def test_rejected(options, error, message):
    with pytest.raises(error, match=message):
        so.soft_nms(np.ones((2, 4)), np.ones(2), **options)


def test_rejected_shapes():
    with pytest.raises(ValueError, match=r"boxes has shape \(2, 3\)"):
        so.soft_nms(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match=r"scores has shape \(3,\)"):
        so.soft_nms(np.ones((2, 4)), np.ones(3))
