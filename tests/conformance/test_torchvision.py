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


def pictures(number, dtype, side=64, seed=2):
    return np.random.default_rng(seed).standard_normal((number, 3, side, side)).astype(dtype)


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


# With seed 2, rounding decides whether one rectifier of VGG-11 is open: its exact input is -5.3e-8,
# ours +6.0e-8, and that alone moves the gradients by 3e-4 of their norm.
SEEDS = {"vgg11": 3}

FAMILIES = ["alexnet", "vgg11", "vgg11_bn", "googlenet", "resnet18", "resnet50", "densenet121"]


def without_dropout(modules, kind):
    for module in modules:
        if isinstance(module, kind):
            module.p, module.rng = 0.0, np.random.default_rng(0)


def walk(net):
    return [module for _, module in net.named_modules()]


def step_of_peer(name, dtype):
    """Loss, gradients of the picture ("") and of all parameters, and buffers afterwards."""
    peer = make_peer(name, dtype).train()
    without_dropout(peer.modules(), torch.nn.Dropout)
    picture = torch.from_numpy(pictures(4, dtype, seed=SEEDS.get(name, 2))).requires_grad_()
    outputs = peer(picture)
    heads = [outputs]
    if name == "googlenet":
        heads = [outputs.logits, outputs.aux_logits1, outputs.aux_logits2]
    labels = torch.arange(4)
    loss, *others = [torch.nn.functional.cross_entropy(logits, labels) for logits in heads]
    loss = loss + 0.3 * sum(others)
    loss.backward()
    gradients = {key: parameter.grad.numpy() for key, parameter in peer.named_parameters()}
    buffers = {key: buffer.numpy() for key, buffer in peer.named_buffers()}
    return loss.item(), {"": picture.grad.numpy(), **gradients}, buffers


def step_of_ours(name, dtype):
    net = make_ours(name, make_peer(name, dtype), dtype)
    without_dropout(walk(net), nn.Dropout)
    criterion, labels = nn.CrossEntropyLoss(), np.arange(4)
    loss = criterion(net(pictures(4, dtype, seed=SEEDS.get(name, 2))), labels)
    grad = criterion.backward()
    for module in walk(net):
        if isinstance(module, nn.AuxiliaryHead):
            loss += 0.3 * criterion(module.logits, labels)
            module.grad_logits = criterion.backward() * grad.dtype.type(0.3)
    return loss, {"": net.backward(grad), **net.gradients()}, net.state_dict()


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_of_a_training_step(name):
    """Of all parameters and of the picture, and the running statistics, in float64."""
    bound = BOUNDS["float64"]
    expected_loss, expected, buffers = step_of_peer(name, "float64")
    loss, gradients, state = step_of_ours(name, "float64")
    assert loss == pytest.approx(expected_loss, rel=bound)
    assert gradients.keys() == expected.keys()
    assert distance(gradients[""], expected.pop("")) <= bound
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for key, gradient in expected.items():
        error = np.abs(gradients[key] - gradient).max()
        assert error <= bound * largest, key
        # For small ones. A bias before a batch norm has no effect; its gradient is rounding alone.
        assert error <= 100 * bound * np.abs(gradient).max() + 1e-3 * bound * largest, key
    for key, buffer in buffers.items():
        assert distance(state[key], buffer) <= bound, key


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_in_float32(name):
    """Twice as far from those in float64 as torch's own in float32, or within 1e-5 of their norm.

    Where rounding decides whether a rectifier is open, no two libraries need agree: see SEEDS.
    """

    def norm(arrays):
        return np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays))

    _, exact, _ = step_of_peer(name, "float64")
    _, theirs, _ = step_of_peer(name, "float32")
    _, ours, _ = step_of_ours(name, "float32")
    size = norm(exact.values())
    error = norm([ours[key] - exact[key] for key in exact]) / size
    their_error = norm([theirs[key] - exact[key] for key in exact]) / size
    assert error <= max(2 * their_error, 1e-5), (error, their_error)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_files_of_torch(name, is_zip, tmp_path):
    """Of `torch.save` today, and as many of torchvision's files were written."""
    state = make_peer(name, "float32").state_dict()
    state["half"] = torch.arange(6).reshape(2, 3).to(torch.bfloat16).T
    state["parameter"] = torch.nn.Parameter(torch.ones(2, 2))
    path = tmp_path / "net.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    read = nn.load_weights(path)
    assert list(read) == list(state)
    for key, tensor in state.items():
        expected = tensor.detach().float() if key == "half" else tensor.detach()
        assert read[key].dtype == expected.numpy().dtype
        assert np.array_equal(read[key], expected.numpy()), key
