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


def linear(x, weight, bias, *, packed=False):
    if packed:
        weight = F.pack_linear_weight(weight)
    return lambda: F.linear(x, weight, bias)


def linear_backward(grad_output, x, weight):
    return lambda: F.linear_backward(grad_output, x, weight)


def linear_cross_entropy(x, weight, labels):
    def call():
        loss, (grad_x, grad_weight, _) = F.linear_cross_entropy(
            x, weight, labels, return_grad=True, output_mask=(True, True, False)
        )
        return loss, grad_x, grad_weight

    return call


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


def adaptive_avg_pool2d_backward(grad_output, *, input_shape):
    return lambda: F.adaptive_avg_pool2d_backward(grad_output, input_shape)


def batch_norm_training(x, weight, bias):
    return lambda: F.batch_norm(x, None, None, weight, bias, True)


def batch_norm_prediction(x, weight, bias, mean, var):
    return lambda: F.batch_norm(x, mean, var, weight, bias)


def batch_norm_backward(grad_output, x, weight):
    _, mean, rstd = F.batch_norm(x, training=True, return_stats=True)
    return lambda: F.batch_norm_backward(grad_output, x, weight, mean, rstd)


def group_norm(x, weight, bias, *, num_groups):
    return lambda: F.group_norm(x, num_groups, weight, bias)


def group_norm_backward(grad_output, x, weight, *, num_groups):
    _, mean, rstd = F.group_norm(x, num_groups, return_stats=True)
    return lambda: F.group_norm_backward(grad_output, x, num_groups, weight, mean, rstd)


def layer_norm(x, weight, bias):
    return lambda: F.layer_norm(x, x.shape[-1], weight, bias)


def layer_norm_backward(grad_output, x, weight):
    _, mean, rstd = F.layer_norm(x, x.shape[-1], return_stats=True)
    return lambda: F.layer_norm_backward(grad_output, x, x.shape[-1], weight, mean, rstd)


def local_response_norm(x, *, size):
    return lambda: F.local_response_norm(x, size)


def local_response_norm_backward(grad_output, x, *, size):
    return lambda: F.local_response_norm_backward(grad_output, x, size)


def leaky_relu(x):
    return lambda: F.leaky_relu(x)


def leaky_relu_backward(grad_output, x):
    return lambda: F.leaky_relu_backward(grad_output, x)


def prelu(x, weight):
    return lambda: F.prelu(x, weight)


def prelu_backward(grad_output, x, weight):
    return lambda: F.prelu_backward(grad_output, x, weight)


def dropout(x, *, p):
    rng = np.random.Generator(np.random.Philox(0))
    # which elements are dropped differs from library to library
    return (lambda: F.dropout(x, p, rng=rng)), lambda y: np.unique(y == 0)


def dropout_backward(grad_output, x, *, p):
    mask = x > 0
    return lambda: F.dropout_backward(grad_output, mask, p)


def interpolate(x, *, scale_factor, mode):
    return lambda: F.interpolate(x, None, scale_factor, mode)


def interpolate_backward(grad_output, *, scale_factor, mode):
    height, width = (n // scale_factor for n in grad_output.shape[2:])
    shape = (*grad_output.shape[:2], height, width)
    return lambda: F.interpolate_backward(grad_output, shape, mode)


def pixel_shuffle(x, *, factor):
    return lambda: F.pixel_shuffle(x, factor)


def pixel_unshuffle(x, *, factor):
    return lambda: F.pixel_unshuffle(x, factor)


def conv_transpose2d(x, weight, bias, *, stride, padding):
    return lambda: F.conv_transpose2d(x, weight, bias, stride, padding)


def conv_transpose2d_backward(x, weight, grad_output, *, stride, padding):
    return lambda: F.conv_transpose2d_backward(grad_output, x, weight, stride, padding)


def nms(boxes, scores, *, iou_threshold):
    return lambda: F.nms(boxes, scores, iou_threshold)


def batched_nms(boxes, scores, idxs, *, iou_threshold):
    return lambda: F.batched_nms(boxes, scores, idxs, iou_threshold)


def soft_nms(boxes, scores, *, method):
    # compared by the scores as they were: ensemble-boxes keeps the decayed ones to itself
    return (lambda: F.soft_nms(boxes, scores, method=method)), lambda result: np.sort(
        scores[result[0]]
    )[::-1]


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
