"""A process for each library: thread pools of two libraries in one process disturb each other.

The driver holds a :class:`Worker` and asks it for one thing at a time; :func:`serve` is what runs
in the process. A library that crashes or hangs takes only its process with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.cases import all_cases, with_layout
from benchmarks.machine import spread_cpus
from benchmarks.peers import Peer

START_TIMEOUT = 120.0
LONG_CALL = 0.05  # seconds; longer than it takes to fill every cache again
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "STABLEOPS_NUM_THREADS",
)


class LibraryError(Exception):
    """The library raised an exception; the process goes on."""


class NotOffered(Exception):
    """The installed version of the library has no such function."""


class WorkerLost(Exception):
    """The process died or did not answer in time."""


class Worker:
    """One library in a process of its own, started at the first question and after each loss."""

    def __init__(
        self, peer: Peer, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.peer = peer
        self.threads = threads
        self.environment = {
            **dict.fromkeys(THREAD_VARIABLES, str(threads)),
            **(environment or {}),
        }
        self.version: str | None = None
        self.unusable: str | None = None
        """Why the library cannot take part at all, once that is known."""
        self.process: multiprocessing.process.BaseProcess | None = None
        self.connection: Connection | None = None
        if peer.missing:
            self.unusable = f"not installed: {peer.install}"

    def begin(self) -> None:
        """Start the process without waiting for it."""
        if self.process or self.unusable:
            return
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, self.peer.module, self.threads), daemon=True
        )
        with environment(self.environment):
            self.process.start()
        theirs.close()
        self.version = None

    def ready(self) -> bool:
        """Whether the library takes part; waits until it is imported."""
        self.begin()
        if self.unusable or self.version:
            return self.unusable is None
        try:
            self.version = self._receive(START_TIMEOUT)
            self._signal("SIGSTOP")
        except (LibraryError, WorkerLost) as error:
            self.stop()
            self.unusable = f"does not start: {error}"
        return self.unusable is None

    def ask(self, command: str, timeout: float, *arguments: Any) -> Any:
        if not self.ready():
            raise LibraryError(self.unusable)
        self._signal("SIGCONT")
        try:
            self.connection.send((command, arguments))
        except OSError:
            self._lost()
        try:
            return self._receive(timeout)
        finally:
            self._signal("SIGSTOP")

    def _signal(self, name: str) -> None:
        """Let the process run only while it is asked: ONNX Runtime's threads spin for 20 ms after
        a call, on processors that belong to the next library in turn."""
        number = getattr(signal, name, None)
        if number and self.process:
            os.kill(self.process.pid, number)

    def _receive(self, timeout: float) -> Any:
        try:
            if not self.connection.poll(timeout):
                self.stop()
                raise WorkerLost(f"no answer within {timeout:.0f} s")
            kind, value = self.connection.recv()
        except (EOFError, ConnectionError):
            self._lost()
        if kind != "value":
            raise {"error": LibraryError, "not offered": NotOffered}[kind](value)
        return value

    def _lost(self) -> None:
        self.process.join(5)
        code = self.process.exitcode
        self.stop()
        if code is not None and code < 0:
            raise WorkerLost(f"died of {signal.Signals(-code).name}")
        raise WorkerLost(f"died with exit status {code}")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.join()
            self.connection.close()
        self.process = self.connection = self.version = None


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables set while a process is started: libraries read them when they load."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def stopping(workers: Sequence[Worker]) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()


def serve(connection: Connection, module: str, threads: int) -> None:
    """Answer the driver until it goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spread_cpus(threads))
    silence_output()
    try:
        library = importlib.import_module(module)
        connection.send(("value", library.load(threads)))
    except Exception as error:
        connection.send(("error", describe(error)))
        return
    # the collector need not walk what the imports left
    gc.freeze()
    session = Session(library)
    while True:
        try:
            command, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("value", getattr(session, command)(*arguments)))
        except Exception as error:
            lacking = isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)
            connection.send(("not offered" if lacking else "error", describe(error)))


def silence_output() -> None:
    """Libraries print warnings; they would tear the driver's progress line."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


class Session:
    """What a worker does for the driver."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.call: Callable[[], Any] | None = None
        self.seconds = 0.0

    def _build(
        self, operation: str, arrays: Sequence[np.ndarray], options: Mapping[str, Any]
    ) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
        make = getattr(self.library, operation, None)
        built = make(*arrays, **options) if make else None
        if built is None or isinstance(built, tuple):
            return built
        return built, lambda result: result

    def prepare(self, name: str, folder: str) -> dict[str, Any] | None:
        """Make the call of a case and write its result into `folder`; None if not offered."""
        case = all_cases()[name]
        arrays = case.arrays()
        built = self._build(case.operation, arrays, case.options)
        if built is None:
            return None
        self.call, finish = built
        results = as_tuple(finish(self.call()))
        for i, result in enumerate(results):
            np.save(Path(folder) / f"{i}.npy", result)
        del results
        # the first call compiled, allocated and started threads
        start = time.perf_counter()
        self.call()
        self.seconds = time.perf_counter() - start
        return {"seconds": self.seconds, "bytes_read": sum(array.nbytes for array in arrays)}

    def warm_up(self, seconds: float) -> float:
        """Run for about that long, and find how long a call takes."""
        while seconds > 0:
            self.seconds = self.sample(min(seconds, 0.02))
            seconds -= max(0.02, self.seconds)
        return self.seconds

    def sample(self, target: float) -> float:
        """Seconds a call, the mean over as many calls as last `target` seconds."""
        call = self.call
        repeats = max(1, math.ceil(target / max(self.seconds, 1e-7)))
        gc.disable()
        try:
            if self.seconds < LONG_CALL:
                # one call untimed: another library has had the caches meanwhile
                call()
            start = time.perf_counter()
            for _ in itertools.repeat(None, repeats):
                call()
            return (time.perf_counter() - start) / repeats
        finally:
            gc.enable()

    def drop(self) -> None:
        self.call = None
        gc.collect()

    def evaluate(
        self,
        operation: str,
        arrays: Sequence[np.ndarray],
        options: Mapping[str, Any],
        layout: str,
    ) -> tuple[np.ndarray, ...] | None:
        """The results on given arrays, for the checks of accuracy and reproducibility."""
        built = self._build(operation, [with_layout(a, layout) for a in arrays], options)
        if built is None:
            return None
        call, finish = built
        return tuple(np.array(result) for result in as_tuple(finish(call())))


def as_tuple(result: Any) -> tuple[np.ndarray, ...]:
    results = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(item) for item in results)


@contextlib.contextmanager
def exchange_folder() -> Iterator[Path]:
    """A folder for results on their way to the driver, in memory where there is room for them."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(
        prefix="benchmarks-", dir=memory if roomy and os.access(memory, os.W_OK) else None
    ) as folder:
        yield Path(folder)
