"""Weights from and to files."""

from __future__ import annotations

import reprlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stableops.nn._pth import read_pth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stableops.nn._module import Array

__all__ = ["check_format", "load_weights", "save_weights"]


def load_weights(path: str | Path) -> dict[str, Array]:
    """Read named arrays, for `Module.load_state_dict`; nothing in the file is executed.

    The arrays take as much memory as the file has bytes (of bfloat16 twice as much). Only an
    ``.npz`` may be compressed, up to a thousandfold: a small one from a stranger can fill the
    memory.

    Parameters
    ----------
    path : path
        What it ends with tells the format: ``.npz`` (NumPy), ``.safetensors`` (needs the package
        `safetensors`), ``.pth`` or ``.pt`` (`torch.save` of a state dict, such as the files of
        torchvision).

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        If `safetensors` is needed and not installed.
    ValueError
        If the format is not known; if the file is damaged, or holds anything but arrays.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from stableops import models, nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "lenet5.npz"
    ...     nn.save_weights(path, models.lenet5().state_dict())
    ...     models.lenet5().load_state_dict(nn.load_weights(path))
    """
    path = Path(path)
    if path.suffix in (".pth", ".pt"):
        return read_pth(path)
    if path.suffix == ".safetensors":
        with path.open("rb"):
            return _reported(path, _safetensors().load_file)
    if path.suffix == ".npz":
        with path.open("rb"):
            return _reported(path, _load_npz)
    raise ValueError(_unknown(path))


def save_weights(path: str | Path, state: Mapping[str, Array]) -> None:
    """Write named arrays, as given by `Module.state_dict`.

    The file appears when it is complete; until then, one that was there before stays.

    Parameters
    ----------
    path : path
        Ends with ``.npz``, or ``.safetensors`` (needs the package `safetensors`). An ``.npz`` has
        no bfloat16; it becomes float32.
    state : mapping of str to ndarray
        The arrays.

    Raises
    ------
    OSError
        If the file cannot be written.
    ImportError
        If `safetensors` is needed and not installed.
    ValueError
        If the format is another one; if a name ends with ``.npy``, which NumPy takes off, or an
        array holds objects.
    """
    path = Path(path)
    check_format(path)
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or name.endswith(".npy") or array.dtype.hasobject:
            msg = f"{name!r} cannot be saved: {array.dtype}, or a name that would not come back"
            raise ValueError(msg)
    beginning = path.with_name(path.name + ".part")
    try:
        if path.suffix == ".npz":
            _save_npz(beginning, arrays)
        else:
            _safetensors().save_file(arrays, beginning)
        beginning.replace(path)
    finally:
        beginning.unlink(missing_ok=True)


def check_format(path: Path) -> None:
    """Raise what `save_weights` raises for the end of a name."""
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(_unknown(path))
    if path.suffix == ".safetensors":
        _safetensors()


def _save_npz(path: Path, arrays: dict[str, Array]) -> None:
    """Save as `numpy.savez` does, whose own arguments cannot be names of arrays."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            known = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, known, allow_pickle=False)


def _load_npz(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        msg = "it is no .npz file"
        raise ValueError(msg)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        state = {name: arrays[name] for name in arrays.files}
    for name, array in state.items():
        if not isinstance(array, np.ndarray):
            msg = f"its entry {reprlib.repr(name)} is no array"
            raise ValueError(msg)
    return state


def _reported(path: Path, load: Any) -> dict[str, Array]:
    try:
        state: dict[str, Array] = load(path)
    # Whatever a damaged or hostile file makes the readers stumble over.
    except Exception as error:
        msg = f"no weights can be read from {path}: {str(error) or type(error).__name__}"
        raise ValueError(msg) from error
    return state


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        msg = 'files of safetensors need a package: pip install "stableops[safetensors]"'
        raise ImportError(msg) from None
    return safetensors.numpy


def _unknown(path: Path) -> str:
    return f"{path} does not end with .npz or .safetensors (or, for reading, .pth or .pt)"
