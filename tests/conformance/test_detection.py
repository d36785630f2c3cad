"""Boxes, suppression and fusion beside torchvision, powerboxes and ensemble-boxes."""

import numpy as np
import pytest
from digests import crowd

import stableops as so
from tests.conformance.peer_torchvision import torch

ops = pytest.importorskip("torchvision.ops")
powerboxes = pytest.importorskip("powerboxes", reason="pip install powerboxes")
ensemble_boxes = pytest.importorskip("ensemble_boxes", reason="pip install ensemble-boxes")


def boxes_of(seed, n, dtype):
    return crowd(np.random.default_rng(seed), n, dtype)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 5e-6)])
@pytest.mark.parametrize("name", ["box_iou", "generalized_box_iou"])
def test_measures(name, dtype, tolerance):
    a, b = boxes_of(1, 150, dtype), boxes_of(2, 170, dtype)
    got = getattr(so, name)(a, b)
    theirs = getattr(ops, name)(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert got.dtype == theirs.dtype
    np.testing.assert_allclose(got, theirs, rtol=0, atol=tolerance)
    distance = {"box_iou": "iou", "generalized_box_iou": "giou"}[name]
    theirs = 1 - getattr(powerboxes, f"{distance}_distance")(a, b)
    np.testing.assert_allclose(got, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["distance_box_iou", "complete_box_iou"])
def test_measures_with_distances(name, dtype):
    """torchvision adds 1e-7 to denominators."""
    a, b = boxes_of(1, 150, dtype), boxes_of(2, 170, dtype)
    theirs = getattr(ops, name)(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    atol = 1e-7 if dtype == np.float64 else 5e-6
    np.testing.assert_allclose(getattr(so, name)(a, b), theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_areas_and_formats(dtype):
    a = boxes_of(3, 200, dtype)
    eps = np.finfo(dtype).eps
    # Differences of coordinates, here and there, are wrong by half a unit of the coordinates.
    atol = 2 * eps * np.abs(a).max()
    areas = ops.box_area(torch.from_numpy(a))
    np.testing.assert_allclose(so.box_area(a), areas, rtol=3 * eps, atol=0)
    for in_fmt in ("xyxy", "xywh", "cxcywh"):
        for out_fmt in ("xyxy", "xywh", "cxcywh"):
            theirs = ops.box_convert(torch.from_numpy(a), in_fmt, out_fmt)
            got = so.box_convert(a, in_fmt, out_fmt)
            np.testing.assert_allclose(got, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_nms(threshold):
    for n in (1, 50, 1500):
        boxes, scores = crowd(np.random.default_rng(n), n, np.float64)
        theirs = powerboxes.nms(boxes, scores, threshold, 0.0)
        assert so.nms(boxes, scores, threshold).tolist() == theirs.tolist()


def rotated(rng, n):
    sizes = np.exp(rng.normal(3, 0.5, (n, 2)))
    return np.column_stack([rng.uniform(0, 100, (n, 2)), sizes, rng.uniform(-180, 180, n)])


def test_rotated_boxes():
    rng = np.random.default_rng(5)
    a, b = rotated(rng, 60), rotated(rng, 70)
    # powerboxes turns clockwise where y points down.
    turned = np.array([1, 1, 1, 1, -1])
    theirs = 1 - powerboxes.rotated_iou_distance(a * turned, b * turned)
    np.testing.assert_allclose(so.box_iou_rotated(a, b), theirs, rtol=0, atol=1e-9)
    scores = rng.random(60)
    for threshold in (0.1, 0.3, 0.5):
        theirs = powerboxes.rotated_nms(a * turned, scores, threshold, 0.0)
        assert so.nms_rotated(a, scores, threshold).tolist() == theirs.tolist()


def of_each_model(model, *arrays):
    return [[array[model == m] for m in range(int(model.max()) + 1)] for array in arrays]


@pytest.mark.parametrize("conf_type", ["avg", "max", "box_and_model_avg", "absent_model_aware_avg"])
@pytest.mark.parametrize("seed", range(4))
def test_weighted_boxes_fusion(seed, conf_type):
    rng = np.random.default_rng(seed)
    n = 400
    boxes = np.clip(crowd(rng, n, np.float64)[0] / [1333, 800, 1333, 800], 0, 1)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, n = boxes[keep], int(keep.sum())
    scores, idxs, model = rng.random(n), rng.integers(0, 3, n), rng.integers(0, 3, n)
    settings = {"weights": [2.0, 1.0, 0.5], "conf_type": conf_type}
    theirs = ensemble_boxes.weighted_boxes_fusion(
        *of_each_model(model, boxes, scores, idxs), iou_thr=0.55, skip_box_thr=0.1, **settings
    )
    got = so.weighted_boxes_fusion(
        boxes, scores, idxs, model, iou_threshold=0.55, skip_threshold=0.1, **settings
    )
    # Its fused boxes and scores pass through float32, so equal scores may come in another order.
    tables = [np.column_stack([part[1], part[2], part[0]]) for part in (got, theirs)]
    first, second = (table[np.lexsort(np.rint(table.T[:3] * 1e5))] for table in tables)
    assert first.shape == second.shape
    np.testing.assert_allclose(first, second, rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms(method):
    boxes, scores = crowd(np.random.default_rng(8), 300, np.float64)
    boxes = np.clip(boxes / [1333, 800, 1333, 800], 0, 1)
    number = {"linear": 1, "gaussian": 2}[method]
    theirs = ensemble_boxes.soft_nms(
        [boxes], [scores.copy()], [np.zeros(300)], method=number, iou_thr=0.3, sigma=0.5,
        thresh=0.001,
    )  # fmt: skip
    indices, _ = so.soft_nms(boxes, scores, method=method)
    # It gives boxes and scores as they were, in the order in which they are selected.
    np.testing.assert_array_equal(scores[indices], theirs[1])
    np.testing.assert_allclose(boxes[indices], theirs[0], rtol=0, atol=1e-7)
