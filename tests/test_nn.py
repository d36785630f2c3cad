"""Modules: gradients against differences, names, modes, weights, training, errors."""

import re

import numpy as np
import pytest

from stableops import models, nn
from stableops.models._units import normalised
from stableops.models.densenet import dense_block, transition
from stableops.models.googlenet import inception
from stableops.models.nin import nin_block
from stableops.models.resnet import basic, bottleneck
from stableops.models.vgg import vgg_features

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
        (lambda: nn.GroupNorm(2, 3), "num_groups = 2 does not divide 3"),
        (lambda: nn.SGD(models.lenet5(rng=philox(0)), -1.0), "must not be negative"),
        (lambda: nn.SGD(models.lenet5(rng=philox(0)), 0.1, -1.0), "momentum"),
        (lambda: nn.Adam(models.lenet5(rng=philox(0)), betas=(1.0, 0.9)), "betas"),
        (lambda: nn.Sequential(forward=nn.ReLU()), "cannot be named forward"),
        (lambda: nn.Dropout(0.5)(np.ones(3)), "dropout needs a generator"),
    ],
)
def test_bad_settings(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


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
