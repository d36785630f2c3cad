"""The same weights and the same picture give torchvision's logits and gradients."""

import numpy as np
import pytest

from stableops import models, nn
from tests.conformance.peer_torchvision import models as peers
from tests.conformance.peer_torchvision import torch

NAMES = [name for name in models.NETWORKS if hasattr(peers, name)]

BOUNDS = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(scope="module", autouse=True)
def isa():
    """The bits are the same on every level; that is tested elsewhere."""


def make_peer(name, dtype):
    """A network of torchvision with fixed random weights, and statistics that are not trivial."""
    torch.manual_seed(1)
    settings = {"init_weights": True} if name == "googlenet" else {}
    net = getattr(peers, name)(weights=None, **settings)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for array, low, high in (
                (module.weight, 0.8, 1.2),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                torch.nn.init.uniform_(array, low, high)
    return net.to(getattr(torch, dtype))


def make_ours(name, peer, dtype):
    settings = {"aux_heads": True} if name == "googlenet" else {}
    net = models.NETWORKS[name][0](**settings).astype(dtype)
    net.load_state_dict({key: value.numpy() for key, value in peer.state_dict().items()})
    return net


def pictures(number, dtype, side=64):
    return np.random.default_rng(2).standard_normal((number, 3, side, side)).astype(dtype)


def distance(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def test_every_classifier_of_these_families_is_there():
    names = [name for name in dir(peers) if name.startswith(("alex", "vgg1", "resnet1", "dense"))]
    assert set(filter(str.isidentifier, names)) - {"densenet", "alexnet"} <= set(NAMES)
    assert len(NAMES) == 19


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", NAMES)
def test_logits(name, dtype):
    peer = make_peer(name, dtype).eval()
    x = pictures(2, dtype)
    with torch.no_grad():
        expected = peer(torch.from_numpy(x)).numpy()
    net = make_ours(name, peer, dtype).eval()
    logits = net(x)
    assert logits.dtype == dtype
    assert distance(logits, expected) <= BOUNDS[dtype]
    # Batch norm folded and the rest fused: the same to the same bound.
    assert distance(net.compile()(x), expected) <= BOUNDS[dtype]


FAMILIES = ["alexnet", "vgg11", "vgg11_bn", "googlenet", "resnet18", "resnet50", "densenet121"]


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_a_training_step(name):
    """Of all parameters, of the running statistics, and of the picture, in float64."""
    dtype = "float64"
    peer = make_peer(name, dtype).train()
    net = make_ours(name, peer, dtype)
    for modules, kind in ((peer.modules(), torch.nn.Dropout), (walk(net), nn.Dropout)):
        for module in modules:
            if isinstance(module, kind):
                module.p, module.rng = 0.0, np.random.default_rng(0)
    x, labels = pictures(4, dtype), np.array([0, 1, 2, 3])

    picture = torch.from_numpy(x).requires_grad_()
    outputs = peer(picture)
    weights = {"logits": 1.0, "aux_logits1": 0.3, "aux_logits2": 0.3}
    if name != "googlenet":
        loss = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels))
    else:
        loss = sum(
            weight
            * torch.nn.functional.cross_entropy(getattr(outputs, key), torch.from_numpy(labels))
            for key, weight in weights.items()
        )
    loss.backward()

    criterion = nn.CrossEntropyLoss()
    value = criterion(net(x), labels)
    grad = criterion.backward()
    for module in walk(net):
        if isinstance(module, nn.AuxiliaryHead):
            value += 0.3 * criterion(module.logits, labels)
            module.grad_logits = 0.3 * criterion.backward()
    grad_picture = net.backward(grad)

    assert value == pytest.approx(loss.item(), rel=1e-13)
    assert distance(grad_picture, picture.grad.numpy()) <= BOUNDS[dtype]
    gradients = net.gradients()
    # The second bound is for small gradients. A bias before a batch norm has no effect: rounding is
    # all there is of its gradient.
    largest = max(np.abs(p.grad.numpy()).max() for p in peer.parameters())
    for key, parameter in peer.named_parameters():
        expected = parameter.grad.numpy()
        error = np.abs(gradients[key] - expected).max()
        assert error <= BOUNDS[dtype] * largest, key
        assert error <= 1e-10 * np.abs(expected).max() + 1e-15 * largest, key
    state = net.state_dict()
    for key, buffer in peer.named_buffers():
        assert distance(state[key], buffer.numpy()) <= BOUNDS[dtype], key


def walk(net):
    return [module for _, module in net.named_modules()]
