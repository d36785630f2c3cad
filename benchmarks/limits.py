"""The machine's limits, measured by limits.cpp in the same run, and how long a case must take."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.machine import available_cpus, spread_cpus

SOURCE = Path(__file__).with_name("limits.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")
KINDS = ("read", "write", "copy", "write_non_temporal", "copy_non_temporal")
BUFFER_SIZES = tuple(1 << power for power in (14, 15, 17, 18, 20, 21, 23, 24, 26, 27))


class NoLimits(Exception):
    """The limits cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Limits:
    """Peaks for one number of threads, in floating-point operations and bytes a second."""

    threads: int
    vector_bits: int
    fma: bool
    flops_float32: float
    flops_float64: float
    bandwidths: dict[str, dict[int, float]]
    """By kind of pass and by the bytes of the arrays passed over."""

    def to_json(self) -> dict:
        return asdict(self)

    def bandwidth(self, kind: str, working_set: int) -> float:
        """The best rate of that kind for arrays of `working_set` bytes, non-temporal or not.

        Taken from the next smaller measured size on: that is the faster one, and what a larger
        array reaches a smaller one can reach, so a limit stays a limit on a noisy machine.
        """
        fits = max((s for s in BUFFER_SIZES if s <= working_set), default=BUFFER_SIZES[0])
        return max(
            rate
            for name in (kind, f"{kind}_non_temporal")
            for size, rate in self.bandwidths.get(name, {}).items()
            if size >= fits
        )

    def seconds(self, flops: float, bytes_read: int, bytes_written: int, dtype: str) -> float:
        """The time that the case's operations or its bytes alone need, whichever is longer."""
        peak = self.flops_float64 if dtype == "float64" else self.flops_float32
        copied = min(bytes_read, bytes_written)
        working_set = bytes_read + bytes_written
        moving = (
            2 * copied / self.bandwidth("copy", working_set)
            + (bytes_read - copied) / self.bandwidth("read", working_set)
            + (bytes_written - copied) / self.bandwidth("write", working_set)
        )
        return max(flops / peak, moving)


@contextlib.contextmanager
def compiled() -> Iterator[ctypes.CDLL]:
    """limits.cpp as a loaded library, compiled for this machine."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise NoLimits(f"no C++ compiler: none of {', '.join(COMPILERS)} is there, CXX is not set")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limits.so"
        command = [*shlex.split(compiler), *FLAGS, "-o", str(library), str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            loaded = ctypes.CDLL(str(library))
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()
            raise NoLimits(f"{compiler} failed: {reason[0] if reason else error}") from None
        except OSError as error:
            raise NoLimits(f"{compiler}: {error}") from None
        for function in (loaded.flops_float32, loaded.flops_float64):
            function.restype = ctypes.c_double
        loaded.bandwidth.restype = ctypes.c_double
        loaded.bandwidth.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
        yield loaded


@contextlib.contextmanager
def confined(threads: int) -> Iterator[None]:
    """The processors that the workers with this number of threads have, too."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = available_cpus()
    os.sched_setaffinity(0, spread_cpus(threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(library: ctypes.CDLL, threads: int) -> Limits:
    with confined(threads):
        return Limits(
            threads=threads,
            vector_bits=library.vector_bits(),
            fma=bool(library.has_fma()),
            flops_float32=library.flops_float32(threads),
            flops_float64=library.flops_float64(threads),
            bandwidths={
                kind: {size: library.bandwidth(i, size, threads) for size in BUFFER_SIZES}
                for i, kind in enumerate(KINDS)
            },
        )


def best_of(first: Limits, second: Limits) -> Limits:
    """A limit is the best that was seen: what disturbs the machine can only lower it."""
    return replace(
        first,
        flops_float32=max(first.flops_float32, second.flops_float32),
        flops_float64=max(first.flops_float64, second.flops_float64),
        bandwidths={
            kind: {size: max(rate, second.bandwidths[kind][size]) for size, rate in rates.items()}
            for kind, rates in first.bandwidths.items()
        },
    )
