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


def batch_normalization(node, x, weight, bias, mean, var):
    training = bool(node.get("training_mode", 0))
    mean, var = mean.copy(), var.copy()
    # ONNX keeps the biased variance, and counts the old statistics' share.
    settings = {"training": training, "momentum": 1 - node.get("momentum", 0.9)}
    y = so.batch_norm(x, mean, var, weight, bias, eps=node.get("epsilon", 1e-5), **settings)
    return (y, mean) if training else (y,)


def layer_normalization(node, x, weight, bias=None):
    axis = node.get("axis", -1) % x.ndim
    y, mean, rstd = so.layer_norm(
        x, x.shape[axis:], weight, bias, node.get("epsilon", 1e-5), return_stats=True
    )
    ones = (1,) * (x.ndim - axis)
    return (y, *(a.reshape(a.shape + ones).astype(x.dtype) for a in (mean, rstd)))


def group_normalization(node, x, weight, bias):
    return (so.group_norm(x, node["num_groups"], weight, bias, node.get("epsilon", 1e-5)),)


def lrn(node, x):
    rule = [node.get(k, default) for k, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1))]
    return (so.local_response_norm(x, node["size"], *rule),)


def dropout(node, x, ratio=None, training=None):
    p = 0.5 if ratio is None else float(ratio)
    y, mask = so.dropout(x, p, bool(training), rng=0, return_mask=True)
    return y, mask


def prelu(node, x, slope):
    if slope.size == 1:
        return (so.prelu(x, slope.reshape(())),)
    # One slope for each element along the last axis that it has.
    axis = x.ndim - slope.ndim + int(np.argmax(slope.shape))
    assert slope.size == x.shape[axis]
    y = so.prelu(np.moveaxis(x, axis, 1), slope.ravel())
    return (np.moveaxis(y, 1, axis),)


def resize(node, x, sizes_or_scales):
    mode = {b"nearest": "nearest", b"linear": "bilinear"}[node.get("mode", b"nearest")]
    corners = node.get("coordinate_transformation_mode") == b"align_corners"
    last = tuple(sizes_or_scales[2:].tolist())
    if sizes_or_scales.dtype == np.int64:
        return (so.interpolate(x, last, None, mode, corners),)
    return (so.interpolate(x, None, last, mode, corners),)


def resizes_as_pytorch(case):
    """Bilinear, or nearest by whole factors, where ONNX's default places are floor(i / factor)."""
    node = {a.name: onnx.helper.get_attribute_value(a) for a in case.model.graph.node[0].attribute}
    mode = node.get("mode", b"nearest")
    places = node.get("coordinate_transformation_mode", b"half_pixel")
    inputs = case.data_sets[0][0]
    if len(inputs) != 2 or set(node) - {"mode", "coordinate_transformation_mode"}:
        return False
    scales = np.asarray(inputs[1])
    if mode == b"nearest":
        return places == b"half_pixel" and scales.dtype != np.int64 and not np.any(scales % 1)
    return mode == b"linear" and places in (b"half_pixel", b"pytorch_half_pixel", b"align_corners")


def conv_transpose(node, x, weight, bias=None):
    return (
        so.conv_transpose2d(
            x,
            weight,
            bias,
            tuple(node.get("strides", [1, 1])),
            symmetric_pads(node),
            tuple(node.get("output_padding", [0, 0])),
            node.get("group", 1),
            tuple(node.get("dilations", [1, 1])),
        ),
    )


def depth_to_space(node, x):
    if node.get("mode", b"DCR") == b"DCR":
        r = node["blocksize"]
        n, c, h, w = x.shape
        x = x.reshape(n, r * r, c // (r * r), h, w).swapaxes(1, 2).reshape(x.shape)
    return (so.pixel_shuffle(x, node["blocksize"]),)


def space_to_depth(node, x):
    r = node["blocksize"]
    n, c, h, w = x.shape
    y = so.pixel_unshuffle(x, r).reshape(n, c, r * r, h // r, w // r)
    if node.get("mode", b"DCR") == b"CRD":
        return (y.reshape(n, c * r * r, h // r, w // r),)
    return (y.swapaxes(1, 2).reshape(n, c * r * r, h // r, w // r),)


OPERATORS = {
    "BatchNormalization": batch_normalization,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Dropout": dropout,
    "GroupNormalization": group_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LeakyRelu": lambda node, x: (so.leaky_relu(x, node.get("alpha", 0.01)),),
    "PRelu": prelu,
    "Resize": resize,
    "SpaceToDepth": space_to_depth,
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
        "test_convtranspose_1d",
        "test_convtranspose_3d",
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
    "transposed convolution with padding found from the output's size": {
        "test_convtranspose_autopad_same",
        "test_convtranspose_output_shape",
    },
    "a slope for every element": {"test_prelu_example"},
    "places that PyTorch finds otherwise": {
        "test_resize_downsample_scales_linear_align_corners",
        "test_resize_downsample_sizes_linear_pytorch_half_pixel",
    },
    "a mask of another generator (test_dropout_with_their_mask)": {
        "test_training_dropout",
        "test_training_dropout_default",
        "test_training_dropout_default_mask",
        "test_training_dropout_mask",
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
        if len(case.model.graph.node) == 1
        and case.model.graph.node[0].op_type in OPERATORS
        and (case.model.graph.node[0].op_type != "Resize" or resizes_as_pytorch(case))
    }


CASES = node_cases()
UNSUPPORTED = set().union(*OUTSIDE.values())


def test_the_list_of_exceptions_is_current():
    assert set(CASES) >= UNSUPPORTED
    assert len(CASES) - len(UNSUPPORTED) >= 140


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


@pytest.mark.parametrize(
    "name", ["test_training_dropout_default_mask", "test_training_dropout_mask"]
)
def test_dropout_with_their_mask(name):
    case = CASES[name]
    for inputs, (expected, mask) in case.data_sets:
        x, ratio = np.asarray(inputs[0]), float(inputs[1])
        y = so.dropout_backward(x, np.asarray(mask), ratio)
        np.testing.assert_allclose(y, expected, rtol=2e-6, atol=0)
