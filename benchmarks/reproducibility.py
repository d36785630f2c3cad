"""Do the bits of a result change with what should not matter? Asked of every library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.accuracy import evaluate
from benchmarks.cases import CHANNELS_LAST, NCHW, TRANSPOSED
from benchmarks.peers import Peer
from benchmarks.summary import in_order
from benchmarks.worker import Worker, stopping

THREADS = (1, 2, 4)
QUESTIONS = {
    "threads": "the number of threads (1, 2, 4)",
    "batch": "the row or image alone, or in its batch",
    "layout": "the layout (channels-last images, transposed matrices)",
    "simd": "the SIMD level",
}

Results = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Probe:
    """An operation on fixed inputs; the first `batched` arrays have the batch as first axis."""

    operation: str
    arrays: Sequence[np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    batched: int = 1
    layout: str = TRANSPOSED

    def sample(self, index: int) -> list[np.ndarray]:
        alone = [array[index : index + 1] for array in self.arrays[: self.batched]]
        return [*alone, *self.arrays[self.batched :]]


def probes() -> list[Probe]:
    generator = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, np.float32)

    logits = 5 * normal(64, 1003)
    labels = generator.integers(0, 1003, 64)
    image, weight, bias = normal(8, 64, 30, 30), normal(96, 64, 3, 3), normal(96)
    geometry = {"stride": 1, "padding": 1, "groups": 1}
    per_sample = {"gradient": True, "reduction": "none"}
    window = {"kernel_size": 3, "stride": 2, "padding": 0}
    return [
        Probe("softmax", [logits], {"axis": -1}),
        Probe("logsumexp", [logits], {"axis": -1}),
        Probe("cross_entropy", [logits, labels], per_sample, batched=2),
        Probe("sigmoid", [logits]),
        Probe("linear", [normal(64, 1000), normal(257, 1000), normal(257)]),
        Probe("conv2d", [image, weight, bias], geometry, layout=CHANNELS_LAST),
        Probe("avg_pool2d", [image], window, layout=CHANNELS_LAST),
    ]


def examine(peers: Sequence[Peer], say: Callable[[str], None]) -> dict[str, Any]:
    """The reproducibility part of the report's data."""
    answers: dict[str, dict[str, dict[str, str]]] = {question: {} for question in QUESTIONS}
    versions = {}
    for peer in peers:
        say(f"reproducibility: {peer.name}")
        worker = Worker(peer, threads=1)
        with stopping([worker]):
            if not worker.ready():
                continue
            versions[peer.name] = worker.version
            offered = [
                (probe, results)
                for probe in probes()
                if (results := evaluate(worker, probe.operation, probe.arrays, probe.options))
            ]
            if not offered:
                continue
            answers["batch"][peer.name] = verdict(batch_changes(worker, offered))
            answers["layout"][peer.name] = verdict(layout_changes(worker, offered))
        answers["threads"][peer.name] = verdict(
            change
            for threads in THREADS[1:]
            for change in restarted(Worker(peer, threads), offered, f"{threads} threads")
        )
        answers["simd"][peer.name] = verdict(
            change
            for level, variables in peer.isa_environments.items()
            for change in restarted(Worker(peer, 1, variables), offered, level)
        )
    return {"reproducibility": answers, "versions": versions}


Offered = Sequence[tuple[Probe, Results]]
Changes = Sequence[str | None]


def batch_changes(worker: Worker, offered: Offered) -> list[str | None]:
    changes = []
    for probe, whole in offered:
        for index in (0, len(probe.arrays[0]) - 1):
            alone = evaluate(worker, probe.operation, probe.sample(index), probe.options)
            expected = tuple(result[index : index + 1] for result in whole)
            changes += [change(probe, alone, expected, "alone")] if alone else []
    return changes


def layout_changes(worker: Worker, offered: Offered) -> list[str | None]:
    changes = []
    for probe, usual in offered:
        other = evaluate(worker, probe.operation, probe.arrays, probe.options, probe.layout)
        changes += [change(probe, other, usual, probe.layout)] if other else []
    return changes


def restarted(worker: Worker, offered: Offered, what: str) -> list[str | None]:
    """The same calls in a process with other settings; a level that the CPU lacks is left out."""
    changes = []
    with stopping([worker]):
        for probe, usual in offered if worker.ready() else ():
            other = evaluate(worker, probe.operation, probe.arrays, probe.options, NCHW)
            changes += [change(probe, other, usual, what)] if other else []
    return changes


def change(probe: Probe, results: Results, expected: Results, what: str) -> str | None:
    """The first element whose bits differ, and how many do."""
    for got, want in zip(results, expected, strict=True):
        different = np.atleast_1d(got != want) & ~np.atleast_1d(np.isnan(got) & np.isnan(want))
        if different.any():
            first = tuple(map(int, np.argwhere(different)[0]))
            return (
                f"{probe.operation}, {what}: {np.atleast_1d(got)[first]:.9g} instead of "
                f"{np.atleast_1d(want)[first]:.9g} at {first}; "
                f"{100 * different.mean():.2g} % of the elements differ"
            )
    return None


def verdict(changes: Any) -> dict[str, str]:
    """yes, no, or "-" where nothing could be asked; and an example for a yes."""
    found = list(changes)
    examples = [text for text in found if text]
    if examples:
        return {"changes": "yes", "example": examples[0]}
    return {"changes": "no" if found else "-", "example": ""}


def reproducibility_table(data: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    answers = data["reproducibility"]
    libraries = in_order(name for by_name in answers.values() for name in by_name)
    cells = [
        [
            QUESTIONS[question],
            *(by_name.get(name, {"changes": "-"})["changes"] for name in libraries),
        ]
        for question, by_name in answers.items()
    ]
    return ["do the bits change with ...", *libraries], cells


def examples(data: dict[str, Any]) -> list[str]:
    return [
        f"{name}, {QUESTIONS[question]}: {answer['example']}"
        for question, by_name in data["reproducibility"].items()
        for name, answer in by_name.items()
        if answer["example"]
    ]
