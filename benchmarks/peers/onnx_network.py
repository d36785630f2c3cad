"""A network of `stableops.nn` as an ONNX graph, with batch norm still in it."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.onnx_model import conv_attributes, pool_attributes
from stableops import nn


class Graph:
    """Nodes and constants, as they come."""

    def __init__(self) -> None:
        self.nodes: list[object] = []
        self.constants: list[object] = []

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def add(self, module: nn.Module, x: str) -> str:
        """Append a module that reads `x`; the name of what it gives."""
        if isinstance(module, nn.Residual):
            y = x
            for name in module.body:
                y = self.add(getattr(module, name), y)
            shortcut = x if module.downsample is None else self.add(module.downsample, x)
            return self.node("Relu", self.node("Add", y, shortcut))
        if isinstance(module, nn.Concat):
            return self.node("Concat", *[self.add(child, x) for child in module], axis=1)
        if isinstance(module, nn.DenseBlock):
            for layer in module:
                x = self.node("Concat", x, self.add(layer, x), axis=1)
            return x
        if isinstance(module, nn.Sequential):
            for child in module:
                x = self.add(child, x)
            return x
        return self._layer(module, x)

    def _layer(self, module: nn.Module, x: str) -> str:
        arrays = [self.constant(array) for array in module.state_dict().values() if array.ndim]
        settings = getattr(module, "settings", {})
        if isinstance(module, nn.Conv2d):
            wanted = {key: settings[key] for key in ("stride", "padding", "groups")}
            return self.node("Conv", x, *arrays, **conv_attributes(**wanted))
        if isinstance(module, nn.BatchNorm2d):
            return self.node("BatchNormalization", x, *arrays, epsilon=module.eps)
        if isinstance(module, nn.Linear):
            return self.node("Gemm", x, *arrays, transB=1)
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            wanted = {key: settings[key] for key in ("kernel_size", "stride", "padding")}
            operator = "MaxPool" if isinstance(module, nn.MaxPool2d) else "AveragePool"
            ceil = {"ceil_mode": int(settings["ceil_mode"])}
            return self.node(operator, x, **pool_attributes(**wanted), **ceil)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            # VGG asks for 7x7 and has 7x7
            return self.node("GlobalAveragePool", x) if module.output_size == 1 else x
        if isinstance(module, nn.Dropout):
            return x
        return self.node({nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(module)], x)


def to_onnx(net: nn.Module, shape: tuple[int, ...]) -> bytes:
    """A model with the input x0, serialised."""
    graph = Graph()
    output = graph.add(net, "x0")
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes,
        "network",
        [info("x0", TensorProto.FLOAT, shape)],
        [info(output, TensorProto.FLOAT, [None, None])],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()
