"""stableops itself, by its public functions only."""

from __future__ import annotations

import numpy as np

import stableops as F
from stableops import models, nn


def load(threads: int) -> str:
    F.set_num_threads(threads)
    return F.__version__


def softmax(x, *, axis):
    return lambda: F.softmax(x, axis)


softmax_on_tensors = softmax


def log_softmax(x, *, axis):
    return lambda: F.log_softmax(x, axis)


def logsumexp(x, *, axis):
    return lambda: F.logsumexp(x, axis)


def cross_entropy(logits, labels, *, gradient, reduction="mean"):
    return lambda: F.softmax_cross_entropy(
        logits, labels, reduction=reduction, return_grad=gradient
    )


def sigmoid_cross_entropy(logits, labels, *, gradient, reduction="mean"):
    return lambda: F.sigmoid_cross_entropy(
        logits, labels, reduction=reduction, return_grad=gradient
    )


def sigmoid(x):
    return lambda: F.sigmoid(x)


def log_sigmoid(x):
    return lambda: F.log_sigmoid(x)


def softplus(x):
    return lambda: F.softplus(x)


def relu(x):
    return lambda: F.relu(x)


def sigmoid_backward(grad_output, output):
    return lambda: F.sigmoid_backward(grad_output, output)


def log_sigmoid_backward(grad_output, x):
    return lambda: F.log_sigmoid_backward(grad_output, x)


def softplus_backward(grad_output, x):
    return lambda: F.softplus_backward(grad_output, x)


def relu_backward(grad_output, output):
    return lambda: F.relu_backward(grad_output, output)


def conv2d(x, weight, bias, *, stride, padding, groups, packed=False):
    if packed:
        weight = F.pack_conv2d_weight(weight, groups)
    return lambda: F.conv2d(x, weight, bias, stride, padding, 1, groups)


def conv2d_backward(grad_output, x, weight, *, stride, padding, groups):
    return lambda: F.conv2d_backward(grad_output, x, weight, stride, padding, 1, groups)


def linear(x, weight, bias):
    return lambda: F.linear(x, weight, bias)


def linear_backward(grad_output, x, weight):
    return lambda: F.linear_backward(grad_output, x, weight)


def max_pool2d(x, *, kernel_size, stride, padding, return_indices):
    return lambda: F.max_pool2d(x, kernel_size, stride, padding, return_indices=return_indices)


def max_pool2d_backward(grad_output, indices, *, input_shape, **_window):
    return lambda: F.max_pool2d_backward(grad_output, indices, input_shape)


def avg_pool2d(x, *, kernel_size, stride, padding):
    return lambda: F.avg_pool2d(x, kernel_size, stride, padding)


def avg_pool2d_backward(grad_output, *, input_shape, kernel_size, stride, padding):
    return lambda: F.avg_pool2d_backward(grad_output, input_shape, kernel_size, stride, padding)


def adaptive_avg_pool2d(x, *, output_size):
    return lambda: F.adaptive_avg_pool2d(x, output_size)


def nms(boxes, scores, *, iou_threshold):
    return lambda: F.nms(boxes, scores, iou_threshold)


def batched_nms(boxes, scores, idxs, *, iou_threshold):
    return lambda: F.batched_nms(boxes, scores, idxs, iou_threshold)


def soft_nms(boxes, scores, *, method):
    return (lambda: F.soft_nms(boxes, scores, method=method)), lambda result: result[1]


def weighted_boxes_fusion(boxes, scores, idxs, model, *, iou_threshold):
    return (
        lambda: F.weighted_boxes_fusion(boxes, scores, idxs, model, iou_threshold=iou_threshold)
    ), lambda result: result[1]


def box_iou(boxes1, boxes2):
    return lambda: F.box_iou(boxes1, boxes2)


def generalized_box_iou(boxes1, boxes2):
    return lambda: F.generalized_box_iou(boxes1, boxes2)


def distance_box_iou(boxes1, boxes2):
    return lambda: F.distance_box_iou(boxes1, boxes2)


def complete_box_iou(boxes1, boxes2):
    return lambda: F.complete_box_iou(boxes1, boxes2)


def box_iou_rotated(boxes1, boxes2):
    return lambda: F.box_iou_rotated(boxes1, boxes2)


def nms_rotated(boxes, scores, *, iou_threshold):
    return lambda: F.nms_rotated(boxes, scores, iou_threshold)


def network_of(name):
    """The weights that all libraries have."""
    return models.NETWORKS[name][0](rng=np.random.Generator(np.random.Philox(0)))


def predict(x, *, network):
    net = network_of(network).eval().compile()
    return lambda: net(x)


def training_step(x, labels, *, network):
    net = network_of(network)
    optimizer, criterion = nn.SGD(net, 1e-4, momentum=0.9), nn.CrossEntropyLoss()
    return lambda: np.array([nn.train_step(net, x, labels, optimizer, criterion)])
