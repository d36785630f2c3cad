"""Modules: gradients against differences, names, modes, weights, training, errors."""

import re

import numpy as np
import pytest

import stableops
from stableops import models, nn
from stableops.models._units import normalised
from stableops.models.densenet import dense_block, transition
from stableops.models.googlenet import inception
from stableops.models.nin import nin_block
from stableops.models.resnet import basic, bottleneck
from stableops.models.vgg import vgg_features
from stableops.nn import _optimizers

N = 2


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Modules compute nothing that depends on the level; `test_same_bits` covers a whole step."""


def philox(seed):
    return np.random.Generator(np.random.Philox(seed))


# Gradients

MODULES = {
    "conv": (lambda: nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 2), dilation=2), (3, 7, 8)),
    "conv_groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 5, 5)),
    "conv_table": (lambda: nn.Conv2d(2, 3, 3, table=[[1, 0], [0, 1], [1, 1]]), (2, 5, 5)),
    "conv_transpose": (
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
        (4, 4, 5),
    ),
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "batch_norm": (lambda: nn.BatchNorm2d(3), (3, 4, 5)),
    "batch_norm_plain": (lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 5)),
    "layer_norm": (lambda: nn.LayerNorm((4, 5)), (3, 4, 5)),
    "group_norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 3)),
    "local_response_norm": (lambda: nn.LocalResponseNorm(3, alpha=0.5, k=2.0), (5, 3, 3)),
    "relu": (nn.ReLU, (3, 4, 5)),
    "relu6": (nn.ReLU6, (3, 4, 5)),
    "leaky_relu": (lambda: nn.LeakyReLU(0.1), (3, 4, 5)),
    "prelu": (lambda: nn.PReLU(3), (3, 4, 5)),
    "sigmoid": (nn.Sigmoid, (3, 4, 5)),
    "dropout": (lambda: nn.Dropout(0.3), (3, 4, 5)),
    "max_pool": (lambda: nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), (3, 6, 7)),
    "avg_pool": (lambda: nn.AvgPool2d(3, 2, padding=1), (3, 6, 7)),
    "adaptive_avg_pool": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (3, 5, 7)),
    "flatten": (nn.Flatten, (3, 4, 5)),
    "upsample_nearest": (lambda: nn.Upsample(scale_factor=2), (2, 3, 4)),
    "upsample_bilinear": (lambda: nn.Upsample(size=(5, 7), mode="bilinear"), (2, 3, 4)),
    "sequential": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)),
        (2, 6, 6),
    ),
    "residual": (lambda: basic(3, 3, 1), (3, 5, 5)),
    "residual_downsample": (lambda: bottleneck(3, 8, 2), (3, 6, 6)),
    "residual_keeps_output": (
        lambda: nn.Residual(conv=nn.Conv2d(2, 2, 3, padding=1), act=nn.Sigmoid(), activation=False),
        (2, 4, 4),
    ),
    "residual_flat": (lambda: nn.Residual(act=nn.ReLU(), activation=False), (2, 4, 4)),
    "concat": (lambda: nn.Concat(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(3, 1, 1)), (3, 4, 4)),
    "nin_block": (lambda: nin_block(normalised, 2, (3, 4, 2), 3), (2, 5, 5)),
    "inception": (
        lambda: inception(normalised, 3, (2, 2, 3, 2, 2, 2)),
        (3, 4, 4),
    ),
    "dense_block": (lambda: dense_block(4, 2, 3), (4, 4, 4)),
    "transition": (lambda: transition(4, 2), (4, 4, 4)),
    "vgg": (lambda: vgg_features((2,), (3,), batch_norm=True), (3, 4, 4)),
    "compiled_residual": (
        lambda: nn.Sequential(bottleneck(3, 8, 2), basic(8, 8, 1)).compile().train(),
        (3, 6, 6),
    ),
    "compiled_dense_block": (lambda: dense_block(4, 2, 3).compile().train(), (4, 4, 4)),
    "compiled_linear": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).compile().train(),
        (5,),
    ),
    "lenet5": (models.lenet5, (1, 28, 28)),
    "lenet5_1998": (models.lenet5_1998, (1, 32, 32)),
}


def dropout_again(net):
    """Draw the same masks in the next forward pass."""
    for _, module in net.named_modules():
        if isinstance(module, nn.Dropout):
            module.rng = philox(9)


@pytest.mark.parametrize("name", MODULES)
def test_gradients(name):
    """In float64, against central differences along random directions."""
    make, shape = MODULES[name]
    rng = philox(3)
    net = make().initialize(rng).astype(np.float64)
    for array in net.parameters().values():
        array += 0.1 * rng.standard_normal(array.shape)
    for _, module in net.named_modules():
        if getattr(module, "table", None) is not None:
            module.weight *= module.table[:, :, None, None]
    x = rng.standard_normal((N, *shape))
    dropout_again(net)
    y = net(x)
    factors = rng.standard_normal(y.shape)
    kept = x.copy()
    grad = net.backward(factors.copy())
    assert np.array_equal(x, kept), "the input was changed"
    gradients = net.gradients()
    assert gradients.keys() == net.parameters().keys()

    def slope(array, direction, h=1e-6):
        before = array.copy()
        values = []
        for step in (h, -h):
            array[...] = before + step * direction
            dropout_again(net)
            values.append((net(x) * factors).sum())
        array[...] = before
        return (values[0] - values[1]) / (2 * h)

    for array, gradient in [
        (x, grad),
        *zip(net.parameters().values(), gradients.values(), strict=True),
    ]:
        assert gradient.shape == array.shape
        assert gradient.dtype == array.dtype
        direction = rng.standard_normal(array.shape)
        for _, module in net.named_modules():
            if getattr(module, "table", None) is not None and module.weight is array:
                direction *= module.table[:, :, None, None]
        expected = slope(array, direction)
        size = np.abs(gradient * direction).sum()
        assert abs((gradient * direction).sum() - expected) <= 1e-7 * size + 1e-8


def test_backward_needs_a_forward_in_training_mode():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(RuntimeError, match="Conv2d: backward needs a forward in training mode"):
        net.backward(np.ones((1, 1, 2, 2), np.float32))
    net.eval()(np.ones((1, 1, 2, 2), np.float32))
    with pytest.raises(RuntimeError, match="training mode"):
        net.backward(np.ones((1, 1, 2, 2), np.float32))
    with pytest.raises(RuntimeError, match=re.escape("no gradient of 0.weight")):
        net.gradients()


def test_input_gradient_can_be_saved():
    net = nn.Conv2d(1, 2, 3).initialize(philox(0))
    x = philox(1).standard_normal((1, 1, 5, 5))
    y = net(x)
    assert net.backward(np.ones_like(y)) is not None
    with_it = net.gradients()["weight"]
    net.needs_input_gradient = False
    net(x)
    assert net.backward(np.ones_like(y)) is None
    assert np.array_equal(net.gradients()["weight"], with_it)


# Names, modes, state


def test_names_are_those_of_torchvision():
    keys = models.resnet18().state_dict().keys()
    for key in (
        "conv1.weight",
        "layer2.0.downsample.1.running_var",
        "layer4.1.bn2.bias",
        "fc.bias",
    ):
        assert key in keys
    keys = models.densenet121().state_dict().keys()
    assert "features.denseblock3.denselayer24.conv2.weight" in keys


def test_load_state_dict_names_everything_that_is_wrong():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).initialize(philox(0))
    state = {key: array.copy() for key, array in net.state_dict().items()}
    before = {key: array.copy() for key, array in state.items()}
    state["0.weight"] = np.zeros((2, 1, 5, 5))
    del state["0.bias"], state["1.running_var"], state["1.num_batches_tracked"]
    state["fc.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match="do not fit") as error:
        net.load_state_dict(state)
    text = str(error.value)
    assert "missing: 0.bias, 1.running_var;" in text
    assert "unexpected: fc.weight;" in text
    assert "of another shape: 0.weight ((2, 1, 5, 5) instead of (2, 1, 3, 3))" in text
    for key, array in net.state_dict().items():
        assert np.array_equal(array, before[key]), "something was changed"


def test_load_state_dict_refuses_what_is_no_real_number():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).initialize(philox(0))
    before = {key: array.copy() for key, array in net.state_dict().items()}
    state = {key: array + 1 for key, array in before.items()}
    for bad in (np.array(["a", "b"]), np.array([1, 2j]), np.array([None, 1.0])):
        with pytest.raises(ValueError, match=r"of another kind: 1\.bias \(.* instead of float32\)"):
            net.load_state_dict(state | {"1.bias": bad})
        for key, array in net.state_dict().items():
            assert np.array_equal(array, before[key]), "something was changed"
    with pytest.raises(ValueError, match=r"do not fit Sequential: 1\.bias is no array: "):
        net.load_state_dict(state | {"1.bias": [[1], [2, 3]]})
    net.load_state_dict(state | {"1.bias": [1, 2]})
    assert net[1].bias.tolist() == [1, 2]


def test_weights_outside_the_table_stay_zero():
    table = np.array([[1, 0], [0, 1], [1, 1]], bool)
    net = nn.Conv2d(2, 3, 3, table=table)
    net.load_state_dict({"weight": np.ones((3, 2, 3, 3)), "bias": np.zeros(3)})
    assert np.array_equal(net.weight[:, :, 1, 1] != 0, table)
    net.initialize(philox(0))
    assert np.array_equal(net.weight[:, :, 1, 1] != 0, table)
    x = philox(1).standard_normal((2, 2, 5, 5)).astype(np.float32)
    for optimizer in (nn.SGD(net, 0.1, 0.9, 0.1), nn.Adam(net, 0.1)):
        net.backward(net(x))
        assert np.array_equal(net.gradients()["weight"][:, :, 1, 1] != 0, table)
        optimizer.step()
        assert np.array_equal(net.weight[:, :, 1, 1] != 0, table)


def test_one_module_cannot_stand_at_two_places():
    relu = nn.ReLU()
    net = nn.Sequential(fc1=nn.Linear(2, 2), act=relu, more=nn.Sequential(nn.Linear(2, 2), relu))
    text = r"one ReLU stands at two places, 'act' and 'more\.1'"
    for call in (net.train, net.parameters, lambda: nn.summary(net, (2,))):
        with pytest.raises(ValueError, match=text):
            call()


@pytest.mark.parametrize("look", ["summary", "predict"])
def test_looking_at_a_network_leaves_what_backward_needs(look):
    net = models.googlenet(10, aux_heads=True, rng=philox(0))
    x = philox(1).random((2, 3, 64, 64), np.float32)
    for _, module in net.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def gradients():
        net(x)
        if look == "summary":
            nn.summary(net, (3, 64, 64))
        elif look == "predict":
            nn.predict(net, x[:1])
        for head in (net.aux1, net.aux2):
            head.grad_logits = np.ones_like(head.logits)
        net.backward(np.ones((2, 10), np.float32))
        return {key: array.copy() for key, array in net.gradients().items()}

    looked = gradients()
    look = "neither"
    for key, array in gradients().items():
        assert np.array_equal(array, looked[key]), key


def test_state_goes_from_net_to_net():
    first, second = (models.small_resnet(rng=philox(seed)) for seed in (0, 1))
    x = philox(2).random((3, 1, 28, 28), np.float32)
    first(x)  # moves the running statistics
    second.load_state_dict(first.state_dict())
    assert np.array_equal(first.eval()(x), second.eval()(x))
    state = {key: value for key, value in first.state_dict().items() if "num_batches" not in key}
    second.load_state_dict(state)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"missing: .*unexpected: "):
        models.resnet18().load_state_dict(models.lenet5().state_dict())


def test_train_and_eval_reach_every_module():
    net = models.small_densenet(rng=philox(0))
    assert all(module.training for _, module in net.named_modules())
    assert not any(module.training for _, module in net.eval().named_modules())
    x = philox(1).random((2, 1, 28, 28), np.float32)
    before = {key: array.copy() for key, array in net.state_dict().items()}
    assert np.array_equal(net(x)[:1], net(x[:1])), "a batch changes the prediction"
    for key, array in net.state_dict().items():
        assert np.array_equal(array, before[key]), f"prediction changed {key}"
    net.train()(x)
    assert int(net.features[1].denselayer1.norm1.num_batches_tracked) == 1


def test_initialization_draws_every_weight():
    net = models.googlenet(10, aux_heads=True, rng=philox(5))
    again = models.googlenet(10, aux_heads=True, rng=philox(5))
    for key, array in net.parameters().items():
        assert np.array_equal(array, again.parameters()[key])
        if array.ndim > 1:
            fan_in = array[0].size
            assert abs(array.std() * np.sqrt(fan_in / 2) - 1) < 0.2, key
            assert abs(array.mean()) < 0.2 * array.std(), key


def test_batch_norm_counts_only_batches_that_it_took():
    norm = nn.BatchNorm2d(1, momentum=None)
    with pytest.raises(ValueError, match="one value"):
        norm(np.zeros((1, 1, 1, 1), np.float32))
    assert norm.num_batches_tracked == 0
    with pytest.raises(RuntimeError, match="BatchNorm2d: backward needs a forward"):
        norm.again()


def test_backward_of_a_dense_layer_needs_a_forward():
    net = dense_block(4, 2, 2).initialize(philox(0))
    y = net(philox(1).random((2, 4, 4, 4), np.float32))
    net.backward(y)
    with pytest.raises(RuntimeError, match="needs a forward in training mode"):
        net[1].backward(y[:, -2:])


def test_an_empty_batch_has_an_answer():
    for name in ("lenet5", "small_resnet"):
        net = models.NETWORKS[name][0](rng=philox(0)).eval()
        assert net(np.empty((0, 1, 28, 28), np.float32)).shape == (0, 10)
        assert nn.predict(net, np.empty((0, 1, 28, 28), np.float32)).shape == (0, 10)
    assert nn.Flatten()(np.empty((0, 2, 3, 4))).shape == (0, 24)


def test_batch_norm_average_without_momentum():
    norm = nn.BatchNorm2d(1, momentum=None)
    for value in (0.0, 3.0, 6.0):
        norm(np.array([value - 1, value + 1], np.float32).reshape(2, 1, 1, 1))
    assert norm.running_mean == pytest.approx([3.0])
    assert norm.running_var == pytest.approx([2.0])


# Compiled networks


@pytest.mark.parametrize("name", [name for name in models.NETWORKS if "small" in name])
def test_compiled_network_gives_the_same(name):
    make, shape = models.NETWORKS[name]
    net = make(rng=philox(0)).astype(np.float64)
    x = philox(1).random((4, *shape))
    for _ in range(3):
        net(x)
    expected = net.eval()(x)
    before = {key: array.copy() for key, array in net.state_dict().items()}
    compiled = net.compile()
    kept = x.copy()
    y = compiled(x)
    assert np.array_equal(x, kept), "the input was changed"
    assert np.abs(y - expected).max() <= 1e-13 * np.abs(expected).max()
    assert np.array_equal(compiled(x), y)
    for key, array in net.state_dict().items():
        assert np.array_equal(array, before[key])
    assert len(compiled.state_dict()) < len(before)
    folded = [type(module) for _, module in compiled.named_modules()]
    if name != "small_densenet":
        assert nn.BatchNorm2d not in folded
    net.train()(x)  # and the original still trains
    net.backward(np.ones_like(expected))


def separately(module, x):
    """What a compiled module computes, with a pass over memory for each step."""

    def chain(names, x):
        for name in names:
            x = separately(getattr(module, name), x)
        return x

    if isinstance(module, nn.Residual):
        shortcut = x if module.downsample is None else separately(module.downsample, x)
        y = chain(module.body, x) + shortcut
        return stableops.relu(y) if module.activation else y
    if isinstance(module, nn.DenseBlock):
        for name in module.children():
            x = np.concatenate([x, chain([name], x)], axis=1)
        return x
    if isinstance(module, nn.Concat):
        return np.concatenate([chain([name], x) for name in module.children()], axis=1)
    if isinstance(module, nn.Sequential):
        return chain(module.children(), x)
    if isinstance(module, nn.Conv2d):
        y = stableops.conv2d(x, module.weight, module.bias, **module.settings)
    elif isinstance(module, nn.Linear):
        y = stableops.linear(x, module.weight, module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        running = module.running_mean, module.running_var
        y = stableops.batch_norm(x, *running, module.weight, module.bias, eps=module.eps)
    elif isinstance(module, nn.ReLU):
        return stableops.relu(x)
    else:
        return module(x)
    return stableops.relu(y) if module.rectify else y


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(basic(4, 4, 1), nn.ReLU(), nn.MaxPool2d(2), basic(4, 4, 1)),
        lambda: nn.Sequential(nn.Sequential(bottleneck(4, 16, 2), bottleneck(16, 16, 1))),
        lambda: nn.Sequential(nn.Residual(a=nn.ReLU(), b=nn.Conv2d(4, 4, 1), activation=False)),
        lambda: nn.Sequential(nn.MaxPool2d(1), nn.Residual(b=nn.Conv2d(4, 4, 3, padding="same"))),
        lambda: nn.Residual(a=nn.Conv2d(4, 4, 1), downsample=nn.Sequential(nn.AvgPool2d(1))),
        lambda: inception(normalised, 4, (2, 2, 3, 2, 2, 2)),
        lambda: nn.Concat(nn.Conv2d(4, 2, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2, 2)),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 1), dense_block(8, 4, 3), transition(20, 6)),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5), nn.ReLU()),
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU()),
    ],
)
def test_compiled_blocks_have_the_bits_of_separate_layers(make, last, dtype):
    net, rng = make().initialize(philox(0)).astype(dtype), philox(1)
    x = rng.standard_normal((3, 4, 8, 8)).astype(dtype)
    net(x)
    for array in net.parameters().values():
        array += dtype(0.1) * rng.standard_normal(array.shape).astype(dtype)
    if last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    compiled, kept = net.compile(), x.copy()
    y = compiled(x)
    assert np.array_equal(x, kept), "the input was changed"
    assert np.array_equal(y, separately(compiled, x))
    assert np.array_equal(compiled(x), y)


def test_compiled_residual_names_what_cannot_be_added():
    net = nn.Sequential(nn.MaxPool2d(1), nn.Residual(conv=nn.Conv2d(2, 3, 1))).compile()
    with pytest.raises(ValueError, match=r"cannot add the input of shape \(1, 2, 4, 4\)"):
        net(np.ones((1, 2, 4, 4), np.float32))


def test_compiled_network_takes_other_dtypes():
    net = nn.Sequential(nn.Conv2d(2, 4, 1), basic(4, 4, 1), inception(normalised, 4, (2,) * 6))
    net = net.initialize(philox(0)).eval().compile()
    x = philox(1).random((1, 2, 5, 5))
    y = net(x)
    assert y.dtype == np.float64
    assert np.array_equal(y, separately(net, x))


@pytest.mark.parametrize("name", ["lenet5", "small_vgg", "lenet5_1998"])
def test_compiled_network_and_original_share_nothing(name):
    make, shape = models.NETWORKS[name]
    net, other = make(rng=philox(0)).eval(), make(rng=philox(1))
    x = philox(2).random((2, *shape), np.float32)
    expected, compiled = net(x), net.compile()
    prediction = compiled(x)
    state = {key: array.copy() for key, array in compiled.state_dict().items()}
    compiled.load_state_dict(other.compile().state_dict())
    assert np.array_equal(net(x), expected), "loading into the compiled one changed the original"
    compiled.load_state_dict(state)
    for array in net.state_dict().values():
        array += 1
    for key, array in compiled.state_dict().items():
        assert np.array_equal(array, state[key]), "changing the original changed the compiled one"
    assert np.array_equal(compiled(x), prediction)


def test_compiled_network_notices_training_and_initialization():
    x, labels = philox(2).random((4, 1, 28, 28), np.float32), np.arange(4)
    net = models.lenet5(rng=philox(0))
    compiled = net.compile()
    compiled(x)
    for one in (net, compiled):
        optimizer = nn.SGD(one, 0.1)
        nn.train_step(one.train(), x, labels, optimizer, nn.CrossEntropyLoss())
        nn.predict(one, x)
        nn.train_step(one, x, labels, optimizer, nn.CrossEntropyLoss())
    assert np.array_equal(nn.predict(compiled, x), nn.predict(net, x))
    assert np.array_equal(compiled.eval()(x), net.eval()(x))
    compiled.initialize(philox(1))
    assert np.array_equal(compiled(x), net.initialize(philox(1))(x))


def test_compiled_network_takes_other_weights():
    first, second = (models.small_vgg(rng=philox(seed)) for seed in (0, 1))
    x = philox(2).random((2, 1, 28, 28), np.float32)
    compiled, other = first.compile(), second.compile()
    expected = other(x)
    assert not np.array_equal(compiled(x), expected)
    compiled.load_state_dict(other.state_dict())
    assert np.array_equal(compiled(x), expected)
    assert np.abs(compiled.astype(np.float64)(x) - expected).max() < 1e-5


# Optimisers


def test_sgd_and_adam_are_the_formulas():
    def state(optimizer_of, steps=3):
        net = nn.Linear(3, 2).initialize(philox(0)).astype(np.float64)
        optimizer = optimizer_of(net)
        grads = []
        for i in range(steps):
            x = philox(i).standard_normal((4, 3))
            net(x)
            net.backward(np.cos(np.arange(8.0)).reshape(4, 2))
            grads.append(net.gradients()["weight"] + 0.01 * net.weight)
            optimizer.step()
        return net.weight, grads

    start = nn.Linear(3, 2).initialize(philox(0)).weight.astype(np.float64)
    weight, (g1, g2, g3) = state(lambda net: nn.SGD(net, 0.1, momentum=0.9, weight_decay=0.01))
    v2 = 0.9 * g1 + g2
    expected = start - 0.1 * (g1 + v2 + 0.9 * v2 + g3)
    assert np.allclose(weight, expected, rtol=1e-14, atol=1e-15)

    weight, grads = state(lambda net: nn.Adam(net, 0.1, (0.8, 0.9), 1e-3, weight_decay=0.01))
    m = s = 0
    expected = start
    for t, g in enumerate(grads, start=1):
        m, s = 0.8 * m + 0.2 * g, 0.9 * s + 0.1 * g * g
        root = np.sqrt(s / (1 - 0.9**t)) + 1e-3
        expected = expected - 0.1 * (m / (1 - 0.8**t)) / root
    assert np.allclose(weight, expected, rtol=1e-13, atol=1e-14)


def test_optimizer_continues_from_its_state():
    def make():
        net = models.lenet5(rng=philox(0))
        return net, nn.Adam(net, 1e-3)

    x, labels = philox(1).random((8, 1, 28, 28), np.float32), np.arange(8)
    criterion = nn.CrossEntropyLoss()
    net, optimizer = make()
    nn.train_step(net, x, labels, optimizer, criterion)
    other, resumed = make()
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    for pair in ((net, optimizer), (other, resumed)):
        nn.train_step(pair[0], x, labels, pair[1], criterion)
    for key, array in net.state_dict().items():
        assert np.array_equal(array, other.state_dict()[key])


def test_optimizer_refuses_another_state():
    net = nn.Linear(2, 3).initialize(philox(0))
    optimizer = nn.SGD(net, 0.1, momentum=0.9)
    net(np.ones((1, 2), np.float32))
    net.backward(np.ones((1, 3), np.float32))
    optimizer.step()
    state = {key: array.copy() for key, array in optimizer.state_dict().items()}
    for change, text in (
        ({"velocity.weight": 7.0}, r"another shape: velocity\.weight \(\(\) instead of \(3, 2\)\)"),
        ({"velocity.bias": np.array(["a", "b", "c"])}, r"another kind: velocity\.bias"),
        ({"mean.weight": 0}, r"unexpected: mean\.weight"),
        ({"steps": -1}, "must not be negative, it is -1"),
        ({"steps": 1.5}, r"another kind: steps"),
    ):
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict({key: array + 1 for key, array in state.items()} | change)
        for key, array in optimizer.state_dict().items():
            assert np.array_equal(array, state[key]), "something was changed"
    with pytest.raises(ValueError, match=r"SGD: missing: velocity\.weight, velocity\.bias"):
        optimizer.load_state_dict({"steps": 3})


@pytest.mark.parametrize("kind", [nn.SGD, nn.Adam])
def test_threads_of_optimizers_change_nothing(kind, monkeypatch):
    pools = []
    pool = _optimizers.ThreadPoolExecutor
    monkeypatch.setattr(
        _optimizers, "ThreadPoolExecutor", lambda n: pools.append(n) or pool(max_workers=n)
    )

    def weight(threads):
        stableops.set_num_threads(threads)
        net = nn.Linear(1500, 1000).initialize(philox(0))
        optimizer = kind(net, 0.01, weight_decay=0.1)
        for i in range(2):
            net(philox(i).random((2, 1500), np.float32))
            net.backward(philox(i + 5).random((2, 1000), np.float32))
            optimizer.step()
        return net.weight

    before = stableops.get_num_threads()
    try:
        one, two, five = map(weight, (1, 2, 5))
    finally:
        stableops.set_num_threads(before)
    assert pools == [2, 2, 2, 2]
    assert np.array_equal(one, two)
    assert np.array_equal(one, five)


def test_optimizer_refuses_a_network_of_zeros():
    with pytest.raises(ValueError, match=r"call net\.initialize\(rng\) first"):
        nn.SGD(models.lenet5(), 0.1)


# Bad input


def test_errors_name_the_layer():
    net = models.resnet18()
    with pytest.raises(nn.LayerError, match=r"layer conv1 \(Conv2d\): ") as error:
        net(np.zeros((1, 1, 64, 64), np.float32))
    assert isinstance(error.value, ValueError)
    with pytest.raises(nn.LayerError, match=r"layer features\.12 \(MaxPool2d\): "):
        models.alexnet()(np.zeros((1, 3, 50, 50), np.float32))
    with pytest.raises(nn.LayerError, match=r"layer fc1 \(Linear\): "):
        models.lenet5()(np.zeros((1, 1, 32, 32), np.float32))
    net = models.small_vgg(rng=philox(0))
    with pytest.raises(nn.LayerError, match=r"layer features\.1 \(BatchNorm2d\): "):
        net(np.zeros((1, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match=r"cannot add .*\(1, 3, 4, 4\).*\(1, 2, 4, 4\)"):
        nn.Residual(conv=nn.Conv2d(3, 2, 1))(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="different sizes"):
        nn.Concat(nn.Conv2d(3, 2, 1), nn.MaxPool2d(2))(np.zeros((1, 3, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Dropout(1.5), "p = 1.5"),
        (lambda: nn.Dropout(float("nan")), "p = nan"),
        (lambda: nn.BatchNorm2d(3, eps=-1e-5), "eps must not be negative, it is -1e-05"),
        (lambda: nn.LayerNorm(3, eps=float("nan")), "eps must not be negative, it is nan"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups = 2 does not divide 3 and 4"),
        (lambda: nn.Conv2d(3, 0, 3), "must be positive"),
        (lambda: nn.Conv2d(2, 3, 3, table=[[1, 0]]), "table has shape"),
        (lambda: nn.Linear(0, 3), "must be positive"),
        (lambda: nn.MaxPool2d(0), "kernel_size=0 is not allowed"),
        (lambda: nn.MaxPool2d(2, dilation=(1, 0)), "dilation=(1, 0) is not allowed"),
        (lambda: nn.AvgPool2d(2, stride="a"), "stride='a' is not allowed"),
        (lambda: nn.GroupNorm(2, 3), "num_groups = 2 does not divide 3"),
        (lambda: nn.SGD(models.lenet5(rng=philox(0)), -1.0), "finite and not negative: -1.0"),
        (
            lambda: nn.Adam(models.lenet5(rng=philox(0)), float("inf")),
            "finite and not negative: inf",
        ),
        (lambda: nn.SGD(models.lenet5(rng=philox(0)), 0.1, -1.0), "momentum"),
        (lambda: nn.Adam(models.lenet5(rng=philox(0)), betas=(1.0, 0.9)), "betas"),
        (lambda: nn.Sequential(forward=nn.ReLU()), "cannot be named forward"),
        (lambda: nn.Sequential(**{"a.b": nn.ReLU()}), "cannot be named 'a.b'"),
        (lambda: nn.Sequential(**{"": nn.ReLU()}), "cannot be named ''"),
        (lambda: nn.Dropout(0.5)(np.ones(3)), "dropout needs a generator"),
    ],
)
def test_bad_settings(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.BatchNorm2d(3, momentum="x"), "momentum='x' is not allowed"),
        (lambda: nn.LayerNorm(3, eps=None), "eps=None is not allowed"),
        (lambda: nn.Dropout("a"), "p='a' is not allowed"),
        (lambda: nn.Linear(2, 3).load_state_dict(None), "the state of Linear is None; a mapping"),
    ],
)
def test_settings_of_a_wrong_type(make, text):
    with pytest.raises(TypeError, match=re.escape(text)):
        make()


def test_weights_beyond_float32_are_refused():
    net = nn.Linear(2, 1)
    state = {"weight": np.array([[1e39, np.inf]]), "bias": np.array([np.nan])}
    with pytest.raises(ValueError, match=r"beyond their dtype: weight \(float32\)$"):
        net.load_state_dict(state)
    state["weight"][0, 0] = 1e-60
    net.load_state_dict(state)
    assert net.weight.tolist() == [[0, np.inf]]


def test_children_must_be_modules():
    with pytest.raises(TypeError, match="0 is no Module but function"):
        nn.Sequential(lambda x: x)


# Training


def test_nan_stops_the_training_and_is_located():
    def make():
        net = models.small_resnet(rng=philox(0))
        return net, nn.SGD(net, 0.1)

    x, labels = philox(1).random((8, 1, 28, 28), np.float32), np.arange(8)
    net, optimizer = make()
    net.features[2][0].conv2.weight[0, 0, 0, 0] = np.nan
    weights = net.fc.weight.copy()
    with pytest.raises(
        FloatingPointError,
        match=r"the loss is nan at step 1: it began in layer features\.2\.0\.conv2 \(Conv2d\), "
        r"whose weight is not finite",
    ):
        nn.train_step(net, x, labels, optimizer, nn.CrossEntropyLoss())
    assert np.array_equal(net.fc.weight, weights), "the step was made all the same"
    net, optimizer = make()
    x[3, 0, 5, 5] = np.inf
    with pytest.raises(FloatingPointError, match="the images are not finite"):
        nn.train_step(net, x, labels, optimizer, nn.CrossEntropyLoss())
    x[3, 0, 5, 5] = 0
    net.fc.bias[...] = 3e38
    net.fc.weight[...] = 3e38
    with pytest.raises(FloatingPointError, match=r"layer fc \(Linear\)"):
        nn.train_step(net, x, labels, optimizer, nn.CrossEntropyLoss())


def test_auxiliary_heads_add_their_gradient():
    body = nn.Conv2d(1, 2, 1)
    head = nn.AuxiliaryHead(flat=nn.Flatten(), fc=nn.Linear(8, 3))
    net = nn.Sequential(body=body, aux=head, flat=nn.Flatten(), fc=nn.Linear(8, 3))
    net.initialize(philox(0)).astype(np.float64)
    x, labels = philox(1).standard_normal((4, 1, 2, 2)), np.array([0, 1, 2, 0])
    criterion = nn.CrossEntropyLoss()
    nn.train_step(net, x, labels, nn.SGD(net, 0.0), criterion)
    gradient = net.gradients()["body.weight"]

    def total():
        return criterion(net(x), labels) + 0.3 * criterion(head.logits, labels)

    for k in range(2):
        body.weight[k] += 1e-6
        up = total()
        body.weight[k] -= 2e-6
        down = total()
        body.weight[k] += 1e-6
        assert (up - down) / 2e-6 == pytest.approx(gradient[k].item(), rel=1e-6)
    net(x)
    with pytest.raises(RuntimeError, match="set grad_logits"):
        net.backward(np.zeros((4, 3)))


def test_nan_in_an_auxiliary_head_stops_the_training():
    head = nn.AuxiliaryHead(flat=nn.Flatten(), fc=nn.Linear(8, 3))
    net = nn.Sequential(conv=nn.Conv2d(1, 2, 1), aux=head, flat=nn.Flatten(), fc=nn.Linear(8, 3))
    net.initialize(philox(0))
    head.fc.weight[0, 0] = np.nan
    before = net.conv.weight.copy()
    with pytest.raises(
        FloatingPointError,
        match=r"the loss of aux is nan at step 1: it began in layer aux\.fc \(Linear\), whose w",
    ):
        nn.train_step(
            net,
            philox(1).random((4, 1, 2, 2), np.float32),
            np.array([0, 1, 2, 0]),
            nn.SGD(net, 0.1),
            nn.CrossEntropyLoss(),
        )
    assert np.array_equal(net.conv.weight, before), "the step was made all the same"


@pytest.mark.parametrize(
    ("images", "labels", "settings", "text"),
    [
        (0, 0, {}, "0 images with 0 labels"),
        (9, 8, {}, "9 images with 8 labels"),
        (4, 8, {}, "4 images with 8 labels"),
        (8, 8, {"batch_size": 0}, "batch_size positive, not 1, 0 and 0"),
        (8, 8, {"epochs": -1}, "must not be negative"),
        (8, 8, {"first_epoch": -1}, "must not be negative"),
    ],
)
def test_fit_checks_its_arguments(images, labels, settings, text):
    """At the call, not at the first step."""
    net = models.lenet5(rng=philox(0))
    x = np.zeros((images, 1, 28, 28), np.float32)
    settings = {"rng": philox, "epochs": 1, **settings}
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.fit(net, x, np.zeros(labels, int), nn.SGD(net, 0.1), **settings)


def test_fit_takes_lists_and_refuses_a_generator():
    net = models.lenet5(rng=philox(0))
    x, optimizer = np.zeros((2, 1, 28, 28), np.float32), nn.SGD(net, 0.1)
    assert len(list(nn.fit(net, x, [0, 1], optimizer, rng=philox, epochs=1))) == 1
    with pytest.raises(TypeError, match="rng must be a function of the epoch, not Generator"):
        nn.fit(net, x, [0, 1], optimizer, rng=philox(0), epochs=1)
    with pytest.raises(TypeError, match=r"rng must be a numpy\.random\.Generator, not int"):
        models.lenet5(rng=3)


@pytest.mark.parametrize("dtype", [np.int32, bool, complex, object, "U3"])
def test_networks_are_of_floating_point_numbers(dtype):
    with pytest.raises(ValueError, match="dtype must be a floating-point one"):
        models.lenet5().astype(dtype)


def test_predict_and_accuracy_check_their_arguments():
    net, x = models.lenet5(), np.zeros((2, 1, 28, 28), np.float32)
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be positive, it is {batch_size}"):
            nn.predict(net, x, batch_size=batch_size)
    with pytest.raises(ValueError, match="2 images with 1 labels"):
        nn.accuracy(net, x, np.zeros(1, int))
    with pytest.raises(ValueError, match="0 images with 0 labels"):
        nn.accuracy(net, x[:0], np.zeros(0, int))


@pytest.mark.parametrize(
    ("number", "batch_size", "lengths"),
    [(5, 1, [1] * 5), (5, 2, [2, 2]), (6, 4, [4, 2]), (1, 4, [1]), (3, 4, [3]), (9, 4, [4, 4])],
)
def test_batches_of_an_epoch(number, batch_size, lengths):
    """All images, but for a rest of one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).initialize(philox(0))
    seen = []
    forward = net.forward
    net.forward = lambda x: seen.append(len(x)) or forward(x)
    steps = nn.fit(
        net,
        np.zeros((number, 1, 2, 2), np.float32),
        np.zeros(number, int),
        nn.SGD(net, 0.1),
        rng=philox,
        epochs=1,
        batch_size=batch_size,
    )
    assert [step.ends_epoch for step in steps] == [False] * (len(lengths) - 1) + [True]
    assert seen == lengths


def test_fit_can_go_on_after_any_epoch():
    x, labels = philox(1).random((33, 1, 28, 28), np.float32), np.arange(33) % 10

    def run(*ranges):
        net = models.small_nin(rng=philox(0))
        net.add(drop=nn.Dropout(0.1))
        optimizer = nn.SGD(net, 0.05, momentum=0.9)
        for first, last in ranges:
            steps = nn.fit(
                net,
                x,
                labels,
                optimizer,
                rng=lambda epoch: philox([7, epoch]),
                epochs=3,
                batch_size=16,
                first_epoch=first,
            )
            for step in steps:
                assert np.isfinite(step.loss)
                if step.ends_epoch and step.epoch == last:
                    break
        return net.state_dict()

    whole, parts = run((0, 3)), run((0, 1), (1, 3))
    for key, array in whole.items():
        assert np.array_equal(array, parts[key]), key
