"""box_area, box_convert and the pairwise measures, against exact rational arithmetic."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import reference
from digests import crowd
from hypothesis import given
from hypothesis import strategies as st
from reference import exact_boxes, same_bits
from strategies import FLOAT_DTYPES, LAYOUTS, laid_out
from test_nms import box_sets

import stableops as so

FORMATS = ["xyxy", "xywh", "cxcywh"]
MEASURES = ["box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"]


def unit_roundoff(dtype):
    """u of the type that `dtype` is computed in."""
    return 2.0**-53 if np.dtype(dtype) == np.float64 else 2.0**-24


def exact_measure(name, a, b):
    if name == "box_iou":
        return reference.exact_iou(a, b)
    return getattr(reference, name)(a, b)


def storage_error(value, dtype):
    """What one rounding to dtype may add (nothing for a dtype that is computed in itself)."""
    if np.dtype(dtype).itemsize > 2:
        return 0.0
    return 0.5 * float(reference.ulp(float(value), dtype))


def check_measure(function, name, boxes1, boxes2):
    """Errors within the bounds that the docstrings promise; returns how many pairs had a value."""
    result = function(boxes1, boxes2)
    dtype = boxes1.dtype
    assert result.shape == (len(boxes1), len(boxes2))
    assert result.dtype == dtype
    u = unit_roundoff(dtype)
    checked = 0
    for i, a in enumerate(exact_boxes(boxes1)):
        for j, b in enumerate(exact_boxes(boxes2)):
            got = float(result[i, j])
            if a is None or b is None:
                if (
                    np.isnan(boxes1[i].astype(float)).any()
                    or np.isnan(boxes2[j].astype(float)).any()
                ):
                    assert np.isnan(got)
                continue
            assert np.isfinite(got), (a, b, got)
            exact = exact_measure(name, a, b)
            margin = 16 * u * abs(exact) if name == "box_iou" else 64 * u
            tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
            error = abs(mp_difference(got, exact))
            assert error <= margin + storage_error(exact, dtype) + tiny, (a, b, got, float(exact))
            checked += exact != 0
    return checked


def mp_difference(got, exact):
    if isinstance(exact, (Fraction, int)):
        return Fraction(got) - exact
    return got - exact


# Agreement with the definition


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_measures(name, dtype, data):
    boxes1 = data.draw(box_sets(dtype, max_boxes=6))
    boxes2 = data.draw(box_sets(dtype, max_boxes=20))
    check_measure(getattr(so, name), name, boxes1, boxes2)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_measures_of_a_crowd(name, dtype):
    boxes, _ = crowd(np.random.default_rng(5), 60, dtype)
    assert check_measure(getattr(so, name), name, boxes[:20], boxes) >= 200


@pytest.mark.parametrize("exponent", [-149, -120, -60, 60, 100, 120, 126])
def test_float32_measures_where_areas_leave_the_range(exponent):
    base = np.array([[0, 0, 1.5, 1], [0.5, 0, 1, 1.75], [1, 1, 1.25, 1.5], [-1, -1, 0, 1]])
    boxes = np.ldexp(np.rint(base * 4), exponent - 2 if exponent > 0 else exponent)
    boxes = boxes.astype(np.float32)
    assert np.isfinite(boxes).all()
    for name in MEASURES:
        assert check_measure(getattr(so, name), name, boxes, boxes) >= 6
    assert so.box_iou(boxes, boxes).diagonal().tolist() == [1.0] * 4


@pytest.mark.parametrize("exponent", [-1074, -1000, -540, 510, 540, 1020])
def test_float64_measures_where_areas_leave_the_range(exponent):
    base = np.array([[0, 0, 6, 4], [2, 0, 4, 7], [4, 4, 5, 6], [-4, -4, 0, 4]])
    boxes = np.ldexp(base, exponent)
    assert np.isfinite(boxes).all()
    for name in MEASURES:
        assert check_measure(getattr(so, name), name, boxes, boxes) >= 6


def test_the_check_notices_products_that_overflow():
    boxes = np.ldexp(np.array([[0, 0, 6, 4], [2, 0, 4, 7]], np.float32), 100)

    def plain(boxes1, boxes2):
        with np.errstate(all="ignore"):
            a, b = boxes1[:, None], boxes2[None]
            size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
            overlap = np.prod(np.maximum(size, 0), axis=-1)
            areas = [np.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (a, b)]
            return overlap / (areas[0] + areas[1] - overlap)

    check_measure(plain, "box_iou", boxes / np.float32(2.0**90), boxes / np.float32(2.0**90))
    with pytest.raises(AssertionError):
        check_measure(plain, "box_iou", boxes, boxes)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_area(dtype, data):
    boxes = data.draw(box_sets(dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        area = so.box_area(laid_out(boxes, data.draw(st.sampled_from(LAYOUTS[:-2]))))
    assert area.dtype == dtype
    limit = 2.5 if dtype == np.float64 else 0.501
    for row, got in zip(exact_boxes(boxes), area.astype(np.float64), strict=True):
        if row is not None:
            check_value(got, reference.exact_area(row), dtype, limit)


def check_value(got, exact, dtype, limit):
    """Within `limit` ULP, infinite where the exact value rounds beyond the largest number."""
    info = ml_dtypes.finfo(dtype)
    largest = Fraction(float(info.max))
    if abs(exact) > largest:
        assert abs(got) in (np.inf, float(largest))
        return
    if np.isinf(got):
        assert abs(exact) > largest * (1 - Fraction(float(info.eps)))
        return
    unit = Fraction(float(info.smallest_subnormal))
    if exact:
        unit = max(unit, Fraction(float(reference.ulp(float(exact), dtype))))
    assert abs(Fraction(float(got)) - exact) <= Fraction(limit) * unit, (float(got), float(exact))


@pytest.mark.parametrize("in_fmt", FORMATS)
@pytest.mark.parametrize("out_fmt", FORMATS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@given(data=st.data())
def test_convert(dtype, out_fmt, in_fmt, data):
    boxes = data.draw(box_sets(dtype))
    layout = data.draw(st.sampled_from([name for name in LAYOUTS if name != "broadcast"]))
    converted = so.box_convert(laid_out(boxes, layout), in_fmt, out_fmt)
    assert converted.dtype == dtype
    if in_fmt == out_fmt:
        assert same_bits(converted, boxes)
    for row, got in zip(exact_boxes(boxes), converted.astype(np.float64), strict=True):
        if row is None:
            continue
        for value, exact in zip(got, reference.box_convert(row, in_fmt, out_fmt), strict=True):
            subnormal = abs(exact) < float(ml_dtypes.finfo(dtype).smallest_normal)
            check_value(value, exact, dtype, 1 if subnormal else 0.501)


# Special values and dtypes


def test_boxes_without_area():
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 1, 1], [5, 5, 3, 9]])
    assert so.box_area(boxes).tolist() == [4.0, 0.0, 0.0]
    assert so.box_iou(boxes, boxes).tolist() == [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert so.generalized_box_iou(boxes[1:2], boxes[1:2]).tolist() == [[0.0]]
    assert so.distance_box_iou(boxes[1:2], boxes[1:2]).tolist() == [[0.0]]


def test_infinite_boxes():
    boxes = np.array([[0, 0, np.inf, 2], [0, 0, 2, 2], [-np.inf, 5, np.inf, 5]], np.float32)
    assert so.box_area(boxes).tolist() == [np.inf, 4.0, 0.0]
    iou = so.box_iou(boxes, boxes)
    assert np.isnan(iou[0, 0])
    assert iou[0, 1] == iou[1, 0] == iou[1, 2] == 0
    assert iou[1, 1] == 1
    inverted = np.array([[np.inf, 0, -np.inf, 1]])
    assert so.generalized_box_iou(inverted, boxes[1:2]).tolist() == [[0]]


def test_large_integers_do_not_wrap():
    boxes = np.array([[0, 0, 2**40, 2**40]])
    assert same_bits(so.box_area(boxes), np.array([2.0**80]))
    assert same_bits(so.box_iou(boxes, boxes), np.array([[1.0]]))
    small = np.array([[0, 0, 200, 200]], np.uint8)
    assert so.box_area(small).tolist() == [40000.0]


def test_centre_of_huge_boxes():
    top = np.finfo(np.float64).max
    centred = so.box_convert([[top / 2, -top, top, -top / 2]], "xyxy", "cxcywh")
    assert centred.tolist() == [[top * 0.75, -top * 0.75, top / 2, top / 2]]


@pytest.mark.parametrize("name", MEASURES)
def test_promotion(name):
    function = getattr(so, name)
    boxes, _ = crowd(np.random.default_rng(1), 4)
    assert function(boxes, boxes.astype(np.float64)).dtype == np.float64
    assert function(boxes.astype(np.float16), boxes).dtype == np.float32
    assert function(boxes.astype(int), boxes.astype(int)).dtype == np.float64
    half = function(boxes.astype(np.float16), boxes.astype(ml_dtypes.bfloat16))
    assert half.dtype == np.float32


# Layouts, threads, sizes


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, dtype, layout):
    function = getattr(so, name)
    boxes, _ = crowd(np.random.default_rng(2), 37, dtype)
    strided = laid_out(boxes, layout)
    plain = np.ascontiguousarray(strided)
    assert same_bits(function(strided, boxes), function(plain, boxes))
    assert same_bits(function(boxes, strided), function(boxes, plain))


@pytest.mark.parametrize("name", MEASURES)
def test_threads_and_sizes(name, threads):
    function = getattr(so, name)
    boxes, _ = crowd(np.random.default_rng(3), 20_001)
    for rows, columns in ((300, 1001), (2, 20_001), (0, 3), (3, 0), (1, 1), (5, 1024), (5, 1025)):
        whole = function(boxes[:rows], boxes[:columns])
        assert whole.shape == (rows, columns)
        for i in (0, rows - 1):
            if rows and columns:
                assert same_bits(whole[i : i + 1], function(boxes[i : i + 1], boxes[:columns]))
                j = columns - 1
                assert same_bits(whole[i : i + 1, j:], function(boxes[i : i + 1], boxes[j : j + 1]))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_a_strange_box_changes_no_other_result(name, dtype):
    """Sets of ordinary boxes take a path of their own."""
    function = getattr(so, name)
    boxes, _ = crowd(np.random.default_rng(9), 150, dtype)
    boxes[3] = boxes[2]
    boxes[5] = [7, 7, 7, 7]
    boxes[6, 2] = boxes[6, 0]
    boxes[7] = -boxes[8, [2, 3, 0, 1]]
    boxes[9] = 0
    expected = function(boxes, boxes)
    for strange in ([4, 4, 2, 6], [0, 0, np.inf, 1], [0, np.nan, 1, 1], [2.0**-30, 0, 2.0**-29, 1]):
        others = np.concatenate([boxes, np.array([strange], dtype)])
        assert same_bits(function(others, boxes)[:-1], expected)
        assert same_bits(function(boxes, others)[:, :-1], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_results(dtype):
    """32 MB and more are written past the caches, rows that begin anywhere in a line."""
    boxes, _ = crowd(np.random.default_rng(10), 3_001, dtype)
    boxes[0] *= 1e-20
    whole = so.box_iou(boxes, boxes)
    assert whole.nbytes > 2**25
    for start in range(0, 3_001, 500):
        assert same_bits(whole[start : start + 500], so.box_iou(boxes[start : start + 500], boxes))


def test_leading_dimensions():
    boxes, _ = crowd(np.random.default_rng(4), 24)
    stacked = boxes.reshape(2, 3, 4, 4)
    assert same_bits(so.box_area(stacked), so.box_area(boxes).reshape(2, 3, 4))
    assert same_bits(
        so.box_convert(stacked.transpose(2, 0, 1, 3), "xyxy", "xywh"),
        so.box_convert(boxes, "xyxy", "xywh").reshape(2, 3, 4, 4).transpose(2, 0, 1, 3).copy(),
    )
    assert so.box_area(boxes[0]) == so.box_area(boxes)[0]


# Agreement with torchvision's formulas


def test_torchvision_formulas_in_float32():
    """Bit for bit its box_iou, where nothing is degenerate."""
    boxes, _ = crowd(np.random.default_rng(6), 200)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    size = np.maximum(high - low, np.float32(0))
    overlap = size[..., 0] * size[..., 1]
    iou = overlap / (area[:, None] + area[None] - overlap)
    assert same_bits(so.box_iou(boxes, boxes), iou)


# Rejected input


@pytest.mark.parametrize("name", MEASURES)
def test_rejected_pairs(name):
    function = getattr(so, name)
    with pytest.raises(ValueError, match=r"boxes1 has shape \(4,\); it must be \(N, 4\)"):
        function(np.ones(4), np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"boxes2 has shape \(2, 5\); it must be \(N, 4\)"):
        function(np.ones((1, 4)), np.ones((2, 5)))
    with pytest.raises(TypeError, match="boxes1 has dtype complex128"):
        function(np.ones((1, 4), complex), np.ones((2, 4)))


def test_rejected_rows():
    with pytest.raises(ValueError, match=r"boxes has shape \(3,\); it must be \(\.\.\., 4\)"):
        so.box_area(np.ones(3))
    with pytest.raises(ValueError, match=r"boxes has shape \(\)"):
        so.box_area(1.0)
    with pytest.raises(ValueError, match="in_fmt='yolo' is not allowed; it must be 'xyxy'"):
        so.box_convert(np.ones((1, 4)), "yolo", "xyxy")
    with pytest.raises(ValueError, match="out_fmt='coco' is not allowed"):
        so.box_convert(np.ones((1, 4)), "xyxy", "coco")
    with pytest.raises(TypeError, match="boxes has dtype object"):
        so.box_convert(np.array([[None] * 4]), "xyxy", "xywh")


def test_complete_box_iou_of_sizes_next_to_overflow():
    """The sum of the sizes, and then a size itself, overflows where their ratio does not."""
    largest = float(np.finfo(np.float64).max)
    boxes1 = np.array([[5.0, 2.0, 7.0, 4.0]])
    boxes2 = np.array([[-largest / 2, -largest, 10, 1], [-largest, -largest / 2, largest, 1]])
    assert check_measure(so.complete_box_iou, "complete_box_iou", boxes1, boxes2) == 2
