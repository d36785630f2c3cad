"""Read weights that `torch.save` wrote, without PyTorch and without executing anything.

A file of weights is a pickle, and a pickle can name any function for its reader to call. This one
knows a few names, which rebuild tensors and dictionaries of them, and stops at every other.
"""

from __future__ import annotations

import math
import pickle
import re
import reprlib
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from stableops.nn._module import Array

__all__ = ["read_pth"]

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of `torch.save` before its zip format begins with."""


class StorageKind(NamedTuple):
    """A name that stands for a type of numbers; nothing that could be called."""

    name: str


class Storage(NamedTuple):
    """Numbers that tensors are views of; in the old format they come after the tensors."""

    kind: StorageKind
    key: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class RebuildTensor:
    """Stands for torch._utils._rebuild_tensor_v2."""

    __slots__ = ()

    def __call__(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *_gradient_and_hooks: Any
    ) -> Tensor:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, Storage) or len(shape) != len(strides):
            msg = "a tensor without a storage, or with other strides than axes"
            raise pickle.UnpicklingError(msg)
        if not all(type(number) is int and number >= 0 for number in numbers):
            msg = f"a tensor of impossible shape or strides {reprlib.repr(numbers)}"
            raise pickle.UnpicklingError(msg)
        size = math.prod(shape)
        end = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
        # Also of a tensor that shows the same numbers many times, which could fill the memory.
        if size > storage.numel or (size and end > storage.numel):
            extent = f"a storage of {storage.numel} numbers"
            msg = f"a tensor of shape {reprlib.repr(tuple(shape))} on {extent}"
            raise pickle.UnpicklingError(msg)
        return Tensor(storage, offset, tuple(shape), tuple(strides))


class RebuildParameter:
    """Stands for torch._utils._rebuild_parameter."""

    __slots__ = ()

    def __call__(self, tensor: Any, *_gradient_and_hooks: Any) -> Any:
        return tensor


class Parts(tuple[Any, ...]):
    """A tuple that cannot be a key: to hash one that holds itself twice, sixty times over, takes
    for ever."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]


def _without_hash(load: Any) -> Any:
    def load_parts(reader: Any) -> None:
        load(reader)
        reader.stack[-1] = Parts(reader.stack[-1])

    return load_parts


TUPLES = pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3


class Unpickler(pickle._Unpickler):
    """Knows the names that weights need, and none else.

    It is the one written in Python because the one in C keeps its memory of objects in an array, as
    long as a file of a hundred bytes can ask for. An opcode of protocol 5 allocates as freely.
    """

    dispatch: ClassVar[Any] = {
        code: _without_hash(load) if code in TUPLES else load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return StorageKind(name)
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): RebuildTensor(),
            ("torch._utils", "_rebuild_parameter"): RebuildParameter(),
        }
        if (module, name) not in known:
            msg = f"it names {module}.{name}, which has no place in a file of weights"
            raise pickle.UnpicklingError(msg)
        return known[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        _, kind, key, _, count, *_ = pid
        if not (isinstance(kind, StorageKind) and isinstance(key, str) and type(count) is int):
            msg = "a storage without type, name or length"
            raise pickle.UnpicklingError(msg)
        return Storage(kind, key, count)


def read_pth(path: str | Path) -> dict[str, Array]:
    """Read a dictionary of tensors, in the zip format of `torch.save` or the one before it.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    dict of str to ndarray
        bfloat16 becomes float32. Tensors that share numbers in the file share them here.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is damaged, or holds anything but a flat dictionary of tensors. Nothing of it has been
        executed.
    """
    with Path(path).open("rb") as file:
        try:
            found, contents_of = _zipped(file) if zipfile.is_zipfile(file) else _legacy(file)
            if not isinstance(found, dict):
                msg = f"it holds no dictionary of tensors but {type(found).__name__}"
                raise pickle.UnpicklingError(msg)
            # Once for all tensors on it, of which a small file can name many.
            numbers: dict[Storage, Array] = {}
            state = {}
            for name, tensor in found.items():
                if not (isinstance(name, str) and isinstance(tensor, Tensor)):
                    msg = f"its entry {reprlib.repr(name)} is no tensor"
                    raise pickle.UnpicklingError(msg)
                storage = tensor.storage
                if storage not in numbers:
                    numbers[storage] = _numbers(storage, contents_of(storage))
                state[_renamed(name)] = _view(tensor, numbers[storage])
        # Whatever a damaged or hostile file makes the readers stumble over.
        except Exception as error:
            msg = f"no weights can be read from {path}: {str(error) or type(error).__name__}"
            raise ValueError(msg) from error
    return state


def _zipped(file: IO[bytes]) -> tuple[Any, Callable[[Storage], bytes]]:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    heads = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl")]
    if len(heads) != 1:
        msg = f"it is a zip file with {len(heads)} entries data.pkl, where torch.save writes one"
        raise pickle.UnpicklingError(msg)
    head = heads[0]

    def contents(name: str) -> bytes:
        # A compressed entry can be as large as it likes.
        if entries[head + name].compress_type != zipfile.ZIP_STORED:
            msg = f"its entry {name} is compressed, which torch.save never does"
            raise pickle.UnpicklingError(msg)
        return archive.read(head + name)

    if head + "byteorder" in entries and contents("byteorder") != b"little":
        msg = "its numbers are big-endian"
        raise pickle.UnpicklingError(msg)
    with archive.open(head + "data.pkl") as pickled:
        contents("data.pkl")
        found = Unpickler(pickled).load()
    return found, lambda storage: contents(f"data/{storage.key}")


def _legacy(file: IO[bytes]) -> tuple[Any, Callable[[Storage], bytes]]:
    file.seek(0)
    # Three pickles first: a magic number, the version of the format, the sizes of C's types.
    if Unpickler(file).load() != MAGIC:
        msg = "it is no file of torch.save"
        raise pickle.UnpicklingError(msg)
    Unpickler(file).load()
    Unpickler(file).load()
    reader = _StorageReader(file)
    found = reader.load()
    numbers = {}
    for key in Unpickler(file).load():
        kind = reader.kinds[key]
        (count,) = struct.unpack("<q", file.read(8))
        numbers[key] = file.read(max(0, count) * np.dtype(DTYPES[kind.name]).itemsize)
    return found, lambda storage: numbers[storage.key]


class _StorageReader(Unpickler):
    """Remembers the types of the storages that it meets."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.kinds: dict[str, StorageKind] = {}

    def persistent_load(self, pid: Any) -> Storage:
        storage = super().persistent_load(pid)
        self.kinds[storage.key] = storage.kind
        return storage


def _numbers(storage: Storage, contents: bytes) -> Array:
    dtype = np.dtype(DTYPES[storage.kind.name])
    if len(contents) != storage.numel * dtype.itemsize:
        msg = f"it ends early: {len(contents)} bytes of {storage.numel} {dtype} numbers"
        raise pickle.UnpicklingError(msg)
    numbers = np.frombuffer(contents, dtype)
    if storage.kind.name == "BFloat16Storage":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.copy()


def _view(tensor: Tensor, numbers: Array) -> Array:
    steps = [step * numbers.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps)


def _renamed(name: str) -> str:
    """Drop a dot that torchvision's DenseNets had in their names once: norm.1 for norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)
