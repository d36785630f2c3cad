"""box_iou_rotated against polygon clipping in 80 digits; nms_rotated against its definition."""

import math

import mpmath
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, laid_out

import stableops as so


def check_iou(boxes1, boxes2):
    """Errors within the bound of the docstring; returns how many pairs overlap."""
    result = so.box_iou_rotated(boxes1, boxes2)
    assert result.shape == (len(boxes1), len(boxes2))
    assert result.dtype == boxes1.dtype
    overlapping = 0
    for i, a in enumerate(boxes1):
        for j, b in enumerate(boxes2):
            exact = reference.box_iou_rotated(a, b)
            error = abs(mpmath.mpf(float(result[i, j])) - exact)
            allowed = 1e-12 * exact + mpmath.mpf(10) ** -27
            if boxes1.dtype != np.float64:
                allowed += 0.5 * float(reference.ulp(float(exact), boxes1.dtype))
            assert error <= allowed, (a, b, float(result[i, j]), float(exact))
            overlapping += exact > 1e-20
    return overlapping


def random_boxes(rng, n, spread=3.0):
    return np.column_stack(
        [
            rng.normal(0, spread, (n, 2)),
            np.exp(rng.normal(1, 1, (n, 2))),
            rng.uniform(-400, 400, n),
        ]
    )


# Agreement with exact clipping


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_random_boxes(dtype):
    boxes = random_boxes(np.random.default_rng(1), 25).astype(dtype)
    assert check_iou(boxes[:8], boxes) > 40


@pytest.mark.parametrize("turn", [0.0, 90.0, -90.0, 180.0, 720.0, 30.0, 45.0, 1e-7, 1e-13, 17.0])
@pytest.mark.parametrize("base", [0.0, 30.0, 45.0, 36.86989764584402])
def test_nearly_parallel_sides_and_shared_corners(base, turn):
    """Boxes moved by whole and half sizes along their own sides, so that corners and sides meet."""
    one = math.radians(base)
    width, height = (
        np.array([math.cos(one), -math.sin(one)]),
        np.array([math.sin(one), math.cos(one)]),
    )
    boxes = [
        [*(5 + 4 * i * width + 2 * j * height), w, h, base + turn]
        for i in (0, 0.5, 1)
        for j in (0, 0.5, 1)
        for w, h in ((4.0, 2.0), (2.0, 4.0))
    ]
    assert check_iou(np.array([[5.0, 5.0, 4.0, 2.0, base]]), np.array(boxes)) >= 4


def test_slivers():
    """Overlaps of all sizes down to nothing, where float64 clipping has no digits left."""
    thin = [[0.0, 2.0 - 2.0**-k, 3.0, 2.0, 0.01 * k] for k in range(0, 50, 3)]
    long = [[0.0, 0.0, 1e6, 1e-6, angle] for angle in (1.0, 45.0, 89.0, 1e-6)]
    corner = [[math.sqrt(2) + 1 - 10.0**-k, 0.0, 2.0, 2.0, 45.0] for k in range(2, 14)]
    one = np.array([[0.0, 0.0, 2.0, 2.0, 0.0], [0.0, 0.0, 1e6, 1e-6, 0.0]])
    assert check_iou(one, np.array(thin + long + corner)) > 30


@pytest.mark.parametrize("scale", [-1000, -300, 0, 300, 1000])
def test_any_scale(scale):
    boxes = random_boxes(np.random.default_rng(2), 8)
    boxes[:, :4] = np.ldexp(boxes[:, :4], scale)
    assert check_iou(boxes, boxes) > 20


def test_far_from_the_origin():
    boxes = random_boxes(np.random.default_rng(3), 10)
    boxes[:, :2] += 2.0**40
    assert check_iou(boxes, boxes) > 20


@given(st.integers(0, 2**32))
def test_hypothesis_seeds(seed):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 4, spread=1.0)
    boxes[:, 4] = rng.choice([0, 30, 45, 90, -45, 1e-9, 360 + 1e-9], 4) + rng.choice([0, 10], 4)
    boxes[:, :4] = np.rint(boxes[:, :4] * 2) / 2
    check_iou(boxes, boxes)


# Special values


def test_the_turn_is_counter_clockwise_on_a_screen():
    """A long box at 45 degrees points up and right, where y points down."""
    iou = so.box_iou_rotated([[0, 0, 10, 1, 45]], [[3, -3, 1, 1, 0], [3, 3, 1, 1, 0]])
    assert iou[0, 0] > 0.05
    assert iou[0, 1] == 0


def test_boxes_without_area_and_not_finite():
    boxes = np.array([[0.0, 0, 2, 2, 0], [0, 0, 0, 2, 0], [0, 0, -2, -2, 0], [np.nan, 0, 2, 2, 0]])
    iou = so.box_iou_rotated(boxes, boxes)
    assert iou[0].tolist()[:3] == [1.0, 0.0, 0.0]
    assert np.all(iou[1:3, :3] == 0)
    assert np.isnan(iou[3]).all()
    for column in range(5):
        bad = boxes[:1].copy()
        bad[0, column] = np.inf
        assert np.isnan(so.box_iou_rotated(bad, boxes[:1])).all()


def test_same_box():
    boxes = random_boxes(np.random.default_rng(4), 50)
    same = so.box_iou_rotated(boxes, boxes).diagonal()
    assert np.all(same <= 1)
    assert np.all(same > 1 - 1e-12)


# Layouts, threads, dtypes


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(dtype, layout, threads):
    boxes = random_boxes(np.random.default_rng(5), 33).astype(dtype)
    strided = laid_out(boxes, layout)
    plain = np.ascontiguousarray(strided)
    assert same_bits(so.box_iou_rotated(strided, boxes), so.box_iou_rotated(plain, boxes))
    assert same_bits(so.box_iou_rotated(boxes, strided), so.box_iou_rotated(boxes, plain))
    one = so.box_iou_rotated(plain[4:5], boxes)
    assert same_bits(so.box_iou_rotated(plain, boxes)[4:5], one)


# nms_rotated


def crowd_rotated(rng, n):
    objects = random_boxes(rng, max(1, n // 8), spread=40.0)
    of = rng.integers(0, len(objects), n)
    boxes = objects[of] + rng.normal(0, 0.15, (n, 5)) * [1, 1, 1, 1, 30]
    boxes[:, 2:4] = np.abs(boxes[:, 2:4])
    return boxes, rng.random(n)


def nms_by_definition(boxes, scores, threshold):
    iou = so.box_iou_rotated(boxes, boxes)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not any(iou[i, j] > threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("n", [0, 1, 40, 700])
def test_nms(threshold, n):
    boxes, scores = crowd_rotated(np.random.default_rng(n), n)
    kept = so.nms_rotated(boxes, scores, threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == nms_by_definition(boxes, scores, threshold)
    assert so.nms_rotated(boxes, scores, threshold, max_output=5).tolist() == kept.tolist()[:5]
    above = so.nms_rotated(boxes, scores, threshold, score_threshold=0.5)
    assert above.tolist() == [i for i in kept if scores[i] > 0.5]


def test_nms_of_upright_boxes_is_nms():
    rng = np.random.default_rng(6)
    corner = rng.integers(0, 60, (600, 2))
    size = 2 * rng.integers(1, 9, (600, 2))
    scores = rng.random(600)
    upright = np.concatenate([corner, corner + size], axis=1)
    rotated = np.concatenate([corner + size // 2, size, np.zeros((600, 1))], axis=1)
    for threshold in (0.31, 0.52, 0.71):
        expected = so.nms(upright, scores, threshold)
        assert so.nms_rotated(rotated, scores, threshold).tolist() == expected.tolist()


def test_nms_of_huge_boxes():
    top = np.finfo(np.float64).max
    boxes = np.array([[0, 0, top, top, 45], [0, 0, top, top, 46], [top / 2, 0, 1, 1, 0]] * 200)
    scores = np.linspace(1, 0, 600)
    assert so.nms_rotated(boxes, scores, 0.5).tolist() == [0, 2]


def test_nms_keeps_what_has_no_iou():
    boxes = np.array([[0.0, 0, 2, 2, 0], [0, 0, 2, np.nan, 0], [0, 0, 0, 2, 0], [0, 0, 2, 2, 1]])
    assert so.nms_rotated(boxes, [4, 3, 2, 1], 0.5).tolist() == [0, 1, 2]


# Rejected input


def test_rejected():
    with pytest.raises(ValueError, match=r"boxes1 has shape \(1, 4\); it must be \(N, 5\)"):
        so.box_iou_rotated(np.ones((1, 4)), np.ones((1, 5)))
    with pytest.raises(ValueError, match=r"boxes has shape \(1, 4\); it must be \(N, 5\)"):
        so.nms_rotated(np.ones((1, 4)), np.ones(1), 0.5)
    with pytest.raises(ValueError, match="iou_threshold=-1 is not allowed"):
        so.nms_rotated(np.ones((1, 5)), np.ones(1), -1)
    with pytest.raises(TypeError, match="boxes2 has dtype complex128"):
        so.box_iou_rotated(np.ones((1, 5)), np.ones((1, 5), complex))
