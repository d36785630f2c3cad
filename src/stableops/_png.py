"""A picture, written as a PNG file with nothing but zlib."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["encode_png", "write_png"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode an RGB picture as a PNG file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        Red, green and blue from 0 to 255.

    Returns
    -------
    bytes
        The contents of the file.

    Raises
    ------
    ValueError
        If `pixels` is not a non-empty uint8 array of shape (H, W, 3).
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        msg = (
            "encode_png: pixels must be a non-empty uint8 array of shape (H, W, 3), "
            f"got {pixels.dtype} {pixels.shape}"
        )
        raise ValueError(msg)
    height, width, _ = pixels.shape
    # Every row starts with the number of its filter: 1 stores the difference to the pixel on the
    # left (modulo 256), which turns flat areas into zeros.
    rows = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = 1
    rows[:, 1:4] = pixels[:, 0]
    rows[:, 4:] = (pixels[:, 1:] - pixels[:, :-1]).reshape(height, -1)
    eight_bit_rgb = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        SIGNATURE
        + _chunk(b"IHDR", eight_bit_rgb)
        + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def write_png(path: str | os.PathLike[str], pixels: npt.NDArray[np.uint8]) -> None:
    """Write an RGB picture, uint8 of shape (H, W, 3), to a PNG file.

    Parameters
    ----------
    path : path-like
        The file, replaced if it exists.
    pixels : ndarray of uint8, shape (H, W, 3)
        As for `encode_png`.
    """
    Path(path).write_bytes(encode_png(pixels))


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
