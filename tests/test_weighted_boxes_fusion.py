"""weighted_boxes_fusion against its definition and the example of ensemble-boxes."""

import numpy as np
import pytest
import reference
from digests import crowd
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOAT_DTYPES

import stableops as so

# The example of ensemble-boxes' README: two models, two classes.
BOXES = np.array(
    [
        [0.00, 0.51, 0.81, 0.91],
        [0.10, 0.31, 0.71, 0.61],
        [0.01, 0.32, 0.83, 0.93],
        [0.02, 0.53, 0.11, 0.94],
        [0.03, 0.24, 0.12, 0.35],
        [0.04, 0.56, 0.84, 0.92],
        [0.12, 0.33, 0.72, 0.64],
        [0.38, 0.66, 0.79, 0.95],
        [0.08, 0.49, 0.21, 0.89],
    ]
)
SCORES = np.array([0.9, 0.8, 0.2, 0.4, 0.7, 0.5, 0.8, 0.7, 0.3])
CLASSES = np.array([0, 1, 0, 1, 1, 1, 1, 1, 0])
MODELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])

# What ensemble-boxes 1.0.9 returns for it.
FUSED = {
    0: [0.1066667, 0.3166667, 0.7133333, 0.62],
    1: [0.0018182, 0.4754545, 0.8136364, 0.9136364],
    2: [0.03, 0.24, 0.12, 0.35],
}
EXPECTED_SCORES = {
    "avg": [0.8, 0.7333333, 0.4666667, 0.2666667, 0.2333333, 0.1666667, 0.1],
    "max": [0.9, 0.8, 0.7, 0.4, 0.35, 0.25, 0.15],
    "box_and_model_avg": [0.8, 0.4666667, 0.3666667, 0.2666667, 0.2333333, 0.1666667, 0.1],
    "absent_model_aware_avg": [0.8, 0.4666667, 0.44, 0.2666667, 0.2333333, 0.1666667, 0.1],
}
# Which of FUSED come first, second and third.
EXPECTED_ORDER = {
    "avg": [0, 1, 2],
    "max": [1, 0, 2],
    "box_and_model_avg": [0, 2, 1],
    "absent_model_aware_avg": [0, 2, 1],
}


@pytest.mark.parametrize("conf_type", sorted(EXPECTED_SCORES))
def test_example_of_ensemble_boxes(conf_type):
    boxes, scores, classes = so.weighted_boxes_fusion(
        BOXES,
        SCORES,
        CLASSES,
        MODELS,
        iou_threshold=0.5,
        skip_threshold=0.0001,
        weights=[2, 1],
        conf_type=conf_type,
    )
    # Its fused boxes pass through float32.
    assert np.allclose(scores, EXPECTED_SCORES[conf_type], rtol=0, atol=1e-7)
    first = [FUSED[i] for i in EXPECTED_ORDER[conf_type]]
    assert np.allclose(boxes[:3], first, rtol=0, atol=2e-7)
    assert sorted(classes.tolist()) == [0, 0, 1, 1, 1, 1, 1]


def check_against_definition(boxes, scores, idxs, model, threshold, minimum, weights):
    fused, fused_scores, classes = so.weighted_boxes_fusion(
        boxes,
        scores,
        idxs,
        model,
        iou_threshold=threshold,
        skip_threshold=minimum,
        weights=weights,
    )
    expected = reference.weighted_boxes_fusion(
        boxes, scores, idxs, model, threshold, minimum, weights
    )
    assert classes.tolist() == [int(c) for c in expected[2]]
    assert np.allclose(fused_scores, expected[1], rtol=1e-14, atol=0)
    assert np.allclose(fused, np.reshape(expected[0], (-1, 4)), rtol=1e-13, atol=1e-13)
    return len(fused)


@pytest.mark.parametrize("n", [0, 1, 9, 60, 250])
def test_crowd(n):
    rng = np.random.default_rng(n)
    boxes, scores = crowd(rng, n, np.float64)
    idxs, model = rng.integers(-2, 2, n), rng.integers(0, 3, n)
    for threshold, minimum in ((0.55, 0.0), (0.3, 0.2)):
        count = check_against_definition(
            boxes, scores, idxs, model, threshold, minimum, [1.0, 0.5, 2.0]
        )
        assert n < 60 or 0 < count < 0.9 * n


@given(st.integers(0, 2**32))
def test_small_sets(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 12))
    corner = rng.random((n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 2, (n, 2))], axis=1)
    check_against_definition(
        boxes, rng.random(n), rng.integers(0, 2, n), rng.integers(0, 2, n), 0.4, 0.1, [1.0, 1.0]
    )


def test_equal_ious_go_to_the_cluster_opened_first():
    # The third box has IoU 3/5 with either of the others, which have 1/3 with one another.
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [1, 0, 5, 4.0]])
    for scores in ([0.9, 0.8, 0.7], [0.8, 0.9, 0.7]):
        fused, _, _ = so.weighted_boxes_fusion(boxes, scores, [0, 0, 0], iou_threshold=0.55)
        first = int(np.argmax(scores))
        assert boxes[1 - first].tolist() in fused.tolist()
        assert boxes[first].tolist() not in fused.tolist()
        check_against_definition(boxes, np.array(scores), [0, 0, 0], [0, 0, 0], 0.55, 0.0, [1.0])


def test_iou_equal_to_the_threshold_does_not_match():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1.0]])
    for threshold, count in ((0.5, 2), (np.nextafter(0.5, 0), 1)):
        fused, _, _ = so.weighted_boxes_fusion(boxes, [0.9, 0.8], [0, 0], iou_threshold=threshold)
        assert len(fused) == count


# Parameters and special values


def test_overflowing_scores():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1.0]])
    plain = so.weighted_boxes_fusion(boxes, [0.6, 0.5, 0.4], [0, 0, 0])
    more = so.weighted_boxes_fusion(boxes, [0.6, 0.5, 0.4], [0, 0, 0], allows_overflow=True)
    assert plain[1] == pytest.approx([0.5], rel=1e-15)
    assert more[1] == pytest.approx([1.5], rel=1e-15)


def test_what_is_left_out():
    boxes = np.array(
        [
            [0, 0, 1, 1],
            [2, 2, 2, 3],
            [5, 5, 4, 6],
            [0, np.nan, 1, 1],
            [0, 0, np.inf, 1],
            [7, 7, 8, 8],
        ]
    )
    scores = [0.5, 0.9, 0.9, 0.9, 0.9, np.nan]
    fused, fused_scores, classes = so.weighted_boxes_fusion(boxes, scores, [3] * 6)
    assert fused.tolist() == [[0, 0, 1, 1]]
    assert fused_scores.tolist() == [0.5]
    assert classes.tolist() == [3]


def test_scores_of_zero():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1.9]])
    fused, scores, _ = so.weighted_boxes_fusion(boxes, [0.0, 0.0], [0, 0])
    assert fused.tolist() == [[0, 0, 2, 2]]
    assert scores.tolist() == [0]


def test_model_without_weights_counts_from_zero():
    _, scores, _ = so.weighted_boxes_fusion([[0, 0, 1, 1]], [0.8], [0], [3])
    assert scores.tolist() == [0.2]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_dtypes(dtype):
    boxes, scores, classes = so.weighted_boxes_fusion(
        BOXES.astype(dtype), SCORES.astype(dtype), CLASSES, MODELS
    )
    assert boxes.dtype == dtype
    assert scores.dtype == dtype
    assert classes.dtype == np.int64
    wide = so.weighted_boxes_fusion(
        BOXES.astype(dtype).astype(float), SCORES.astype(dtype).astype(float), CLASSES, MODELS
    )
    assert np.array_equal(boxes, wide[0].astype(dtype))
    assert np.array_equal(scores, wide[1].astype(dtype))


# Rejected input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf_type": "mean"}, "conf_type='mean' is not allowed; it must be 'avg'"),
        ({"weights": [1.0, -1.0]}, r"weights\[1\] is -1.0; weights must be finite"),
        ({"weights": []}, r"weights has shape \(0,\)"),
        ({"weights": [0.0, 0.0]}, "weights are all 0"),
        ({"weights": [1.0]}, r"model\[1\] is 1; it must be in \[0, 1\)"),
        ({"model": [0, -1]}, r"model\[1\] is -1"),
        ({"model": [0, 2**40]}, "model has the id 1099511627776"),
        ({"model": [0]}, r"model has shape \(1,\)"),
        ({"iou_threshold": 1.1}, "iou_threshold=1.1"),
        ({"skip_threshold": -0.1}, "skip_threshold=-0.1"),
    ],
)
def test_rejected(options, message):
    arguments = {"model": [0, 1], **options}
    with pytest.raises(ValueError, match=message):
        so.weighted_boxes_fusion(np.ones((2, 4)), [1, 1], [0, 0], **arguments)


def test_ids_of_no_boxes_have_any_dtype():
    boxes, scores, idxs = so.weighted_boxes_fusion(np.zeros((0, 4)), [], [], [])
    assert (len(boxes), len(scores), len(idxs)) == (0, 0, 0)
