"""nms and batched_nms: the kept list is the one of exact arithmetic, whatever the boxes."""

from fractions import Fraction
from functools import cache

import ml_dtypes
import numpy as np
import pytest
import reference
from digests import crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import FLOAT_DTYPES, LAYOUTS, extreme_values, laid_out

import stableops as so

THRESHOLDS = [0.0, 5e-324, 0.1, 0.3, 1 / 3, 0.5, 0.7, 0.9, 1.0]


@st.composite
def box_sets(draw, dtype, max_boxes=24):
    """Boxes that overlap often: on a small lattice, scaled by a power of two, or of odd numbers."""
    n = draw(st.integers(0, max_boxes))
    kind = draw(st.sampled_from(["lattice", "scaled", "extreme", "jittered"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    boxes = rng.integers(-6, 7, (n, 4)).astype(np.float64)
    boxes[:, 2:] = boxes[:, :2] + rng.integers(-1, 9, (n, 2))
    info = ml_dtypes.finfo(dtype)
    if kind == "scaled":
        lowest = int(np.log2(float(info.smallest_subnormal)))
        boxes = np.ldexp(boxes, draw(st.integers(lowest, int(info.maxexp) - 5)))
    elif kind == "extreme":
        values = np.array([*extreme_values(dtype), np.nan, np.inf, -np.inf])
        boxes = np.where(rng.random((n, 4)) < 0.5, rng.choice(values, (n, 4)), boxes)
    elif kind == "jittered":
        boxes += rng.normal(0, 1e-3, (n, 4))
    return boxes.astype(dtype)


@st.composite
def score_sets(draw, n):
    """Scores with ties, signed zeros, NaN and infinities."""
    dtype = draw(st.sampled_from(FLOAT_DTYPES))
    some = st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.5, 0.75, -1.0, np.nan, np.inf, -np.inf])
    return np.array(draw(st.lists(some, min_size=n, max_size=n)), np.float64).astype(dtype)


def check_against_definition(function, boxes, scores, threshold, **options):
    kept = function(boxes, scores, threshold, **options)
    assert kept.dtype == np.int64
    assert kept.tolist() == reference.nms(boxes, scores, threshold, **options)


# Agreement with the definition


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_definition(dtype, data):
    boxes = data.draw(box_sets(dtype))
    scores = data.draw(score_sets(len(boxes)))
    threshold = data.draw(st.sampled_from(THRESHOLDS))
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "max_output": st.integers(0, 30),
                "score_threshold": st.sampled_from([-np.inf, -1.0, 0.0, 0.25, 0.5]),
            },
        )
    )
    layout = data.draw(st.sampled_from([name for name in LAYOUTS if name != "broadcast"]))
    check_against_definition(so.nms, laid_out(boxes, layout), scores, threshold, **options)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_definition_by_class(dtype, data):
    boxes = data.draw(box_sets(dtype))
    n = len(boxes)
    scores = data.draw(score_sets(n))
    ids = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 2**53, 2**53 + 1])
    idxs = np.array(data.draw(st.lists(ids, min_size=n, max_size=n)), np.int64)
    limit = data.draw(st.none() | st.integers(0, 9))
    kept = so.batched_nms(boxes, scores, idxs, 0.4, max_output=limit)
    assert kept.tolist() == reference.nms(boxes, scores, 0.4, idxs=idxs, max_output=limit)


def near_tie(dtype, rng):
    """Two overlapping boxes of dtype and the three float64 thresholds around their exact IoU."""
    exponent = int(rng.integers(-50, 50)) if dtype != np.float16 else int(rng.integers(-4, 8))
    size = rng.uniform(1, 9, 4)
    corner = rng.uniform(-1, 1, 2)
    boxes = np.ldexp([[*corner, *(corner + size[:2])], [0.0, 0.0, *size[2:]]], exponent)
    boxes = boxes.astype(dtype)
    a, b = reference.exact_boxes(boxes)
    middle = float(reference.exact_iou(a, b))
    near = [np.nextafter(middle, 0), middle, np.nextafter(middle, 1)]
    return boxes, [float(t) for t in near if 0 < t <= 1]


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_thresholds_within_an_ulp_of_the_iou(dtype):
    rng = np.random.default_rng(3)
    both_ways = set()
    for _ in range(300):
        boxes, thresholds = near_tie(dtype, rng)
        for threshold in thresholds:
            check_against_definition(so.nms, boxes, [1.0, 0.5], threshold)
            both_ways.add(len(so.nms(boxes, [1.0, 0.5], threshold)))
    assert both_ways == {1, 2}


def float32_nms(boxes, scores, iou_threshold):
    """What a kernel does that rounds: IoU in float32."""

    def iou(a, b):
        x1, y1, x2, y2 = np.array(a, np.float32)
        u1, v1, u2, v2 = np.array(b, np.float32)
        width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), np.float32(0))
        height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), np.float32(0))
        overlap = width * height
        return float(overlap / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap))

    kept = reference.nms(boxes, scores, iou_threshold, iou=iou)
    return np.array(kept, np.int64)


def test_the_check_notices_rounding():
    rng = np.random.default_rng(3)

    def check_all():
        for _ in range(300):
            boxes, thresholds = near_tie(np.float32, rng)
            for threshold in thresholds:
                check_against_definition(float32_nms, boxes, [1.0, 0.5], threshold)

    with pytest.raises(AssertionError):
        check_all()


def test_iou_exactly_at_the_threshold_is_kept():
    """Torchvision issue 7165: an IoU of 1/5 in float32 is above the float64 0.2."""
    boxes = np.array([[0, 0, 3, 1], [2, 0, 5, 1]], np.float32)
    assert reference.exact_iou(*reference.exact_boxes(boxes)) == Fraction(1, 5)
    assert so.nms(boxes, [1.0, 0.5], 0.2).tolist() == [0, 1]
    assert so.nms(boxes, [1.0, 0.5], np.nextafter(0.2, 0)).tolist() == [0]
    assert float32_nms(boxes, [1.0, 0.5], 0.2).tolist() == [0]


# Special values


def test_boxes_without_area_are_kept():
    boxes = np.array([[0, 0, 9, 9], [1, 1, 1, 5], [5, 5, 2, 8], [0, 0, 9, 9]], np.float32)
    assert so.nms(boxes, [1, 0.9, 0.8, 0.7], 0.0).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_boxes_that_are_not_finite_suppress_nothing(bad):
    for column in range(4):
        boxes = np.tile(np.array([0.0, 0, 9, 9]), (4, 1))
        boxes[0, column] = bad
        boxes[2, column] = bad
        assert so.nms(boxes, [1, 0.9, 0.8, 0.7], 0.5).tolist() == [0, 1, 2]


def test_nan_scores_come_last_in_order():
    boxes = np.arange(5)[:, None] * 10 + np.array([0, 0, 1, 1])
    scores = np.array([np.nan, -np.inf, -np.nan, np.inf, 0])
    assert so.nms(boxes, scores, 0.5).tolist() == [3, 4, 1, 0, 2]
    assert so.nms(boxes, scores, 0.5, score_threshold=-np.inf).tolist() == [3, 4]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coordinates_at_the_limits(dtype):
    top, low = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    boxes = np.array(
        [
            [-top, -top, top, top],
            [-top, -top, top, top / 2],
            [-top, -top, 0, top],
            [0, 0, low, low],
            [0, 0, low, 2 * low],
            [0, 0, 3 * low, 2 * low],
            [-top, 0, top, low],
            [-top, 0, top, 2 * low],
        ],
        dtype,
    )
    scores = np.linspace(1, 0.1, len(boxes))
    for threshold in [*THRESHOLDS, 0.75, 0.4999999999999999]:
        check_against_definition(so.nms, boxes, scores, threshold)


# Many boxes: the grid


def integer_nms(boxes, scores, numerator, denominator):
    """The definition in int64 for integer boxes, one vector operation a kept box."""
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes[order].T.astype(np.int64)
    rest = np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1), order])
    kept = []
    while rest.size:
        x1, y1, x2, y2, area, index = rest
        kept.append(index[0])
        width = np.minimum(x2[0], x2) - np.maximum(x1[0], x1)
        height = np.minimum(y2[0], y2) - np.maximum(y1[0], y1)
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        alive = denominator * overlap <= numerator * (area[0] + area - overlap)
        alive[0] = False
        rest = rest[:, alive]
    return kept


def stress_sets(rng, n):
    """Sets that a grid may stumble over, in integers."""
    boxes, _ = crowd(rng, n)
    yield "crowd", np.rint(boxes)
    yield "one place", np.array([100, 100, 200, 220]) + rng.integers(-9, 10, (n, 4))
    boxes = rng.integers(0, 900, (n, 2))
    boxes = np.concatenate([boxes, boxes + rng.integers(1, 40, (n, 2))], axis=1)
    boxes[::97] = np.array([-5000, -5000, 6000, 6000]) + rng.integers(
        0, 2000, (len(boxes[::97]), 4)
    )
    yield "huge over small", boxes
    start = rng.integers(0, 20_000, n)
    yield "a line", np.stack([start, 0 * start, start + 50, 0 * start + 10], axis=1)
    size = np.rint(10.0 ** rng.uniform(0, 4, (n, 2)))
    corner = rng.integers(0, 10_000, (n, 2))
    yield "four decades of size", np.concatenate([corner, corner + size], axis=1)
    far = rng.integers(0, 300, (n, 2))
    far[0] = 1_000_000
    yield "one outlier", np.concatenate([far, far + 20], axis=1)
    strips = np.stack([0 * start, start, 0 * start + 20_000, start + 1], axis=1)
    strips[::2] = strips[::2][:, [1, 0, 3, 2]]
    yield "crossing strips", strips


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fraction", [(1, 16), (1, 4), (1, 2), (3, 4)])
@pytest.mark.parametrize("n", [600, 3000])
def test_grid_on_sets_that_stress_it(dtype, fraction, n):
    rng = np.random.default_rng(n)
    numerator, denominator = fraction
    for name, boxes in stress_sets(rng, n):
        scores = rng.integers(0, 2000, n) / 2048
        kept = so.nms(boxes.astype(dtype), scores, numerator / denominator)
        assert kept.tolist() == integer_nms(boxes, scores, numerator, denominator), name


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 159, 160, 161, 400, 401, 4096, 4097, 9000])
def test_sizes_at_which_the_method_changes(n):
    rng = np.random.default_rng(n)
    boxes = np.rint(crowd(rng, n)[0])
    scores = rng.integers(0, 50, n).astype(np.float32)
    assert so.nms(boxes, scores, 0.5).tolist() == integer_nms(boxes, scores, 1, 2)
    assert (
        so.nms(boxes, scores.astype(np.float64), 0.5, max_output=9).tolist()
        == (integer_nms(boxes, scores, 1, 2)[:9])
    )


def test_batches(threads):
    """Enough kept boxes that candidates are tested in batches, on several threads."""
    rng = np.random.default_rng(12)
    boxes = np.rint(crowd(rng, 20_000)[0])
    scores = rng.random(20_000)
    expected = expected_of_batches(boxes.tobytes(), scores.tobytes())
    assert len(expected) > 9000
    assert so.nms(boxes, scores, 0.75).tolist() == expected
    assert so.nms(boxes, scores, 0.75, max_output=9000).tolist() == expected[:9000]


@cache
def expected_of_batches(boxes, scores):
    boxes = np.frombuffer(boxes, np.float32).reshape(-1, 4)
    return integer_nms(boxes, np.frombuffer(scores), 3, 4)


def test_classes_in_parallel(threads):
    rng = np.random.default_rng(threads)
    n = 20_000
    boxes, scores = crowd(rng, n)
    idxs = rng.choice([7, -3, 2**62, 0, 5], n) * (rng.random(n) < 0.5) + rng.integers(0, 200, n)
    expected = [
        np.flatnonzero(idxs == c)[so.nms(boxes[idxs == c], scores[idxs == c], 0.5)]
        for c in np.unique(idxs)
    ]
    expected = np.concatenate(expected)
    expected = expected[np.lexsort((expected, -scores[expected]))]
    assert np.array_equal(so.batched_nms(boxes, scores, idxs, 0.5), expected)
    assert np.array_equal(so.batched_nms(boxes, scores, idxs, 0.5, max_output=17), expected[:17])


# Properties


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_survivors_survive(seed):
    boxes, scores = crowd(np.random.default_rng(seed), 700)
    kept = so.nms(boxes, scores, 0.5)
    assert 0 < len(kept) < 700
    assert so.nms(boxes[kept], scores[kept], 0.5).tolist() == list(range(len(kept)))
    assert so.batched_nms(boxes, scores, np.zeros(700, int), 0.5).tolist() == kept.tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int16, bool])
def test_integer_boxes(dtype):
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [1, 1, 1, 1]]).astype(dtype)
    scores = np.array([3, 2, 1], dtype)
    assert so.nms(boxes, scores, 0.5).tolist() == reference.nms(boxes, scores, 0.5)


def test_lists_and_scores_of_another_dtype():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]
    assert so.nms(boxes, np.array([1, 2, 3], np.float16), 0.5).tolist() == [2, 1]


# Rejected input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((3, 5)), np.ones(3), 0.5), ValueError, r"boxes has shape \(3, 5\)"),
        ((np.ones(4), np.ones(1), 0.5), ValueError, r"boxes has shape \(4,\); it must be \(N, 4\)"),
        ((np.ones((3, 4)), np.ones(2), 0.5), ValueError, r"scores has shape \(2,\)"),
        ((np.ones((3, 4)), np.ones((3, 1)), 0.5), ValueError, r"scores must be \(3,\)"),
        ((np.ones((3, 4)), np.ones(3), 1.5), ValueError, r"iou_threshold=1.5 .*\[0.0, 1.0\]"),
        ((np.ones((3, 4)), np.ones(3), -0.1), ValueError, "iou_threshold=-0.1"),
        ((np.ones((3, 4)), np.ones(3), np.nan), ValueError, "iou_threshold=nan"),
        ((np.ones((3, 4)), np.ones(3), "high"), TypeError, "iou_threshold='high' .*a number is"),
        ((np.ones((3, 4), complex), np.ones(3), 0.5), TypeError, "boxes has dtype complex128"),
        ((np.ones((3, 4)), np.ones(3, "U1"), 0.5), TypeError, "scores has dtype"),
    ],
)
def test_rejected(arguments, error, message):
    with pytest.raises(error, match=message):
        so.nms(*arguments)
    with pytest.raises(error, match=message):
        so.batched_nms(arguments[0], arguments[1], [0, 0, 0], arguments[2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_output": -1}, ValueError, "max_output=-1 is not allowed"),
        ({"max_output": 1.5}, TypeError, "max_output=1.5 is not allowed; an int or None is"),
        ({"score_threshold": np.nan}, ValueError, "score_threshold=nan"),
        ({"score_threshold": "low"}, TypeError, "score_threshold='low'"),
    ],
)
def test_rejected_options(options, error, message):
    with pytest.raises(error, match=message):
        so.nms(np.ones((1, 4)), np.ones(1), 0.5, **options)


def test_class_ids_of_no_boxes_have_any_dtype():
    for idxs in ([], np.zeros(0, bool), np.zeros(0, np.float32)):
        assert len(so.batched_nms(np.zeros((0, 4)), [], idxs, 0.5)) == 0
    with pytest.raises(ValueError, match="idxs has shape"):
        so.batched_nms(np.ones((2, 4)), np.ones(2), [], 0.5)


def test_rejected_class_ids():
    with pytest.raises(TypeError, match="idxs has dtype float64"):
        so.batched_nms(np.ones((2, 4)), np.ones(2), np.ones(2), 0.5)
    with pytest.raises(ValueError, match=r"idxs has shape \(3,\)"):
        so.batched_nms(np.ones((2, 4)), np.ones(2), np.ones(3, int), 0.5)


def test_limits_beyond_the_number_of_boxes():
    boxes = np.array([[0.0, 0, 1, 1], [5, 5, 6, 6]])
    assert so.nms(boxes, [1, 2], 0.5, max_output=2**62).tolist() == [1, 0]
