"""All 2**32 float32 inputs of an elementwise function: is each result correctly rounded?"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath
import numpy as np

from benchmarks import exact
from benchmarks.machine import available_cpus
from benchmarks.peers import OURS, Peer
from benchmarks.worker import THREAD_VARIABLES, environment

CHUNK = 1 << 22
# NumPy's exp and log1p in float64 are within 4 ULP each; closer to a rounding boundary than this
# the float64 reference does not decide, and mpmath does
MARGIN = 2.0**-47


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -softplus(-x)


FUNCTIONS = {
    "sigmoid": (sigmoid, exact.sigmoid),
    "log_sigmoid": (log_sigmoid, exact.log_sigmoid),
    "softplus": (softplus, exact.softplus),
}


@dataclass
class Finding:
    """What a range of inputs showed."""

    checked: int = 0
    by_mpmath: int = 0
    wrong: int = 0
    worst_ulp: float = 0.5
    worst_input: float | None = None

    def add(self, other: Finding) -> None:
        self.checked += other.checked
        self.by_mpmath += other.by_mpmath
        self.wrong += other.wrong
        if other.worst_ulp > self.worst_ulp:
            self.worst_ulp, self.worst_input = other.worst_ulp, other.worst_input


def check(module: str, name: str, start: int) -> Finding:
    """The inputs whose bits are start, start + 1, ..., start + CHUNK - 1."""
    library = importlib.import_module(module)
    reference, exact_function = FUNCTIONS[name]
    x = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
    results = getattr(library, name)(x)()
    with np.errstate(all="ignore"):
        wide = reference(x.astype(np.float64))
        low, high = ((wide * (1 + margin)).astype(np.float32) for margin in (-MARGIN, MARGIN))
    rounded = wide.astype(np.float32)
    undecided = np.flatnonzero((low != high) & ~np.isnan(wide))
    for i in undecided:
        rounded[i] = nearest(exact_function(mpmath.mpf(float(x[i]))), float(wide[i]))
    wrong = (results != rounded) & ~(np.isnan(results) & np.isnan(rounded))
    finding = Finding(CHUNK, len(undecided), int(np.count_nonzero(wrong)))
    if finding.wrong:
        places = np.flatnonzero(wrong)
        unit = np.spacing(np.abs(rounded[places])).astype(np.float64)
        errors = np.abs(results[places].astype(np.float64) - wide[places]) / unit
        errors[np.isnan(errors)] = np.inf
        finding.worst_ulp = float(errors.max())
        finding.worst_input = float(x[places[np.argmax(errors)]])
    return finding


def nearest(value: mpmath.mpf, estimate: float) -> np.float32:
    """The float32 next to `value`, which is not exactly between two."""
    centre = np.float32(estimate)
    candidates = [
        centre,
        np.nextafter(centre, np.float32(-np.inf)),
        np.nextafter(centre, np.float32(np.inf)),
    ]
    return min(candidates, key=lambda candidate: abs(mpmath.mpf(float(candidate)) - value))


def prepare(module: str) -> None:
    importlib.import_module(module).load(1)


def run(peer: Peer, name: str, say: Callable[[str], None]) -> Finding:
    total, begin, said = Finding(), time.monotonic(), 0.0
    context = multiprocessing.get_context("spawn")
    starts = range(0, 1 << 32, CHUNK)
    with (
        environment(dict.fromkeys(THREAD_VARIABLES, "1")),
        context.Pool(len(available_cpus()), prepare, (peer.module,)) as pool,
    ):
        findings = pool.imap_unordered(functools.partial(check, peer.module, name), starts)
        for done, finding in enumerate(findings, 1):
            total.add(finding)
            elapsed = time.monotonic() - begin
            if elapsed - said > 15:
                said = elapsed
                left = elapsed / done * (len(starts) - done)
                say(f"{peer.name} {name}: {done / len(starts):.0%}, {left:.0f} s left")
    return total


def main(name: str, peers: Sequence[Peer], say: Callable[[str], None]) -> int:
    """Print a line for each library; 1 if stableops rounds an input incorrectly."""
    if name not in FUNCTIONS:
        raise ValueError(f"exhaustive={name!r}: one of {', '.join(FUNCTIONS)}")
    status = 0
    for peer in peers:
        if peer.missing:
            say(f"{peer.name} is not installed: {peer.install}")
            continue
        if not hasattr(importlib.import_module(peer.module), name):
            say(f"{peer.name} has no {name}")
            continue
        found = run(peer, name, say)
        line = (
            f"{peer.name} {name}: {found.checked:,} inputs, {found.by_mpmath:,} decided by mpmath, "
            f"{found.wrong:,} not correctly rounded"
        )
        if found.worst_input is not None:
            line += f", the worst {found.worst_ulp:.4g} ULP at {found.worst_input:.9g}"
        print(line)
        status |= int(peer.name == OURS and found.wrong > 0)
    return status
