"""OpenCV: convolution, linear and pooling through cv2.dnn (weights constant), NMSBoxes.

Its 3x3 convolutions use Winograd's algorithm, which trades accuracy for fewer multiplications.
"""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.peers.onnx_model import conv_attributes, one_node, pool_attributes


def load(threads: int) -> str:
    cv2.setNumThreads(threads)
    return cv2.__version__


def network_call(operator: str, x: np.ndarray, *constants: np.ndarray, **attributes):
    if not x.flags.c_contiguous:
        return None
    model = one_node(operator, [x], constants, **attributes)
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))

    def call():
        network.setInput(x)
        return network.forward()

    return call


def conv2d(x, weight, bias, *, stride, padding, groups, packed=False):
    del packed  # a constant weight always is
    return network_call("Conv", x, weight, bias, **conv_attributes(stride, padding, groups))


def linear(x, weight, bias, *, packed=False):
    del packed
    return network_call("Gemm", x, weight, bias, transB=1)


def max_pool2d(x, *, kernel_size, stride, padding, return_indices):
    if return_indices:
        return None
    return network_call("MaxPool", x, **pool_attributes(kernel_size, stride, padding))


def avg_pool2d(x, *, kernel_size, stride, padding):
    window = pool_attributes(kernel_size, stride, padding)
    return network_call("AveragePool", x, count_include_pad=1, **window)


def as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def nms(boxes, scores, *, iou_threshold):
    # an OpenCV user's boxes are (x, y, width, height), so the conversion is not timed
    rectangles = as_xywh(boxes)
    return (
        lambda: cv2.dnn.NMSBoxes(rectangles, scores, 0.0, iou_threshold)
    ), lambda kept: np.asarray(kept, np.int64)


def batched_nms(boxes, scores, idxs, *, iou_threshold):
    rectangles, classes = as_xywh(boxes), idxs.astype(np.int32)
    return (
        lambda: cv2.dnn.NMSBoxesBatched(rectangles, scores, classes, 0.0, iou_threshold)
    ), lambda kept: np.asarray(kept, np.int64)
