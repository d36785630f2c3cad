"""ONNX's own node cases for the operators that stableops has, to 2e-6 (theirs is 1e-3)."""

import warnings

import numpy as np
import pytest

import stableops as so

onnx = pytest.importorskip("onnx", reason='pip install "stableops[conformance]"')


def reductions(node):
    return node.get("reduction", b"mean").decode()


def symmetric_pads(node):
    """ONNX's (top, left, bottom, right) as a pair; None where the two ends differ."""
    pads = node.get("pads", [0, 0, 0, 0])
    return (pads[0], pads[1]) if pads[:2] == pads[2:] else None


def softmax(node, x):
    return (so.softmax(x, axis=node.get("axis", -1)),)


def log_softmax(node, x):
    return (so.log_softmax(x, axis=node.get("axis", -1)),)


def reduce_log_sum_exp(node, x, axes=None):
    axis = None if axes is None or axes.size == 0 else tuple(axes.tolist())
    return (so.logsumexp(x, axis=axis, keepdims=bool(node.get("keepdims", 1))),)


def softmax_cross_entropy_loss(node, logits, labels, weight=None):
    loss = so.softmax_cross_entropy(
        logits,
        labels,
        axis=1,
        weight=weight,
        ignore_index=node.get("ignore_index", -100),
        reduction=reductions(node),
    )
    return loss, so.log_softmax(logits, axis=1)


def conv(node, x, weight, bias=None):
    pads = node.get("pads", [0, 0, 0, 0])
    auto_pad = node.get("auto_pad", b"NOTSET").decode()
    stride = tuple(node.get("strides", [1, 1]))
    padding = ((pads[0], pads[2]), (pads[1], pads[3]))
    if auto_pad == "SAME_LOWER":
        total = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, s, k in zip(x.shape[2:], stride, weight.shape[2:], strict=True)
        ]
        padding = tuple((-(-t // 2), t // 2) for t in total)
    elif auto_pad == "SAME_UPPER":
        padding = "same"
    return (
        so.conv2d(
            x,
            weight,
            bias,
            stride=stride,
            padding=padding,
            dilation=tuple(node.get("dilations", [1, 1])),
            groups=node.get("group", 1),
        ),
    )


def max_pool(node, x):
    y, indices = so.max_pool2d(
        x,
        tuple(node["kernel_shape"]),
        stride=tuple(node.get("strides", [1, 1])),
        padding=symmetric_pads(node),
        dilation=tuple(node.get("dilations", [1, 1])),
        ceil_mode=bool(node.get("ceil_mode", 0)),
        return_indices=True,
    )
    height, width = x.shape[2:]
    if node.get("storage_order", 0):
        indices = indices % width * height + indices // width
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], 1, 1)
    return y, indices + planes * (height * width)


def average_pool(node, x):
    return (
        so.avg_pool2d(
            x,
            tuple(node["kernel_shape"]),
            stride=tuple(node.get("strides", [1, 1])),
            padding=symmetric_pads(node),
            ceil_mode=bool(node.get("ceil_mode", 0)),
            count_include_pad=bool(node.get("count_include_pad", 0)),
        ),
    )


def gemm(node, a, b, c=None):
    bias = None if c is None else c.reshape(c.shape[-1])
    return (so.linear(a.T if node.get("transA") else a, b if node.get("transB") else b.T, bias),)


def non_max_suppression(
    node, boxes, scores, max_output=None, iou_threshold=None, score_threshold=None
):
    limit = 0 if max_output is None else int(np.ravel(max_output)[0])
    iou = 0.0 if iou_threshold is None else float(np.ravel(iou_threshold)[0])
    lowest = -np.inf if score_threshold is None else float(np.ravel(score_threshold)[0])
    selected = []
    for n in range(boxes.shape[0]):
        if node.get("center_point_box", 0):
            corners = so.box_convert(boxes[n], "cxcywh", "xyxy")
        else:
            y = np.sort(boxes[n][:, [0, 2]], axis=1)
            x = np.sort(boxes[n][:, [1, 3]], axis=1)
            corners = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
        for c in range(scores.shape[1]):
            candidates = np.flatnonzero(scores[n, c] > lowest)
            kept = candidates[so.nms(corners[candidates], scores[n, c, candidates], iou)]
            selected += [(n, c, int(k)) for k in kept[:limit]]
    return (np.array(selected, np.int64).reshape(-1, 3),)


OPERATORS = {
    "AveragePool": average_pool,
    "Conv": conv,
    "Gemm": gemm,
    "GlobalAveragePool": lambda node, x: (so.adaptive_avg_pool2d(x, 1),),
    "GlobalMaxPool": lambda node, x: (so.max_pool2d(x, x.shape[2:]),),
    "LogSoftmax": log_softmax,
    "MaxPool": max_pool,
    "NonMaxSuppression": non_max_suppression,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "Relu": lambda node, x: (so.relu(x),),
    "Sigmoid": lambda node, x: (so.sigmoid(x),),
    "Softmax": softmax,
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy_loss,
    "Softplus": lambda node, x: (so.softplus(x),),
}

# By name and reason: what stableops does not offer.
OUTSIDE = {
    "one or three spatial dimensions": {
        "test_averagepool_1d_default",
        "test_averagepool_3d_default",
        "test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_False",
        "test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True",
        "test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_False",
        "test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True",
        "test_averagepool_3d_dilations_small",
        "test_maxpool_1d_default",
        "test_maxpool_3d_default",
        "test_maxpool_3d_dilations",
        "test_maxpool_3d_dilations_use_ref_impl",
        "test_maxpool_3d_dilations_use_ref_impl_large",
    },
    "pooling with padding beyond half of the kernel, or different at the two ends": {
        "test_averagepool_2d_ceil_last_window_starts_on_pad",
        "test_averagepool_2d_pads",
        "test_averagepool_2d_pads_count_include_pad",
        "test_averagepool_2d_precomputed_same_upper",
        "test_averagepool_2d_same_lower",
        "test_averagepool_2d_same_upper",
        "test_maxpool_2d_pads",
        "test_maxpool_2d_precomputed_same_upper",
        "test_maxpool_2d_same_lower",
        "test_maxpool_2d_same_upper",
    },
    "dilated average pooling": {"test_averagepool_2d_dilations"},
    "a scaled product, or a bias that is not a vector": {
        "test_gemm_all_attributes",
        "test_gemm_alpha",
        "test_gemm_beta",
        "test_gemm_default_matrix_bias",
        "test_gemm_default_scalar_bias",
        "test_gemm_default_single_elem_vector_bias",
        "test_gemm_default_zero_bias",
    },
}


def node_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    return {
        case.name: case
        for case in cases
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPERATORS
    }


CASES = node_cases()
UNSUPPORTED = set().union(*OUTSIDE.values())


def test_the_list_of_exceptions_is_current():
    assert set(CASES) >= UNSUPPORTED
    assert len(CASES) - len(UNSUPPORTED) >= 90


@pytest.mark.parametrize("name", sorted(set(CASES) - UNSUPPORTED))
def test_node(name):
    case = CASES[name]
    node = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for inputs, outputs in case.data_sets:
        results = OPERATORS[node.op_type](attributes, *map(np.asarray, inputs))
        for result, expected in zip(results, outputs, strict=False):
            expected = np.asarray(expected)
            assert np.shape(result) == expected.shape
            assert np.asarray(result).dtype == expected.dtype
            np.testing.assert_allclose(result, expected, rtol=2e-6, atol=2e-6)
