"""Weights from and to files; damaged and hostile files."""

import io
import pickle
import re
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from stableops import models, nn
from stableops.nn import _pth


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Nothing here depends on the level."""


@pytest.fixture
def net():
    net = models.small_resnet(rng=np.random.Generator(np.random.Philox(0)))
    net(np.random.default_rng(1).random((2, 1, 28, 28), np.float32))
    return net


def same(a, b):
    assert sorted(a) == sorted(b)
    for key in a:
        assert a[key].shape == b[key].shape
        assert a[key].dtype == b[key].dtype
        assert np.array_equal(a[key], b[key])


# What `torch.save` writes, written here without torch: a pickle with the names that it uses. The
# conformance suite reads files of torch itself.


class Named:
    """Pickles as the name of something that need not exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Called:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Stored:
    """Pickles as a persistent id."""

    def __init__(self, pid):
        self.pid = pid


class Pickler(pickle._Pickler):
    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Called):
            self.save(value.function)
            self.save(value.arguments)
            self.write(b"R")
        elif isinstance(value, Stored):
            self.save(value.pid)
            self.write(b"Q")
        else:
            super().save(value, save_persistent_id)


def pickled(value):
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


REBUILD = Named("torch._utils", "_rebuild_tensor_v2")
KINDS = {np.dtype(code): name for name, code in _pth.DTYPES.items() if name != "BFloat16Storage"}


def tensor(array, key, *, legacy=False, **changes):
    kind = Named("torch", changes.get("kind") or KINDS[array.dtype])
    count = changes.get("count", array.size)
    pid = ("storage", kind, key, "cpu", count, *((None,) if legacy else ()))
    strides = tuple(step // array.itemsize for step in array.strides)
    return Called(
        REBUILD,
        Stored(pid),
        changes.get("offset", 0),
        changes.get("shape", array.shape),
        changes.get("strides", strides),
        False,
        OrderedDict(),
    )


def write_pth(path, state, *, found=None, compression=zipfile.ZIP_STORED, **changes):
    tensors = {
        name: tensor(array, str(i), **changes) for i, (name, array) in enumerate(state.items())
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", pickled(tensors if found is None else found))
        archive.writestr("net/byteorder", changes.get("byteorder", "little"))
        for i, array in enumerate(state.values()):
            archive.writestr(f"net/data/{i}", array.tobytes())


def write_legacy(path, state, found=None):
    tensors = {
        name: tensor(array, str(i), legacy=True) for i, (name, array) in enumerate(state.items())
    }
    with path.open("wb") as file:
        file.write(pickled(_pth.MAGIC) + pickled(1001) + pickled({"little_endian": True}))
        file.write(pickled(tensors if found is None else found))
        file.write(pickled([str(i) for i in range(len(state))]))
        for array in state.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


WRITERS = {
    "npz": nn.save_weights,
    "safetensors": nn.save_weights,
    "pth": write_pth,
    "legacy.pth": write_legacy,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_weights_come_back(suffix, net, tmp_path):
    if suffix == "safetensors":
        pytest.importorskip("safetensors", reason='pip install "stableops[safetensors]"')
    path = tmp_path / f"net.{suffix}"
    WRITERS[suffix](path, net.state_dict())
    same(nn.load_weights(path), net.state_dict())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    models.small_resnet().load_state_dict(nn.load_weights(path))


@pytest.mark.parametrize("suffix", WRITERS)
def test_damaged_files(suffix, net, tmp_path):
    """Cut anywhere, or with bytes changed, a file gives weights or a ValueError that names it."""
    if suffix == "safetensors":
        pytest.importorskip("safetensors", reason='pip install "stableops[safetensors]"')
    path = tmp_path / f"net.{suffix}"
    state = {key: array for key, array in net.state_dict().items() if array.size < 2000}
    WRITERS[suffix](path, state)
    whole = path.read_bytes()
    for length in [0, 1, 7, 30, *range(50, len(whole) - 1, len(whole) // 23), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(f"no weights can be read from {path}: ")):
            nn.load_weights(path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        # The pickle is in the first part, the list of entries in the last.
        for place in rng.integers(0, 3000, 4):
            damaged[place if rng.random() < 0.7 else -1 - place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            read = nn.load_weights(path)
        except ValueError:
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in read.values())
    assert refused > 20


HOSTILE = {
    "os.system": lambda: Called(Named("os", "system"), "touch executed"),
    "posix.system": lambda: Called(Named("posix", "system"), "touch executed"),
    "builtins.eval": lambda: Called(Named("builtins", "eval"), "open('executed', 'w')"),
    "builtins.getattr": lambda: Called(Named("builtins", "getattr"), OrderedDict(), "clear"),
    "stableops.nn._pth.DTYPES": lambda: Named("stableops.nn._pth", "DTYPES"),
    "numpy.core.multiarray._reconstruct": lambda: Named("numpy.core.multiarray", "_reconstruct"),
    "torch.serialization.load": lambda: Named("torch.serialization", "load"),
}


@pytest.mark.parametrize("write", [write_pth, write_legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_executed(name, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pth"
    write(path, {}, found={"weight": HOSTILE[name]()})
    with pytest.raises(ValueError, match=re.escape(f"it names {name}, which has no place")):
        nn.load_weights(path)
    assert not (tmp_path / "executed").exists()
    write(path, {}, found={"weight": Stored(("storage", HOSTILE[name](), "0", "cpu", 3))})
    with pytest.raises(ValueError, match=r"a storage|names"):
        nn.load_weights(path)


def test_known_names_cannot_be_changed(tmp_path):
    """The opcode BUILD sets attributes of what is on the stack."""
    for target in (REBUILD, Named("torch", "FloatStorage"), Named("collections", "OrderedDict")):
        data = pickled(target)[:-1] + pickled((None, {"__call__": 1, "__defaults__": (1,)}))[2:-1]
        path = tmp_path / "hostile.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", data + b"b.")
        with pytest.raises(ValueError, match="no weights can be read"):
            nn.load_weights(path)
    state = {"weight": np.arange(3.0)}
    write_pth(path, state)
    same(nn.load_weights(path), state)


WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"shape": (2, 4), "strides": (3, 1)}, "a tensor of shape (2, 4) on a storage of 6"),
        ({"shape": (10**12,), "strides": (0,)}, "a tensor of shape (1000000000000,)"),
        ({"offset": 1}, "a tensor of shape (2, 3) on a storage of 6"),
        ({"offset": -1}, "impossible"),
        ({"shape": (-2, -3)}, "impossible"),
        ({"strides": (3, -1)}, "impossible"),
        ({"strides": (3,)}, "other strides than axes"),
        ({"shape": (2.0, 3)}, "impossible"),
        ({"count": 10**13}, "it ends early"),
        ({"count": -1}, "on a storage of -1"),
        ({"kind": "DoubleStorage"}, "it ends early"),
        ({"byteorder": "big"}, "big-endian"),
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),
        ({"found": [1, 2]}, "no dictionary of tensors but list"),
        ({"found": {"epoch": 3}}, "its entry 'epoch' is no tensor"),
        ({"found": {"net": {"weight": 1}}}, "its entry 'net' is no tensor"),
        ({"found": {3: 4}}, "its entry 3 is no tensor"),
        ({"found": {"x" * 9999: 4}}, "xxx' is no tensor"),
    ],
)
def test_impossible_tensors(changes, text, tmp_path):
    path = tmp_path / "net.pth"
    write_pth(path, {"weight": WEIGHT}, **changes)
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.load_weights(path)


def test_views_and_types(tmp_path):
    path = tmp_path / "net.pth"
    write_pth(path, {"weight": WEIGHT}, shape=(3, 2), strides=(1, 3))
    same(nn.load_weights(path), {"weight": WEIGHT.T})
    write_pth(path, {"weight": WEIGHT}, shape=(2,), strides=(3,), offset=2)
    same(nn.load_weights(path), {"weight": WEIGHT[:, 2]})
    state = {name: np.ones(3, code) for name, code in _pth.DTYPES.items()}
    del state["BFloat16Storage"]
    write_pth(path, state)
    same(nn.load_weights(path), state)
    half = np.array([1.5, -2.0], np.float32)
    write_pth(path, {"weight": (half.view(np.uint32) >> 16).astype("<u2")}, kind="BFloat16Storage")
    same(nn.load_weights(path), {"weight": half})


def test_any_name_can_be_saved(tmp_path):
    path = tmp_path / "net.npz"
    state = {"file": np.ones(3), "allow_pickle": np.zeros(2), "a/b.weight": np.ones((2, 0))}
    nn.save_weights(path, state)
    same(nn.load_weights(path), state)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_bfloat16_comes_back(suffix, tmp_path):
    if suffix == "safetensors":
        pytest.importorskip("safetensors", reason='pip install "stableops[safetensors]"')
    path = tmp_path / f"net.{suffix}"
    net = nn.Linear(3, 2).initialize(np.random.default_rng(0)).astype(ml_dtypes.bfloat16)
    nn.save_weights(path, net.state_dict())
    other = nn.Linear(3, 2).astype(ml_dtypes.bfloat16)
    other.load_state_dict(nn.load_weights(path))
    same(other.state_dict(), net.state_dict())


def test_an_npz_of_something_else(tmp_path):
    path = tmp_path / "net.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(ValueError, match=r"its entry 'notes\.txt' is no array"):
        nn.load_weights(path)


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "net.pth"
    # "Remember None as number 100 million."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02Nr" + struct.pack("<I", 10**8) + b".")
    tracemalloc.start()
    with pytest.raises(ValueError, match="no dictionary of tensors but NoneType"):
        nn.load_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    # "An array of so many bytes."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x05\x96" + struct.pack("<Q", 10**8) + b".")
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match="no weights can be read"):
        nn.load_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    # Many tensors on the same numbers.
    numbers = np.arange(100_000, dtype=np.float32)
    kind = Named("torch", "FloatStorage")
    storage = Stored(("storage", kind, "0", "cpu", numbers.size))
    arguments = storage, 0, numbers.shape, (1,), False, OrderedDict()
    found = {f"w{i}": Called(REBUILD, *arguments) for i in range(300)}
    write_pth(path, {"w": numbers}, found=found)
    tracemalloc.reset_peak()
    state = nn.load_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 4 * path.stat().st_size
    tracemalloc.stop()
    assert all(np.array_equal(array, numbers) for array in state.values())
    assert len(state) == 300


NESTED = b"N" + b"2\x86" * 60  # None, and sixty times a pair of what there is with itself
ORDERED = b"\x80\x02ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}" + NESTED + b"Ns.",
        b"\x80\x02(" + NESTED + b"Nd.",
        b"\x80\x04(" + NESTED + b"\x91.",
        b"\x80\x04\x8f(" + NESTED + b"\x90.",
        ORDERED + b"](" + NESTED + b"N\x86e\x85R.",
        ORDERED + b")R}" + NESTED + b"Nsb.",
    ],
    ids=["SETITEM", "DICT", "FROZENSET", "ADDITEMS", "REDUCE", "BUILD"],
)
def test_a_small_file_does_not_take_for_ever(data, tmp_path):
    """To hash a nested tuple takes as long as writing it out, which is 2^60 long."""
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", data)
    with pytest.raises(ValueError, match="unhashable"):
        nn.load_weights(path)


def test_messages_are_short(tmp_path):
    """Also where what they name is written a million times longer than it is stored."""
    path = tmp_path / "net.pth"
    nested = 1
    for _ in range(22):
        nested = (nested, nested)
    write_pth(path, {"weight": WEIGHT}, shape=(nested,), strides=(1,))
    with pytest.raises(ValueError, match="impossible shape") as error:
        nn.load_weights(path)
    assert len(str(error.value)) < 500
    write_pth(path, {"weight": WEIGHT}, shape=(2,) * 1000, strides=(1,) * 1000)
    with pytest.raises(ValueError, match="on a storage of 6 numbers") as error:
        nn.load_weights(path)
    assert len(str(error.value)) < 500


def test_another_zip_file(tmp_path):
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "x")
    with pytest.raises(ValueError, match=r"zip file with 0 entries data\.pkl"):
        nn.load_weights(path)


def test_old_names_of_densenets(tmp_path):
    path = tmp_path / "net.pth"
    write_pth(path, {"features.denseblock1.denselayer2.norm.1.weight": WEIGHT})
    assert list(nn.load_weights(path)) == ["features.denseblock1.denselayer2.norm1.weight"]


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, weight=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="no weights can be read"):
        nn.load_weights(path)


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match=r"does not end with \.npz or \.safetensors"):
        nn.load_weights(tmp_path / "net.bin")
    with pytest.raises(ValueError, match=r"does not end with"):
        nn.save_weights(tmp_path / "net.pth", {})
    for suffix in ("npz", "pth", "safetensors"):
        with pytest.raises(FileNotFoundError):
            nn.load_weights(tmp_path / f"missing.{suffix}")


def test_a_file_stays_if_writing_fails(net, tmp_path):
    path = tmp_path / "net.npz"
    nn.save_weights(path, net.state_dict())
    before = path.read_bytes()
    for state in (
        {"w": np.ones(3), "objects": np.array([{}], object)},
        {"w.npy": np.ones(3)},
        {3: np.ones(3)},
    ):
        with pytest.raises(ValueError, match="cannot be saved"):
            nn.save_weights(path, state)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.npz"]
