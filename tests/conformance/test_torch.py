"""PyTorch's own samples (OpInfo) for the functions that stableops has: the same results, and an
error where PyTorch raises one."""

import warnings

import numpy as np
import pytest

import stableops as so

torch = pytest.importorskip("torch", reason='pip install "stableops[conformance]"')
pytest.importorskip("expecttest", reason='pip install "stableops[conformance]"')


def array(value):
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def reduced(value, dtype):
    return array(value if dtype is None else value.to(dtype))


def cross_entropy(x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    return so.softmax_cross_entropy(
        array(x),
        array(target),
        axis=min(1, x.ndim - 1),
        weight=array(weight),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def binary_cross_entropy_with_logits(x, target, weight=None, pos_weight=None, reduction="mean"):
    return so.sigmoid_cross_entropy(
        array(x),
        array(target),
        weight=array(weight),
        pos_weight=array(pos_weight),
        reduction=reduction,
    )


def softplus(x, beta=1, threshold=20):
    # PyTorch returns x itself beyond the threshold.
    x = array(x)
    return np.where(x * beta > threshold, x, so.softplus(x * beta) / beta)


FUNCTIONS = {
    "softmax": lambda x, dim, dtype=None: so.softmax(reduced(x, dtype), dim),
    "log_softmax": lambda x, dim, dtype=None: so.log_softmax(reduced(x, dtype), dim),
    "logsumexp": lambda x, dim, keepdim=False: so.logsumexp(array(x), dim, keepdims=keepdim),
    "sigmoid": lambda x: so.sigmoid(array(x)),
    "nn.functional.logsigmoid": lambda x: so.log_sigmoid(array(x)),
    "nn.functional.softplus": softplus,
    "nn.functional.relu": lambda x: so.relu(array(x)),
    "nn.functional.cross_entropy": cross_entropy,
    "nn.functional.binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "nn.functional.conv2d": so.conv2d,
    "nn.functional.linear": so.linear,
    "nn.functional.max_pool2d": so.max_pool2d,
    "nn.functional.avg_pool2d": so.avg_pool2d,
    "nn.functional.adaptive_avg_pool2d": so.adaptive_avg_pool2d,
}


def operators():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return [op for op in op_db if op.name in FUNCTIONS]


OPERATORS = operators()


def identifier(op):
    return f"{op.name}{'.' if op.variant_test_name else ''}{op.variant_test_name}"


def call(op, sample):
    args = [array(a) if op.name.endswith(("2d", "linear")) else a for a in sample.args]
    x = array(sample.input) if op.name.endswith(("2d", "linear")) else sample.input
    return FUNCTIONS[op.name](x, *args, **sample.kwargs)


def test_every_function_has_an_operator():
    assert {op.name for op in OPERATORS} == set(FUNCTIONS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("op", OPERATORS, ids=identifier)
def test_samples(op, dtype):
    count = 0
    for sample in op.sample_inputs("cpu", dtype):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = op.op(sample.input, *sample.args, **sample.kwargs)
        result = call(op, sample)
        results = result if isinstance(result, tuple) else (result,)
        expecteds = expected if isinstance(expected, tuple) else (expected,)
        for ours, theirs in zip(results, expecteds, strict=True):
            theirs = theirs.detach().numpy()
            assert np.shape(ours) == theirs.shape, sample
            assert np.asarray(ours).dtype == theirs.dtype, sample
            rtol = 1e-13 if dtype == torch.float64 and theirs.dtype == np.float64 else 5e-6
            np.testing.assert_allclose(
                ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max(initial=0)
            )
        count += 1
    assert count > 0


def promoted_here(sample):
    """PyTorch refuses arrays of different real dtypes; stableops promotes them as NumPy does."""
    tensors = [a for a in (sample.input, *sample.args) if isinstance(a, torch.Tensor)]
    return len({a.dtype for a in tensors}) > 1 and not any(a.is_complex() for a in tensors)


@pytest.mark.parametrize("op", [op for op in OPERATORS if op.error_inputs_func], ids=identifier)
def test_error_samples(op):
    for error in op.error_inputs("cpu"):
        if promoted_here(error.sample_input):
            call(op, error.sample_input)
            continue
        with pytest.raises((ValueError, TypeError, IndexError)):
            call(op, error.sample_input)
