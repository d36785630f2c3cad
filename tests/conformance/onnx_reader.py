"""Runs an ONNX graph with stableops, node after node: as much of ONNX as nine old networks need."""

import numpy as np
import onnx
from onnx import numpy_helper

import stableops as so


def padded(x, pads, value):
    top, left, bottom, right = pads
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def max_pool(x, *, kernel_shape, strides, pads=(0, 0, 0, 0)):
    return so.max_pool2d(padded(x, pads, -np.inf), kernel_shape, strides)


def average_pool(x, *, kernel_shape, strides, pads=(0, 0, 0, 0)):
    """The mean of the elements that are inside."""
    settings = {"kernel_size": kernel_shape, "stride": strides, "divisor_override": 1}
    inside = so.avg_pool2d(padded(np.ones_like(x[:1, :1]), pads, 0), **settings)
    return so.avg_pool2d(padded(x, pads, 0), **settings) / inside


def conv(x, weight, bias=None, *, strides=(1, 1), pads=(0, 0, 0, 0), group=1, **_):
    top, left, bottom, right = pads
    around = ((top, bottom), (left, right))
    return so.conv2d(x, weight, bias, tuple(strides), around, groups=group)


def softmax(x, *, axis=1):
    """Before version 13 of the operators: over all axes from this one on."""
    return so.softmax(x.reshape(*x.shape[:axis], -1)).reshape(x.shape)


OPERATORS = {
    "Add": np.add,
    "AveragePool": average_pool,
    "BatchNormalization": lambda x, weight, bias, mean, var, *, epsilon=1e-5: so.batch_norm(
        x, mean, var, weight, bias, eps=epsilon
    ),
    "Concat": lambda *x, axis: np.concatenate(x, axis),
    "Conv": conv,
    "Dropout": lambda x, *, ratio: x,
    "Gemm": lambda x, weight, bias, *, transB: so.linear(x, weight if transB else weight.T, bias),
    "GlobalAveragePool": lambda x: so.adaptive_avg_pool2d(x, 1),
    "LRN": lambda x, *, size, alpha, beta, bias: so.local_response_norm(x, size, alpha, beta, bias),
    "MaxPool": max_pool,
    "Mul": np.multiply,
    "Relu": so.relu,
    "Reshape": lambda x, shape: x.reshape(
        [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    ),
    "Softmax": softmax,
    "Sum": lambda first, *others: sum(others, start=first),
    "Transpose": lambda x, *, perm: x.transpose(perm),
    "Unsqueeze": lambda x, *, axes: np.expand_dims(x, tuple(axes)),
}


def with_weights(model, seed):
    """A copy whose stored constants are numbers that a network could have, from a seed."""
    rng = np.random.default_rng(seed)
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    role = {
        name: (node.op_type, place) for node in graph.node for place, name in enumerate(node.input)
    }
    weights = {}
    for node in list(graph.node):
        if node.op_type == "ConstantOfShape":
            weights[node.output[0]] = shapes[node.input[0]]
            graph.node.remove(node)
    for name, shape in list(weights.items()):
        weights[name] = random_array(rng, tuple(map(int, shape)), role[name])
    for name, array in shapes.items():
        if array.dtype == np.float32 and name in role:
            weights[name] = random_array(rng, array.shape, role[name])
    for tensor in list(graph.initializer):
        if tensor.name in weights or tensor.name not in {
            name for node in graph.node for name in node.input
        }:
            graph.initializer.remove(tensor)
    for entry in list(graph.input):
        if entry.name in shapes:
            graph.input.remove(entry)
    graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in weights)
    return model


def random_array(rng, shape, role):
    operator, place = role
    if len(shape) > 1:
        array = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif (operator, place) == ("BatchNormalization", 4):
        array = rng.uniform(0.5, 1.5, shape)
    elif (operator, place) == ("BatchNormalization", 1):
        array = rng.uniform(0.8, 1.2, shape)
    else:
        array = rng.uniform(-0.2, 0.2, shape)
    return array.astype(np.float32)


def run(model, x):
    """The last output of the graph for its only input."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (name,) = [entry.name for entry in model.graph.input if entry.name not in values]
    values[name] = x
    for node in model.graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        function = OPERATORS[node.op_type]
        values[node.output[0]] = function(*[values[key] for key in node.input], **attributes)
    return values[model.graph.output[0].name]
