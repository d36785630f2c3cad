"""The nine networks that come with the package onnx, with seeded weights, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason='pip install "stableops[conformance]"')
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")

from tests.conformance import onnx_reader  # noqa: E402

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem for path in FOLDER.glob("light_*.onnx"))


@pytest.fixture(scope="module", autouse=True)
def isa():
    """The bits are the same on every level; that is tested elsewhere."""


def without_softmax(model):
    """Of such logits it would be 1 in one place and 0 elsewhere, which is always right."""
    graph = model.graph
    if graph.node[-1].op_type == "Softmax":
        graph.output[0].name = graph.node.pop().input[0]
        graph.output[0].type.tensor_type.ClearField("shape")
    return model


def test_all_are_there():
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_network(name):
    model = without_softmax(onnx.load(FOLDER / f"{name}.onnx"))
    model = onnx_reader.with_weights(model, seed=1)
    x = np.random.default_rng(2).standard_normal((1, 3, 224, 224)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {session.get_inputs()[0].name: x})
    result = onnx_reader.run(model, x)
    assert result.shape == expected.shape
    assert np.median(np.abs(expected)) > 1e-3 * np.abs(expected).max()
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()
