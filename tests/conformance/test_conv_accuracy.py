"""The error of conv2d beside PyTorch's on the same inputs, in units of eps * sum |terms|.

Every library rounds the same terms in an order of its own, so on one input either may be luckier:
orders are compared by the root mean square over all outputs of several inputs. One chain of fused
multiply-additions, as PyTorch's channels-last kernels have it, has an error several times as large
on long sums; blocks of another length than ours come out up to a quarter better or worse. A layer
of no more than 128 terms is one chain here too.
"""

import numpy as np
import pytest

import stableops as so

torch = pytest.importorskip("torch", reason='pip install "stableops[conformance]"')

# channels, size, filters, kernel
LAYERS = [(64, 14, 64, 3), (512, 7, 64, 3), (1024, 7, 64, 1), (16, 14, 32, 5), (3, 32, 32, 3)]
SEEDS = 4


def inputs(kind, seed, channels, size, filters, kernel):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, channels, size, size))
    w = rng.standard_normal((filters, channels, kernel, kernel))
    if kind == "positive":
        x, w = abs(x), abs(w)
    if kind == "after relu":
        x = np.maximum(x, 0)
    if kind == "one huge term":
        x[0, 0, size // 2, size // 2] = 1e6
    return x.astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "positive", "after relu", "one huge term"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_error_beside_torch(layer, kind):
    padding = layer[3] // 2
    ours, theirs = [], {"nchw": [], "channels_last": []}
    for seed in range(SEEDS):
        x, w = inputs(kind, seed, *layer)
        tx, tw = torch.from_numpy(x), torch.from_numpy(w)
        conv = torch.nn.functional.conv2d
        exact = conv(tx.double(), tw.double(), padding=padding).numpy()
        size = conv(tx.double().abs(), tw.double().abs(), padding=padding).numpy() * 2.0**-24
        ours.append((so.conv2d(x, w, padding=padding) - exact) / size)
        for layout, errors in theirs.items():
            if layout == "channels_last":
                tx = tx.contiguous(memory_format=torch.channels_last)
            errors.append((conv(tx, tw, padding=padding).numpy() - exact) / size)

    def spread(errors):
        return float(np.sqrt(np.mean(np.square(errors))))

    for errors in theirs.values():
        assert spread(ours) < 1.25 * spread(errors)
