"""Figures made from the rows: ratios, geometric means, and the tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.peers import OURS, PEERS
from benchmarks.timing import NOT_OFFERED, SLOW, TIMED, UNUSABLE

Row = dict[str, Any]

RESTLESS = 0.25
"""A spread that other work on the machine explains better than the library does."""


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once, stableops first and the others as in `PEERS`."""
    places = {peer.name: i for i, peer in enumerate(PEERS)}
    return sorted(dict.fromkeys(names), key=lambda name: places.get(name, len(places)))


def our_time(row: Row) -> float | None:
    result = row["results"].get(OURS, {})
    return result["min"] if result.get("status") == TIMED else None


def best_peer(row: Row) -> tuple[str, float] | None:
    """The fastest of the others that was timed, and its time."""
    times = {
        name: result["min"]
        for name, result in row["results"].items()
        if name != OURS and result["status"] == TIMED
    }
    return min(times.items(), key=lambda item: item[1]) if times else None


def ratio(row: Row) -> float | None:
    """Best peer / stableops: above 1, stableops is faster than every other library."""
    ours, best = our_time(row), best_peer(row)
    return best[1] / ours if ours and best else None


def percent_of_limit(row: Row, name: str = OURS) -> float | None:
    result = row["results"].get(name, {})
    if row["limit_seconds"] is None or result.get("status") != TIMED:
        return None
    return 100 * row["limit_seconds"] / result["min"]


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def family_summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each family and number of threads: the mean ratio, the worst case, how many below 1."""
    groups: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for row in rows:
        value = ratio(row)
        if value:
            groups.setdefault((row["family"], row["threads"]), []).append((value, row["case"]))
    return [
        {
            "family": family,
            "threads": threads,
            "cases": len(ratios),
            "geometric_mean": geometric_mean(value for value, _ in ratios),
            "worst": min(ratios),
            "below": sum(value < 1 for value, _ in ratios),
        }
        for (family, threads), ratios in sorted(groups.items())
    ]


def time_text(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def result_text(result: dict[str, Any] | None) -> str:
    """One cell of the table."""
    if result is None or result["status"] in (NOT_OFFERED, UNUSABLE):
        return "-"
    if result["status"] == TIMED:
        return time_text(result["min"])
    if result["status"] == SLOW:
        return f"{time_text(result['min'])} (slow)"
    return result["status"]


def optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


HEADINGS = ("case", "threads", "% of limit", "best peer / stableops", "best peer")


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the full table; only libraries that had to say something."""
    results = [item for row in rows for item in row["results"].items()]
    libraries = in_order(name for name, result in results if result_text(result) != "-")
    cells = []
    for row in rows:
        best = best_peer(row)
        cells.append(
            [
                row["case"],
                str(row["threads"]),
                optional(percent_of_limit(row), "{:.2g}"),
                optional(ratio(row), "{:.2f}"),
                best[0] if best else "-",
                *(result_text(row["results"].get(name)) for name in libraries),
            ]
        )
    return [*HEADINGS, *libraries], cells


def case_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a table with a line a case: our time beside the best peer's.

    Times of one call only, which were too long to repeat, have a ratio here, marked with ~.
    """
    counts = sorted({row["threads"] for row in rows})
    lines: dict[str, dict[int, list[str]]] = {}
    for row in rows:
        measured = {
            name: result
            for name, result in row["results"].items()
            if result["status"] in (TIMED, SLOW)
        }
        ours = measured.pop(OURS, None)
        best = min(measured, key=lambda name: measured[name]["min"], default=None)
        text = "-"
        if ours and best:
            once = SLOW in (ours["status"], measured[best]["status"])
            text = f"{'~' if once else ''}{measured[best]['min'] / ours['min']:.2f}"
        lines.setdefault(row["case"], {})[row["threads"]] = [
            result_text(row["results"].get(OURS)),
            f"{time_text(measured[best]['min'])} {best}" if best else "-",
            text,
            optional(percent_of_limit(row), "{:.2g}"),
        ]
    headings = ["case"]
    for count in counts:
        headings += [f"stableops, {count}T", "best peer", "ratio", "% of limit"]
    empty = ["-"] * 4
    return headings, [
        [case, *(cell for count in counts for cell in line.get(count, empty))]
        for case, line in lines.items()
    ]


def case_tables(reports: Sequence[dict[str, Any]]) -> str:
    """Several reports as one text in Markdown, with a line a case: the last one's, if it recurs."""
    latest = {(row["case"], row["threads"]): row for data in reports for row in data["rows"]}
    rows = list(latest.values())
    parts = [*map(origin, reports), markdown_table(*summary_table({"rows": rows}))]
    for family in dict.fromkeys(row["family"] for row in rows):
        parts.append(f"## {family}")
        parts.append(markdown_table(*case_table([row for row in rows if row["family"] == family])))
    return "\n\n".join(parts)


SUMMARY_HEADINGS = [
    "family", "threads", "geometric mean", "worst", "below 1", "cases", "worst case",
]  # fmt: skip


def summary_table(data: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    cells = [
        [
            entry["family"],
            str(entry["threads"]),
            f"{entry['geometric_mean']:.2f}",
            f"{entry['worst'][0]:.2f}",
            str(entry["below"]),
            str(entry["cases"]),
            entry["worst"][1],
        ]
        for entry in family_summary(data["rows"])
    ]
    return SUMMARY_HEADINGS, cells


def notes(data: dict[str, Any]) -> list[str]:
    """What went otherwise than planned, one line each."""
    lines = [f"{name}: {reason}" for name, reason in data["absent"].items()]
    if data["limits_note"]:
        lines.append(data["limits_note"])
    if data["interrupted"]:
        lines.append("interrupted before the end")
    if data["left_out"]:
        lines.append(f"{len(data['left_out'])} cases not reached")
    spreads = [
        result["spread"]
        for row in data["rows"]
        for result in row["results"].values()
        if result["status"] == TIMED
    ]
    restless = sum(spread > RESTLESS for spread in spreads)
    if 10 * restless > len(spreads):
        lines.append(
            f"{restless} of {len(spreads)} times vary by more than {RESTLESS:.0%} between rounds: "
            "the machine was not quiet"
        )
    places: dict[tuple[str, str, str], list[str]] = {}
    for row in data["rows"]:
        for name, result in row["results"].items():
            if result["note"] and result["status"] != UNUSABLE:
                key = (name, result["status"], result["note"])
                places.setdefault(key, []).append(f"{row['case']}, {row['threads']} thread(s)")
    for (name, status, note), cases in places.items():
        more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
        lines.append(f"{name} {status}: {note} ({cases[0]}{more})")
    return lines


def markdown_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def origin(data: dict[str, Any]) -> str:
    machine = data["machine"]
    return (
        f"`{data['command']}` on {machine['processor']}, {machine['cores']} core(s), "
        f"{machine['date']}; "
        + ", ".join(f"{name} {version}" for name, version in data["versions"].items())
        + ". Times are the minimum over the rounds."
    )


def markdown(data: dict[str, Any]) -> str:
    """The report as Markdown, for a README."""
    parts = [origin(data)]
    if summary_table(data)[1]:
        parts.append("best peer / stableops, by family:")
        parts.append(markdown_table(*summary_table(data)))
    for family in dict.fromkeys(row["family"] for row in data["rows"]):
        parts.append(f"### {family}")
        rows = [row for row in data["rows"] if row["family"] == family]
        parts.append(markdown_table(*table(rows)))
    return "\n\n".join(parts) + "\n"
