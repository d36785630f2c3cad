"""ONNX models of one node, for ONNX Runtime and OpenCV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import helper, numpy_helper


def one_node(
    operator: str,
    inputs: Sequence[np.ndarray],
    constants: Sequence[np.ndarray] = (),
    outputs: int = 1,
    output_type: np.dtype | None = None,
    output_rank: int | None = None,
    opset: int = 17,
    **attributes: object,
) -> bytes:
    """A model with the inputs x0, x1, ... and the constants after them, serialised.

    Weights belong into `constants`: a runtime packs only what it knows to be constant.
    """
    element = helper.np_dtype_to_tensor_dtype
    # the sizes are the runtime's to find, but OpenCV wants to know how many there are
    output_shape = [None] * (inputs[0].ndim if output_rank is None else output_rank)
    input_names = [f"x{i}" for i in range(len(inputs))]
    constant_names = [f"c{i}" for i in range(len(constants))]
    output_names = [f"y{i}" for i in range(outputs)]
    # "" leaves an optional input out
    names = [
        name if array is not None else ""
        for name, array in zip(constant_names, constants, strict=True)
    ]
    node = helper.make_node(operator, input_names + names, output_names, **attributes)
    graph = helper.make_graph(
        [node],
        operator,
        [
            helper.make_tensor_value_info(name, element(array.dtype), array.shape)
            for name, array in zip(input_names, inputs, strict=True)
        ],
        [
            helper.make_tensor_value_info(
                name,
                element(np.dtype(np.int64) if i else output_type or inputs[0].dtype),
                output_shape,
            )
            for i, name in enumerate(output_names)
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in zip(constant_names, constants, strict=True)
            if array is not None
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return model.SerializeToString()


def conv_attributes(stride: int, padding: int, groups: int) -> Mapping[str, object]:
    return {"strides": [stride] * 2, "pads": [padding] * 4, "group": groups}


def pool_attributes(kernel_size: int, stride: int, padding: int) -> Mapping[str, object]:
    return {"kernel_shape": [kernel_size] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
