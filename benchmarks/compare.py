"""What became slower or less accurate between two runs, beyond the noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers import OURS
from benchmarks.summary import time_text
from benchmarks.timing import TIMED

# no quieter machine has been seen: runs of the same build differ by this much
LEAST_NOISE = 0.05
ULP_NOISE = 0.05


class BadReport(ValueError):
    """The file is not a report of this suite."""


def load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise BadReport(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadReport(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or not ("rows" in data or "accuracy" in data):
        raise BadReport(f"{path} is not a report of `python -m benchmarks`")
    return data


def timed(data: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (row["case"], row["threads"]): row["results"][OURS]
        for row in data.get("rows", ())
        if row["results"].get(OURS, {}).get("status") == TIMED
    }


def noise(*results: dict[str, Any]) -> float:
    """The relative difference that these rounds cannot tell from none."""
    gaps = [result["median"] / result["min"] - 1 for result in results]
    return max(LEAST_NOISE, *gaps, *(result["spread"] for result in results))


def errors(data: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (entry["operation"], entry["dtype"]): entry["errors"][OURS]["ulp"]
        for entry in data.get("accuracy", ())
        if OURS in entry["errors"]
    }


def compare(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], bool]:
    """Lines to print, and whether stableops became worse somewhere."""
    slower, faster, lines = [], [], []
    before, after = timed(old), timed(new)
    for key in before.keys() & after.keys():
        a, b = before[key], after[key]
        change = b["min"] / a["min"] - 1
        allowed = noise(a, b)
        text = (
            f"{key[0]}, {key[1]} thread(s): {time_text(a['min'])} -> {time_text(b['min'])} "
            f"({change:+.0%}, noise {allowed:.0%})"
        )
        if change > allowed:
            slower.append((change, text))
        elif 1 / (1 + change) - 1 > allowed:
            faster.append((change, text))
    lines += [f"slower: {text}" for _, text in sorted(slower, reverse=True)]
    lines += [f"faster: {text}" for _, text in sorted(faster)]
    gone = [f"no longer timed: {case}, {n} thread(s)" for case, n in before.keys() - after.keys()]
    lines += sorted(gone)

    less_accurate = []
    old_errors, new_errors = errors(old), errors(new)
    for key in old_errors.keys() & new_errors.keys():
        if new_errors[key] > old_errors[key] + ULP_NOISE:
            less_accurate.append(
                f"less accurate: {' '.join(key)}: "
                f"{old_errors[key]:.2f} -> {new_errors[key]:.2f} ULP"
            )
    lines += sorted(less_accurate)
    if old.get("machine", {}).get("processor") != new.get("machine", {}).get("processor"):
        lines.insert(0, "the two runs are from different processors")
    compared = len(before.keys() & after.keys()) + len(old_errors.keys() & new_errors.keys())
    lines.append(
        f"{compared} figures compared: {len(slower)} slower, {len(faster)} faster, "
        f"{len(less_accurate)} less accurate"
    )
    return lines, bool(slower or less_accurate)
