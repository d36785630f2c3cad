"""The networks that torchvision lacks, beside the same written with PyTorch's functions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")

from stableops import models  # noqa: E402

F = torch.nn.functional


@pytest.fixture(scope="module", autouse=True)
def isa():
    """The bits are the same on every level; that is tested elsewhere."""


class Weights(dict):
    """A state dict, with layers that find their arrays by name."""

    def conv(self, x, name, **settings):
        return F.conv2d(x, self[f"{name}.weight"], self[f"{name}.bias"], **settings)

    def unit(self, x, name, **settings):
        return F.relu(self.conv(x, f"{name}.conv", **settings))

    def dense(self, x, name):
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])


def lenet5(x, w):
    x = F.max_pool2d(F.relu(w.conv(x, "conv1", padding=2)), 2)
    x = F.max_pool2d(F.relu(w.conv(x, "conv2")), 2)
    x = F.relu(w.dense(x.flatten(1), "fc1"))
    return [w.dense(F.relu(w.dense(x, "fc2")), "fc3")]


def lenet5_1998(x, w):
    def squash(x):
        return 1.7159 * torch.tanh(2 / 3 * x)

    def subsample(x, name):
        sums = x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
        return sums * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    x = squash(subsample(squash(w.conv(x, "c1")), "s2"))
    x = squash(subsample(squash(w.conv(x, "c3")), "s4"))
    x = squash(w.dense(squash(w.conv(x, "c5")).flatten(1), "f6"))
    return [-((x[:, None] - w["output.centers"]) ** 2).sum(dim=2)]


def nin(x, w):
    for block, settings in enumerate(({"stride": 4}, {"padding": 2}, {"padding": 1}), start=1):
        x = w.unit(x, f"block{block}.0", **settings)
        x = w.unit(w.unit(x, f"block{block}.1"), f"block{block}.2")
        x = F.max_pool2d(x, 3, 2)
    x = w.unit(x, "block4.0", padding=1)
    return [w.unit(w.unit(x, "block4.1"), "block4.2").mean(dim=(2, 3))]


def inception_v1(x, w):
    """Table 1 of the paper, in training: the logits, and those of the heads."""

    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def block(x, name):
        return torch.cat(
            [
                w.unit(x, f"{name}.branch1"),
                w.unit(w.unit(x, f"{name}.branch2.0"), f"{name}.branch2.1", padding=1),
                w.unit(w.unit(x, f"{name}.branch3.0"), f"{name}.branch3.1", padding=2),
                w.unit(F.max_pool2d(x, 3, 1, 1), f"{name}.branch4.1"),
            ],
            dim=1,
        )

    def head(x, name):
        x = w.unit(F.avg_pool2d(x, 5, 3), f"{name}.conv").flatten(1)
        return w.dense(F.relu(w.dense(x, f"{name}.fc1")), f"{name}.fc2")

    x = F.local_response_norm(pool(w.unit(x, "conv1", stride=2, padding=3)), 5)
    x = w.unit(w.unit(x, "conv2"), "conv3", padding=1)
    x = pool(F.local_response_norm(x, 5))
    x = pool(block(block(x, "inception3a"), "inception3b"))
    x = block(x, "inception4a")
    heads = [head(x, "aux1")]
    for name in "bcd":
        x = block(x, f"inception4{name}")
    heads.append(head(x, "aux2"))
    x = pool(block(x, "inception4e"))
    x = block(block(x, "inception5a"), "inception5b")
    return [w.dense(x.mean(dim=(2, 3)), "fc"), *heads]


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("peer", [lenet5, lenet5_1998, nin, inception_v1])
def test_logits(peer, dtype, bound):
    make, shape = models.NETWORKS[peer.__name__]
    rng = np.random.default_rng(0)
    settings = {"aux_heads": True} if peer is inception_v1 else {}
    net = make(rng=rng, **settings).astype(dtype)
    for array in net.parameters().values():
        if array.ndim == 1:
            array += rng.uniform(-0.2, 0.2, array.shape).astype(dtype)
    for _, module in net.named_modules():
        if hasattr(module, "p"):
            module.p = 0.0
    x = rng.standard_normal((2, *shape)).astype(dtype)
    state = {key: torch.from_numpy(array) for key, array in net.state_dict().items()}
    with torch.no_grad():
        expected = [logits.numpy() for logits in peer(torch.from_numpy(x), Weights(state))]
    results = [net(x)]
    if peer is inception_v1:
        results += [net.aux1.logits, net.aux2.logits]
    results.append(net.compile()(x))
    expected.append(expected[0])
    for ours, theirs in zip(results, expected, strict=True):
        assert np.ptp(theirs) > 0.01 * np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()
