"""Time one case: every library answers, the answers are compared, then the rounds begin."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agreement import Results, wrong_answers
from benchmarks.cases import Case
from benchmarks.limits import Limits
from benchmarks.worker import LibraryError, NotOffered, Worker, WorkerLost, exchange_folder

TIMED = "timed"
SLOW = "slow"
WRONG = "wrong"
LOST = "lost"
FAILED = "failed"
NOT_OFFERED = "not offered"
UNUSABLE = "unusable"


@dataclass(frozen=True)
class Settings:
    rounds: int
    sample_seconds: float
    warm_up_seconds: float
    patience: float
    """A library that needs longer for one call is not asked again in this case."""
    timeout: float

    @classmethod
    def full(cls) -> Settings:
        return cls(rounds=11, sample_seconds=0.02, warm_up_seconds=0.2, patience=10, timeout=180)

    @classmethod
    def quick(cls) -> Settings:
        return cls(rounds=7, sample_seconds=0.004, warm_up_seconds=0.02, patience=0.3, timeout=20)


def outcome(status: str, note: str = "") -> dict[str, Any]:
    return {"status": status, "note": note}


def timed_outcome(samples: list[float]) -> dict[str, Any]:
    quartiles = statistics.quantiles(samples, n=4)
    median = statistics.median(samples)
    return {
        "status": TIMED,
        "note": "",
        "min": min(samples),
        "median": median,
        "spread": (quartiles[2] - quartiles[0]) / median,
        "samples": samples,
    }


def measure_case(
    case: Case,
    workers: Mapping[str, Worker],
    settings: Settings,
    generator: np.random.Generator,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The row of the table: what each library did. The limit comes later, see `set_limits`."""
    outcomes: dict[str, dict[str, Any]] = {}

    def ask(name: str, command: str, *arguments: Any) -> Any:
        """The answer, or None when the library has lost the case."""
        try:
            return workers[name].ask(command, settings.timeout, *arguments)
        except NotOffered as error:
            outcomes[name] = outcome(NOT_OFFERED, str(error))
        except LibraryError as error:
            outcomes[name] = outcome(FAILED, str(error))
        except WorkerLost as error:
            outcomes[name] = outcome(LOST, str(error))
        return None

    def still_in() -> list[str]:
        return [name for name in workers if name not in outcomes]

    with exchange_folder() as folder:
        seconds, bytes_read = {}, 0
        for name, worker in workers.items():
            progress(name)
            (folder / name).mkdir()
            if not worker.ready():
                outcomes[name] = outcome(UNUSABLE, worker.unusable or "")
                continue
            prepared = ask(name, "prepare", case.name, str(folder / name))
            if prepared is not None:
                seconds[name], bytes_read = prepared["seconds"], prepared["bytes_read"]
            elif name not in outcomes:
                outcomes[name] = outcome(NOT_OFFERED)
        wrong, reference = wrong_answers(still_in(), lambda name: load_results(folder / name))
        outcomes |= {name: outcome(WRONG, text) for name, text in wrong.items()}
        answer = load_results(folder / reference) if reference else []
        row = describe_case(case, bytes_read, answer)
        del answer

    for name in still_in():
        progress(name)
        if seconds[name] > settings.patience:
            note = f"one call took {seconds[name]:.2g} s; not repeated"
            outcomes[name] = {**outcome(SLOW, note), "min": seconds[name]}
        else:
            ask(name, "warm_up", settings.warm_up_seconds)
    samples: dict[str, list[float]] = {name: [] for name in still_in()}
    for _ in range(settings.rounds):
        for name in generator.permutation(still_in()):
            progress(name)
            taken = ask(name, "sample", settings.sample_seconds)
            if taken is not None:
                samples[name].append(taken)
    for name in still_in():
        outcomes[name] = timed_outcome(samples[name])
    for worker in workers.values():
        if worker.process:
            worker.ask("drop", settings.timeout)
    return {**row, "results": {name: outcomes[name] for name in workers}}


def load_results(folder: Path) -> Results:
    return [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]


def describe_case(case: Case, bytes_read: int, answer: Results) -> dict[str, Any]:
    return {
        "case": case.name,
        "family": case.family,
        "operation": case.operation,
        "layout": case.layout,
        "size": case.size,
        "dtype": next((a.dtype.name for a in answer if a.dtype.kind == "f"), "float32"),
        "flops": case.flops,
        "bytes_read": bytes_read,
        "bytes_written": sum(array.nbytes for array in answer),
        "limit_seconds": None,
    }


def set_limits(rows: Sequence[dict[str, Any]], limits: Limits) -> None:
    """Fill in how long each case must take, once all measurements of the limits are made."""
    for row in rows:
        row["limit_seconds"] = limits.seconds(
            row["flops"], row["bytes_read"], row["bytes_written"], row["dtype"]
        )
