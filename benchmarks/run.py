"""The default command: all chosen cases, for each number of threads, until done or interrupted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.cases import Case, interleaved
from benchmarks.limits import Limits, NoLimits, measure
from benchmarks.machine import available_cpus
from benchmarks.peers import Peer
from benchmarks.timing import Settings, measure_case
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
        for position, threads in enumerate(thread_counts):
            workers = {peer.name: Worker(peer, threads) for peer in peers}
            # each number of threads gets its share of what is left
            share = (
                time.monotonic() + (deadline - time.monotonic()) / (len(thread_counts) - position)
                if deadline
                else None
            )
            with stopping(list(workers.values())):
                progress.show(f"limits of the machine, {threads} thread(s)")
                limits = measured_limits(threads, data, progress)
                for worker in workers.values():
                    worker.begin()
                for name, worker in workers.items():
                    progress.show("starting", name)
                    note_presence(name, worker, data)
                for case in interleaved(cases):
                    if share and time.monotonic() > share:
                        break
                    doing = f"{case.name}, {threads} thread(s)"
                    row = measure_case(
                        case,
                        workers,
                        settings,
                        limits,
                        generator,
                        lambda name, doing=doing: progress.show(doing, name),
                    )
                    data["rows"].append({"threads": threads, **row})
                    waiting.remove((threads, case))
                    progress.finished(doing)
    except KeyboardInterrupt:
        data["interrupted"] = True
        progress.say("interrupted: writing what was measured")
    data["left_out"] = [f"{case.name}, {threads} thread(s)" for threads, case in waiting]
    if progress.live:
        progress.say("")
    return data


def measured_limits(threads: int, data: dict[str, Any], progress: Progress) -> Limits | None:
    try:
        limits = measure(threads)
    except NoLimits as error:
        if not data["limits_note"]:
            data["limits_note"] = f"limits not measured: {error}"
            progress.say(data["limits_note"])
        return None
    data["limits"].append(limits.to_json())
    return limits


def note_presence(name: str, worker: Worker, data: dict[str, Any]) -> None:
    if worker.ready():
        data["versions"][name] = worker.version
    else:
        data["absent"][name] = worker.unusable


def thread_counts_default() -> list[int]:
    cores = len(available_cpus())
    return [1] if cores == 1 else [1, min(cores, 8)]


