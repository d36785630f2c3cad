"""The default command: all chosen cases, for each number of threads, until done or interrupted."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.cases import Case, interleaved
from benchmarks.limits import NoLimits, best_of, compiled, measure
from benchmarks.machine import available_cpus
from benchmarks.peers import Peer
from benchmarks.timing import Settings, measure_case, set_limits
from benchmarks.worker import Worker, stopping


class Progress:
    """One live line on a terminal; elsewhere a line for each case."""

    def __init__(self, total: int, deadline: float | None) -> None:
        self.total = total
        self.deadline = deadline
        self.begin = time.monotonic()
        self.done = 0
        self.live = sys.stderr.isatty()

    def time_left(self) -> float:
        now = time.monotonic()
        estimate = (now - self.begin) / max(self.done, 1) * (self.total - self.done)
        return min(estimate, self.deadline - now) if self.deadline else estimate

    def show(self, doing: str, library: str = "") -> None:
        if not self.live:
            return
        left = f"{max(0.0, self.time_left()):.0f} s left" if self.done else "time left unknown"
        line = f"[{self.done + 1}/{self.total}] {doing}: {library}  ({left})"
        width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
        sys.stderr.write("\r" + line[:width].ljust(width))
        sys.stderr.flush()

    def finished(self, doing: str) -> None:
        self.done += 1
        if not self.live:
            print(f"[{self.done}/{self.total}] {doing}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        if self.live:
            sys.stderr.write("\r\033[K")
        print(text, file=sys.stderr, flush=True)


def run(
    cases: Sequence[Case],
    peers: Sequence[Peer],
    thread_counts: Sequence[int],
    settings: Settings,
    seconds: float | None = None,
) -> dict[str, Any]:
    """The report's data. `seconds` bounds the whole; what did not fit is listed as left out."""
    deadline = time.monotonic() + seconds if seconds else None
    progress = Progress(len(cases) * len(thread_counts), deadline)
    generator = np.random.default_rng()
    data: dict[str, Any] = {
        "versions": {},
        "absent": {},
        "limits": [],
        "limits_note": "",
        "rows": [],
        "left_out": [],
        "interrupted": False,
    }
    waiting = [(threads, case) for threads in thread_counts for case in interleaved(cases)]
    try:
        with compiled_limits(data, progress) as library:
            for position, threads in enumerate(thread_counts):
                # each number of threads gets its share of the time that is left
                share = None
                if deadline:
                    now = time.monotonic()
                    share = now + (deadline - now) / (len(thread_counts) - position)
                run_threads(
                    threads, peers, waiting, library, settings, share, generator, progress, data
                )
    except KeyboardInterrupt:
        data["interrupted"] = True
        progress.say("interrupted: writing what was measured")
    data["left_out"] = [f"{case.name}, {threads} thread(s)" for threads, case in waiting]
    if progress.live:
        progress.say("")
    return data


def run_threads(
    threads: int,
    peers: Sequence[Peer],
    waiting: list[tuple[int, Case]],
    library: ctypes.CDLL | None,
    settings: Settings,
    deadline: float | None,
    generator: np.random.Generator,
    progress: Progress,
    data: dict[str, Any],
) -> None:
    """All cases that wait for this number of threads, and the limits before and after them."""
    rows: list[dict[str, Any]] = []
    limits = None
    workers = {peer.name: Worker(peer, threads) for peer in peers}
    try:
        with stopping(list(workers.values())):
            if library:
                progress.show(f"limits of the machine, {threads} thread(s)")
                limits = measure(library, threads)
            for worker in workers.values():
                worker.begin()
            for name, worker in workers.items():
                progress.show("starting", name)
                note_presence(name, worker, data)
            for case in [case for count, case in waiting if count == threads]:
                if deadline and time.monotonic() > deadline:
                    break
                doing = f"{case.name}, {threads} thread(s)"
                row = measure_case(
                    case,
                    workers,
                    settings,
                    generator,
                    lambda name, doing=doing: progress.show(doing, name),
                )
                rows.append({"threads": threads, **row})
                waiting.remove((threads, case))
                progress.finished(doing)
        if limits and library:
            limits = best_of(limits, measure(library, threads))
    finally:
        # an interrupted run keeps what it has
        if limits:
            set_limits(rows, limits)
            data["limits"].append(limits.to_json())
        data["rows"] += rows


@contextlib.contextmanager
def compiled_limits(data: dict[str, Any], progress: Progress) -> Iterator[ctypes.CDLL | None]:
    """The program that measures the limits; None, and a line that says why, where it cannot be."""
    with contextlib.ExitStack() as stack:
        try:
            library = stack.enter_context(compiled())
        except NoLimits as error:
            library = None
            data["limits_note"] = f"limits not measured: {error}"
            progress.say(data["limits_note"])
        yield library


def note_presence(name: str, worker: Worker, data: dict[str, Any]) -> None:
    if worker.ready():
        data["versions"][name] = worker.version
    else:
        data["absent"][name] = worker.unusable


def thread_counts_default() -> list[int]:
    cores = len(available_cpus())
    return [1] if cores == 1 else [1, min(cores, 8)]
