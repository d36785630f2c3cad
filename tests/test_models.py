"""Networks: published numbers, receptive fields, summaries, the memory that dense blocks take."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stableops
from stableops import models, nn


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Nothing here depends on the level."""


PARAMETERS = {
    "lenet5": 61_706,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "nin": 7_595_176,
    "googlenet": 6_624_904,
    "inception_v1": 6_998_552,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_number_of_parameters(name):
    net = models.NETWORKS[name][0]()
    assert sum(array.size for array in net.parameters().values()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("make", "parameters"), [(models.googlenet, 13_004_888), (models.inception_v1, 13_378_280)]
)
def test_auxiliary_heads(make, parameters):
    net = make(aux_heads=True)
    assert sum(array.size for array in net.parameters().values()) == parameters


def test_inception_v1_trains_with_its_heads():
    rng = np.random.default_rng(0)
    net = models.inception_v1(10, aux_heads=True, rng=rng)
    x, labels = rng.random((2, 3, 224, 224), np.float32), np.arange(2)
    before = {key: array.copy() for key, array in net.parameters().items()}
    optimizer = nn.SGD(net, 1e-3)
    for _ in range(2):
        assert np.isfinite(nn.train_step(net, x, labels, optimizer, nn.CrossEntropyLoss()))
    assert net.aux1.logits.shape == net.aux2.logits.shape == (2, 10)
    for key, array in net.parameters().items():
        assert not np.array_equal(array, before[key]), key
    with_heads = net.eval()(x)
    net = models.inception_v1(10)
    net.load_state_dict({key: before[key] for key in net.parameters()})
    assert with_heads.shape == net.eval()(x).shape == (2, 10)


# Table I of the paper: rows are the maps of S2, columns the filters of C3.
TABLE = """
X...XXX..XXXX.XX
XX...XXX..XXXX.X
XXX...XXX..X.XXX
.XXX..XXXX..X.XX
..XXX..XXXX.XX.X
...XXX..XXXX.XXX
"""


def test_c3_of_1998_sees_what_the_paper_says():
    table = np.array([[cell == "X" for cell in row] for row in TABLE.split()])
    assert np.array_equal(models.lenet5_1998().c3.table, table.T)


# Araujo, Norris, Sim: "Computing receptive fields of convolutional neural networks", Distill 2019,
# whose networks are those of TensorFlow's slim.
RECEPTIVE_FIELDS = {
    "alexnet": (195, 32),  # alexnet_v2, at the last pooling
    "vgg16": (212, 32),
    # There the stride of a stage is in its last block, which sees more: 483. Here, as in
    # torchvision, it is in the first: 483 - 56.
    "resnet50": (427, 32),
}


@pytest.mark.parametrize("name", RECEPTIVE_FIELDS)
def test_published_receptive_field(name):
    make, shape = models.NETWORKS[name]
    summary = nn.summary(make(), shape)
    side, stride = RECEPTIVE_FIELDS[name]
    assert summary.receptive_field == (side, side)
    assert [layer.stride for layer in summary.layers if layer.stride][-1] == (stride, stride)
    assert summary.parameters == PARAMETERS[name]


def test_receptive_field_is_what_an_output_sees():
    """Change one pixel after the other, and look which outputs change."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, (3, 5), padding=(1, 2)),
        nn.Concat(nn.Conv2d(2, 1, 3, 2, padding=1), nn.MaxPool2d(2)),
        nn.Residual(conv=nn.Conv2d(3, 3, 3, padding=1)),
        nn.DenseBlock(nn.Conv2d(3, 1, 1), nn.Conv2d(4, 1, 3, padding=1), growth=1),
    ).initialize(np.random.default_rng(0))
    (rows, columns), (down, right) = (
        nn.summary(net, (1, 48, 48)).layers[-1].receptive_field,
        nn.summary(net, (1, 48, 48)).layers[-1].stride,
    )
    assert (down, right) == (2, 2)
    for _, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.weight[...] = 1
    net.eval()
    x = np.zeros((1, 1, 48, 48))
    centre = net(x)[0, :, 12, 12]
    seen = np.zeros((48, 48), bool)
    for row in range(48):
        for column in range(48):
            x[0, 0, row, column] = 1
            seen[row, column] = (net(x)[0, :, 12, 12] != centre).any()
            x[0, 0, row, column] = 0
    assert np.ptp(np.flatnonzero(seen.any(axis=1))) + 1 == rows
    assert np.ptp(np.flatnonzero(seen.any(axis=0))) + 1 == columns


def test_lenet_of_1998():
    summary = nn.summary(models.lenet5_1998(), (1, 32, 32))
    rows = {layer.name: (layer.parameters, layer.connections) for layer in summary.layers}
    assert rows["c1"] == (156, 122_304)
    assert rows["s2"] == (12, 5_880)
    assert rows["c3"] == (1_516, 151_600)
    assert rows["s4"] == (32, 2_000)
    assert rows["c5"] == (48_120, 48_120)
    assert rows["f6"] == (10_164, 10_164)
    assert rows["output"] == (0, 840)
    assert (summary.parameters, summary.connections) == (60_000, 340_908)


def test_centers_of_1998_are_ten_pictures():
    centers = models.lenet5_1998().output.centers
    assert centers.shape == (10, 84)
    assert set(np.unique(centers)) == {-1, 1}
    distances = ((centers[:, None] - centers) ** 2).sum(axis=2)
    assert distances[~np.eye(10, dtype=bool)].min() >= 16
    x = np.random.default_rng(0).standard_normal((3, 84))
    expected = -((x[:, None] - centers) ** 2).sum(axis=2)
    assert np.allclose(models.lenet5_1998().output(x), expected, rtol=1e-12)


def test_summary_leaves_the_network_as_it_is():
    net = models.small_densenet(rng=np.random.default_rng(0))
    net.features[0].eval()
    before = {key: array.copy() for key, array in net.state_dict().items()}
    summary = nn.summary(net, (1, 28, 28))
    assert net.training
    assert not net.features[0].training
    for key, array in net.state_dict().items():
        assert np.array_equal(array, before[key])
    assert not any("forward" in vars(module) for _, module in net.named_modules())
    convolutions = [layer for layer in summary.layers if layer.kind == "Conv2d"]
    assert convolutions[0].multiply_adds == 14 * 14 * 16 * 9
    assert "features.1.denselayer4.conv2" in str(summary)


def test_summary_names_the_layer_that_does_not_fit():
    with pytest.raises(ValueError, match=r"layer conv1 \(Conv2d\)"):
        nn.summary(models.resnet18(), (1, 64, 64))


def test_wrong_pictures_are_refused():
    with pytest.raises(nn.LayerError, match=r"layer features\.conv0 \(Conv2d\)"):
        models.densenet121()(np.zeros((1, 4, 64, 64), np.float32))


# Memory


MEASURE = """
import sys
import numpy as np
from stableops import nn
from stableops.models.densenet import dense_block

depth = int(sys.argv[1])
if sys.argv[2] == "kept":
    nn.DenseLayer.forward = nn.Sequential.forward
    nn.DenseLayer.backward = nn.Sequential.backward
block = dense_block(32, 16, depth).initialize(np.random.default_rng(0))
x = np.random.default_rng(0).random((4, 32, 32, 32), np.float32)
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])
before = peak()
for _ in range(2):
    y = block(x)
    block.backward(y)
print(peak() - before)
"""


def measured(script, *arguments, cache=0):
    """The number that a script prints, in a process of its own."""
    package = str(Path(stableops.__file__).resolve().parents[1])
    path = filter(None, [package, os.environ.get("PYTHONPATH")])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "STABLEOPS_CACHE_BYTES": str(cache),
        "STABLEOPS_NUM_THREADS": "2",
        # Each array has pages of its own, so that the peak is not one of fragments.
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def peak_memory(depth, inputs="recomputed"):
    """MiB that forward and backward through a dense block take on top of everything else."""
    return measured(MEASURE, str(depth), inputs) / 1024


PREDICT = """
import sys
import numpy as np
from stableops import nn

def unit(channels, width):
    return nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
layers = [layer for _ in range(8) for layer in unit(16, 16)]
if sys.argv[1] == "halves":
    layers = []
    for channels in (16, 32, 64):
        layers += [*unit(max(16, channels // 2), channels), *unit(channels, channels)]
        layers += [nn.MaxPool2d(2)]
net = nn.Sequential(*layers).initialize(np.random.default_rng(0)).eval().compile()
x = np.zeros((4, 256, 256, 16), np.float32).transpose(0, 3, 1, 2)
x[...] = 1
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])
before = peak()
for _ in range(3):
    net(x)
print((peak() - before) * 1024 / x.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_prediction_reuses_its_buffers():
    """Input and output of a layer, however many layers: beside the input two arrays and scratch."""
    assert 1.9 < measured(PREDICT, "equals") < 2.7
    assert 1.9 < measured(PREDICT, "halves") < 2.7


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_idle_blocks_serve_smaller_layers():
    """A quarter more for what the first pooling gives beside its input."""
    assert 1.9 < measured(PREDICT, "halves", cache=1 << 28) < 3.2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_dense_block_is_linear():
    """Where every layer keeps its normalised input it is quadratic."""
    depths = (6, 12, 24, 48)
    peaks = [peak_memory(depth) for depth in depths]
    assert max(np.divide(peaks, depths)) <= 1.1 * min(np.divide(peaks, depths)), peaks
    first, last = peak_memory(depths[0], "kept"), peak_memory(depths[-1], "kept")
    assert last / depths[-1] >= 1.6 * first / depths[0], (first, last)
    assert peaks[-1] < last / 2
