"""python -m benchmarks: argument parsing, and the files that a run leaves."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import FAMILIES, UnknownCase, select
from benchmarks.peers import OURS, PEERS, Peer

RESULTS = Path("benchmarks/results")
QUICK_SECONDS = 120.0
"""For the rounds; with starting the libraries and the report a quick run ends within 3 minutes."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def thread_list(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: positive numbers separated by commas")
    return sorted(set(counts))


def family_list(text: str) -> list[str]:
    return text.split(",")


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="How fast, accurate and reproducible stableops is beside other libraries.",
    )
    main.add_argument(
        "--quick",
        action="store_true",
        help="a short list, under 3 minutes; with --only: those cases, in short rounds",
    )
    main.add_argument("--only", metavar="REGEX", help="the cases whose name matches")
    main.add_argument(
        "--family",
        type=family_list,
        default=[],
        metavar="NAMES",
        help=f"some of {','.join(FAMILIES)}",
    )
    main.add_argument("--list", action="store_true", help="name the cases and stop")
    main.add_argument(
        "--threads", type=thread_list, metavar="COUNTS", help="for instance 1,2,4 (default: 1,all)"
    )
    common = argparse.ArgumentParser(add_help=False)
    for target in (main, common):
        # both positions, before and after the subcommand; the default is set once, below
        target.add_argument(
            "--libraries",
            default=argparse.SUPPRESS,
            metavar="NAMES",
            help=f"some of {','.join(peer.name for peer in PEERS)}",
        )
        target.add_argument(
            "--output",
            type=Path,
            default=argparse.SUPPRESS,
            metavar="FOLDER",
            help=f"where the report goes (default: {RESULTS})",
        )
    commands = main.add_subparsers(
        dest="command", metavar="{accuracy,reproducibility,compare,table}"
    )
    accuracy = commands.add_parser(
        "accuracy", parents=[common], help="the largest error of each library, in ULP"
    )
    accuracy.add_argument(
        "--exhaustive",
        metavar="NAME",
        help="all 2**32 float32 inputs of sigmoid, log_sigmoid or softplus",
    )
    commands.add_parser(
        "reproducibility", parents=[common], help="do the bits change with threads, batch, layout"
    )
    compare = commands.add_parser("compare", help="what became slower or less accurate")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    table = commands.add_parser("table", help="reports as one table in Markdown, a line a case")
    table.add_argument("reports", type=Path, nargs="+", metavar="REPORT.json")
    return main


def chosen_peers(names: str | None) -> list[Peer]:
    if names is None:
        return list(PEERS)
    known = {peer.name.lower(): peer for peer in PEERS}
    wanted = [name.strip().lower() for name in names.split(",")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        listed = ", ".join(peer.name for peer in PEERS)
        raise UnknownCase(f"libraries={unknown[0]!r}: some of {listed}")
    return [known[name] for name in wanted]


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "benchmarks", *arguments])
    try:
        if options.command == "compare":
            return compare_reports(options.old, options.new)
        if options.command == "table":
            from benchmarks.compare import load
            from benchmarks.summary import case_tables

            print(case_tables([load(path) for path in options.reports]))
            return 0
        if options.list:
            for case in select(options.only, options.family, options.quick):
                print(case.name)
            return 0
        peers = chosen_peers(getattr(options, "libraries", None))
        if options.command == "accuracy" and options.exhaustive:
            from benchmarks import exhaustive

            ours_only = [peer for peer in peers if peer.name == OURS]
            asked = peers if "libraries" in options else ours_only
            return exhaustive.main(options.exhaustive, asked, say)
        data = {"command": command, **measure(options, peers)}
    except ValueError as error:
        say(f"{command}: {error}")
        return 2
    write_report(data, getattr(options, "output", RESULTS))
    return 0


def measure(options: argparse.Namespace, peers: Sequence[Peer]) -> dict[str, Any]:
    """The data of the report that was asked for; its tables are printed here."""
    from benchmarks import accuracy, reproducibility, summary
    from benchmarks.machine import describe_machine

    if all(peer.missing for peer in peers if peer.name != OURS):
        say("no other library is here, nothing to compare with: pip install '.[bench]'")
    data: dict[str, Any] = {"machine": describe_machine(), "versions": {}}
    whole = options.command is None and not options.only and not options.family
    try:
        if options.command is None:
            merge(data, measure_times(options, peers))
            print(summary.markdown_table(*summary.summary_table(data)))
            say("\n".join(summary.notes(data)))
        if options.command == "accuracy" or (whole and not data["interrupted"]):
            merge(data, accuracy.assess(peers, say, short=whole and options.quick))
            print(summary.markdown_table(*accuracy.accuracy_table(data)))
        if options.command == "accuracy":
            print("\n".join(accuracy.worst_inputs(data)))
        if options.command == "reproducibility" or (
            whole and not options.quick and not data["interrupted"]
        ):
            merge(data, reproducibility.examine(peers, say))
            print(summary.markdown_table(*reproducibility.reproducibility_table(data)))
            print("\n".join(reproducibility.examples(data)))
    except KeyboardInterrupt:
        say("interrupted: writing what was measured")
    return data


def merge(data: dict[str, Any], part: dict[str, Any]) -> None:
    versions = {**data["versions"], **part["versions"]}
    data |= part
    data["versions"] = versions


def measure_times(options: argparse.Namespace, peers: Sequence[Peer]) -> dict[str, Any]:
    from benchmarks.machine import available_cpus
    from benchmarks.run import run, thread_counts_default
    from benchmarks.timing import Settings

    cases = select(options.only, options.family, options.quick)
    threads = options.threads or thread_counts_default()
    processors = len(available_cpus())
    if processors == 1:
        say("one processor only: nothing to see of threads")
    elif max(threads) > processors:
        say(f"{max(threads)} threads on {processors} processors: they take turns")
    settings = Settings.quick() if options.quick else Settings.full()
    short_list = options.quick and not options.only
    return run(cases, peers, threads, settings, QUICK_SECONDS if short_list else None)


def write_report(data: dict[str, Any], folder: Path) -> None:
    """The report as JSON, Markdown and HTML; elsewhere if the folder cannot be written."""
    from benchmarks.report import html, markdown

    name = data["machine"]["date"].replace(" UTC", "").replace(":", "").replace(" ", "-")
    # the figures first: they are safe whatever becomes of the pages made from them
    for suffix, make in ((".json", to_json), (".md", markdown), (".html", html)):
        text = make(data)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}{suffix}"
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            say(f"cannot write to {folder}: {error.strerror}")
            folder = Path(tempfile.mkdtemp(prefix="benchmarks-"))
            path = folder / f"{name}{suffix}"
            path.write_text(text, encoding="utf-8")
        print(path)


def to_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1)


def compare_reports(old: Path, new: Path) -> int:
    from benchmarks.compare import compare, load

    lines, worse = compare(load(old), load(new))
    print("\n".join(lines))
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
