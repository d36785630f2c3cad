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


def batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    # The samples are used again: what is updated in place is a copy.
    mean, var = (None if v is None else array(v).copy() for v in (mean, var))
    return so.batch_norm(array(x), mean, var, array(weight), array(bias), training, momentum, eps)


def with_arrays(function):
    return lambda *args, **kwargs: function(
        *map(array, args), **{k: array(v) for k, v in kwargs.items()}
    )


def leaky_relu(x, negative_slope=0.01, inplace=False):
    return so.leaky_relu(array(x), negative_slope)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    return so.layer_norm(array(x), tuple(normalized_shape), array(weight), array(bias), eps)


def interpolate(
    x,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
):
    if recompute_scale_factor:
        factors = np.broadcast_to(scale_factor, 2)
        size = [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
        scale_factor = None
    sizes = [tuple(v) if isinstance(v, list | torch.Size) else v for v in (size, scale_factor)]
    return so.interpolate(array(x), *sizes, mode, bool(align_corners))


def outside(op, sample):
    """Why stableops refuses a sample that PyTorch takes, or None."""
    x = sample.input
    if op.name.endswith("batch_norm") and x.ndim < 2:
        return "no channels"
    if sample.kwargs.get("eps", 0) < 0:
        return "a negative eps"
    return None


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
    "nn.functional.batch_norm": batch_norm,
    "nn.functional.layer_norm": layer_norm,
    "nn.functional.group_norm": with_arrays(so.group_norm),
    "nn.functional.local_response_norm": with_arrays(so.local_response_norm),
    "nn.functional.leaky_relu": leaky_relu,
    "nn.functional.prelu": with_arrays(so.prelu),
    "nn.functional.interpolate": interpolate,
    "nn.functional.pixel_shuffle": with_arrays(so.pixel_shuffle),
    "nn.functional.pixel_unshuffle": with_arrays(so.pixel_unshuffle),
    "nn.functional.conv_transpose2d": with_arrays(so.conv_transpose2d),
}


MODES = ("nearest", "bilinear")


def operators():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return [
        op
        for op in op_db
        if op.name in FUNCTIONS
        and (not op.name.endswith("interpolate") or op.variant_test_name in MODES)
    ]


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
        if op.name.endswith("interpolate") and sample.input.ndim != 4:
            continue  # one or three spatial dimensions
        if outside(op, sample):
            with pytest.raises(ValueError, match=r"input|eps"):
                call(op, sample)
            continue
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
