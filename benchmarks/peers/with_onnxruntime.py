"""ONNX Runtime on the CPU: a session for each case, weights as constants so that it packs them.

It takes contiguous NCHW arrays only, so it has no entry in the channels-last rows.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from benchmarks.peers.onnx_model import conv_attributes, one_node, pool_attributes

options = ort.SessionOptions()


def load(threads: int) -> str:
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.__version__


def session_call(model: bytes, *inputs: np.ndarray):
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {f"x{i}": array for i, array in enumerate(inputs)}
    if len(session.get_outputs()) == 1:
        return lambda: session.run(None, feed)[0]
    return lambda: tuple(session.run(None, feed))


def node_call(operator: str, x: np.ndarray, *constants: np.ndarray, **attributes):
    if not x.flags.c_contiguous:
        return None
    return session_call(one_node(operator, [x], constants, **attributes), x)


def softmax(x, *, axis):
    return node_call("Softmax", x, axis=axis)


def log_softmax(x, *, axis):
    return node_call("LogSoftmax", x, axis=axis)


def logsumexp(x, *, axis):
    return node_call("ReduceLogSumExp", x, axes=[axis], keepdims=0, output_rank=x.ndim - 1)


def sigmoid(x):
    return node_call("Sigmoid", x)


def softplus(x):
    return node_call("Softplus", x)


def relu(x):
    return node_call("Relu", x)


def conv2d(x, weight, bias, *, stride, padding, groups, packed=False):
    del packed  # a constant weight always is
    return node_call("Conv", x, weight, bias, **conv_attributes(stride, padding, groups))


def linear(x, weight, bias, *, packed=False):
    del packed
    return node_call("Gemm", x, weight, bias, transB=1)


def max_pool2d(x, *, kernel_size, stride, padding, return_indices):
    window = pool_attributes(kernel_size, stride, padding)
    call = node_call("MaxPool", x, outputs=2 if return_indices else 1, **window)
    if call is None or not return_indices:
        return call
    plane = x.shape[2] * x.shape[3]

    # ONNX counts positions over the whole tensor, the other libraries over one plane
    return call, lambda result: (result[0], result[1] % plane)


def avg_pool2d(x, *, kernel_size, stride, padding):
    window = pool_attributes(kernel_size, stride, padding)
    return node_call("AveragePool", x, count_include_pad=1, **window)


def adaptive_avg_pool2d(x, *, output_size):
    return node_call("GlobalAveragePool", x) if output_size == 1 else None


def batch_norm_prediction(x, weight, bias, mean, var):
    return node_call("BatchNormalization", x, weight, bias, mean, var)


def layer_norm(x, weight, bias):
    return node_call("LayerNormalization", x, weight, bias, axis=-1)


def local_response_norm(x, *, size):
    return node_call("LRN", x, size=size)


def leaky_relu(x):
    return node_call("LeakyRelu", x)


def prelu(x, weight):
    return node_call("PRelu", x, weight.reshape(-1, 1, 1))


def interpolate(x, *, scale_factor, mode):
    scales = np.array([1, 1, scale_factor, scale_factor], np.float32)
    if mode == "nearest":
        settings = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        settings = {"coordinate_transformation_mode": "pytorch_half_pixel", "mode": "linear"}
    return node_call("Resize", x, None, scales, **settings)


def pixel_shuffle(x, *, factor):
    return node_call("DepthToSpace", x, blocksize=factor, mode="CRD")


def conv_transpose2d(x, weight, bias, *, stride, padding):
    return node_call("ConvTranspose", x, weight, bias, strides=[stride] * 2, pads=[padding] * 4)


def nms(boxes, scores, *, iou_threshold):
    inputs = [boxes[None], scores[None, None]]
    constants = [np.array([len(boxes)]), np.array([iou_threshold], np.float32)]
    model = one_node(
        "NonMaxSuppression", inputs, constants,
        output_type=np.dtype(np.int64), output_rank=2, opset=11,
    )  # fmt: skip
    return session_call(model, *inputs), lambda selected: selected[:, 2]


def predict(x, *, network):
    from benchmarks.peers.onnx_network import to_onnx
    from benchmarks.peers.with_stableops import network_of

    if not x.flags.c_contiguous:
        return None
    return session_call(to_onnx(network_of(network), x.shape), x)
