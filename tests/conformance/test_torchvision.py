"""The same weights and the same picture give torchvision's logits and gradients."""

import numpy as np
import pytest

from stableops import models
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
