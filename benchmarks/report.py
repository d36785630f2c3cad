"""The report: one HTML file that needs no network, and the same numbers as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from benchmarks import summary
from benchmarks.accuracy import accuracy_table, worst_inputs
from benchmarks.peers import OURS, PEERS
from benchmarks.reproducibility import examples, reproducibility_table
from benchmarks.summary import (
    Row,
    best_peer,
    geometric_mean,
    markdown_table,
    our_time,
    ratio,
    time_text,
)
from benchmarks.timing import SLOW, TIMED

TEMPLATE = Path(__file__).with_name("report.html.in")

# readable on white and on near-black
PALETTE = (
    "#e0533d", "#4a90d9", "#8e6fd8", "#2aa58a", "#d99a2b", "#c3589f", "#7a8899", "#5aa83c",
    "#3fb0c9", "#8c8f3a", "#a3765a",
)  # fmt: skip
COLOURS = {peer.name: colour for peer, colour in zip(PEERS, PALETTE, strict=True)}
ERROR_FLOOR = 0.01
"""A result without error has to be somewhere on a logarithmic axis."""

RATIO_TICKS = [digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5)]
TEXT_COLUMNS = ("worst case", "best peer", "dtype")

Figure = dict[str, Any]
Cells = tuple[Sequence[str], Sequence[Sequence[str]]]


def colour_of(library: str) -> str:
    return COLOURS.get(library, PALETTE[-1])


def figure(data: list[dict[str, Any]], x: dict, y: dict, **layout: Any) -> Figure:
    return {
        "data": data,
        "layout": {
            "margin": {"l": 8, "r": 16, "t": 16, "b": 8},
            "height": 460,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "xaxis": {"automargin": True, **x},
            "yaxis": {"automargin": True, **y},
            **layout,
        },
    }


def log_axis(title: str, **options: Any) -> dict[str, Any]:
    return {"type": "log", "title": {"text": title}, "dtick": 1, **options}


def with_threads(row: Row) -> str:
    return f"{row['case']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"


def ratio_figure(rows: Sequence[Row]) -> Figure | None:
    """One line a case: its name, and a dot at best peer / stableops."""
    points = sorted(
        ((value, row) for row in rows if (value := ratio(row))), key=lambda point: point[0]
    )
    if not points:
        return None
    left = math.log10(min(points[0][0], 1) * 0.8)
    right = math.log10(max(points[-1][0], 1) * 1.25)
    stems: dict[str, list] = {"x": [], "y": []}
    for height, (value, _) in enumerate(points):
        stems["x"] += [1, value, None]
        stems["y"] += [height, height, None]
    heights = list(range(len(points)))
    hover = [
        f"{with_threads(row)}<br>stableops {time_text(our_time(row))}, "
        f"{best_peer(row)[0]} {time_text(best_peer(row)[1])}: {value:.2f}"
        for value, row in points
    ]
    data = [
        {
            **stems,
            "mode": "lines",
            "line": {"color": "--line", "width": 4},
            "hoverinfo": "skip",
        },
        {
            "x": [10**left] * len(points),
            "y": [height + 0.42 for height in heights],
            "text": [
                f"<b>{value:.2f}</b>  {row['threads']}T {row['case']}" for value, row in points
            ],
            "mode": "text",
            "textposition": "middle right",
            "textfont": {"size": 11},
            "hoverinfo": "skip",
        },
        {
            "x": [value for value, _ in points],
            "y": heights,
            "mode": "markers",
            "marker": {
                "size": 10,
                "color": ["--accent" if value >= 1 else "--below" for value, _ in points],
            },
            "hovertext": hover,
            "hoverinfo": "text",
        },
    ]
    return figure(
        data,
        log_axis(
            "best peer / stableops",
            range=[left, right],
            side="top",
            tickvals=RATIO_TICKS,
            ticktext=[f"{tick:g}" for tick in RATIO_TICKS],
        ),
        {"visible": False, "range": [-0.8, len(points) + 0.1]},
        height=90 + 30 * len(points),
        margin={"l": 12, "r": 16, "t": 70, "b": 8},
        showlegend=False,
        shapes=[vertical_line_at_one()],
    )


def vertical_line_at_one() -> dict[str, Any]:
    return {
        "type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"width": 1, "dash": "dot"},
    }  # fmt: skip


def roofline_figure(data: dict[str, Any]) -> Figure | None:
    """Speed against operations per byte, with the roofs that were measured."""
    limits = max(data["limits"], key=lambda entry: entry["threads"], default=None)
    if limits is None:
        return None
    rows = [
        row
        for row in data["rows"]
        if row["threads"] == limits["threads"] and row["flops"] and row["bytes_read"]
    ]
    intensities = [row["flops"] / (row["bytes_read"] + row["bytes_written"]) for row in rows]
    if not rows:
        return None
    low, high = min(intensities) / 2, max(intensities) * 2
    peak = limits["flops_float32"] / 1e9
    traces = []
    sizes = sorted(map(int, limits["bandwidths"]["copy"]))
    for size, label in ((sizes[0], "in the first cache"), (sizes[-1], "in memory")):
        bandwidth = (
            max(
                rate[key]
                for kind, rate in limits["bandwidths"].items()
                for key in rate
                if int(key) == size and kind.startswith(("copy", "read"))
            )
            / 1e9
        )
        knee = peak / bandwidth
        xs = sorted({low, high, min(max(knee, low), high)})
        traces.append(
            {
                "x": xs,
                "y": [min(peak, bandwidth * x) for x in xs],
                "mode": "lines",
                "name": f"limit, {label}",
                "line": {"color": "--soft", "dash": "dot" if size == sizes[0] else "solid"},
                "hoverinfo": "skip",
            }
        )
    for name, symbol, colour, times in (
        ("best peer", "circle-open", COLOURS["PyTorch"], lambda row: (best_peer(row) or (0, 0))[1]),
        (OURS, "circle", colour_of(OURS), our_time),
    ):
        points = [
            (intensity, row["flops"] / seconds / 1e9, row, seconds)
            for intensity, row in zip(intensities, rows, strict=True)
            if (seconds := times(row))
        ]
        if points:
            traces.append(
                {
                    "x": [point[0] for point in points],
                    "y": [point[1] for point in points],
                    "mode": "markers",
                    "name": name,
                    "marker": {"symbol": symbol, "size": 9, "color": colour},
                    "hovertext": [
                        f"{row['case']}<br>{name}: {time_text(seconds)}, {speed:.3g} GFLOP/s"
                        for _, speed, row, seconds in points
                    ],
                    "hoverinfo": "text",
                }
            )
    return figure(
        traces,
        log_axis("floating-point operations per byte", range=[math.log10(low), math.log10(high)]),
        log_axis("GFLOP/s"),
    )


def confident_figure(confident: dict[str, Any]) -> Figure | None:
    if not confident or not confident["errors"]:
        return None
    traces = [
        {
            "x": confident["tops"],
            "y": [min(max(error, ERROR_FLOOR), 1e9) for error in errors],
            "mode": "lines",
            "name": name,
            "line": {"color": colour_of(name), "width": 3 if name == OURS else 1.5},
        }
        for name, errors in sorted(confident["errors"].items(), key=lambda item: item[0] == OURS)
    ]
    return figure(
        traces, {"title": {"text": "t in the row [t, 0, 0]"}}, log_axis("error of the loss, ULP")
    )


def nms_figure(rows: Sequence[Row]) -> Figure | None:
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    fewest = min((row["threads"] for row in rows), default=1)
    for row in rows:
        if row["operation"] != "nms" or row["family"] != "nms" or row["threads"] != fewest:
            continue
        kind = row["case"].rsplit(" ", 1)[-1]
        if kind not in ("crowded", "sparse"):
            continue
        for name, result in row["results"].items():
            if result["status"] in (TIMED, SLOW):
                series.setdefault((name, kind), []).append((row["size"], result["min"]))
    if not series:
        return None
    traces, shown = [], set()
    for (name, kind), points in series.items():
        points.sort()
        traces.append(
            {
                "x": [size for size, _ in points],
                "y": [1e3 * seconds for _, seconds in points],
                "mode": "lines+markers",
                "name": name,
                "legendgroup": name,
                "showlegend": name not in shown,
                "line": {
                    "color": colour_of(name),
                    "dash": "solid" if kind == "crowded" else "dot",
                    "width": 3 if name == OURS else 1.5,
                },
                "hovertext": [
                    f"{name}, {size} boxes, {kind}: {time_text(s)}" for size, s in points
                ],
                "hoverinfo": "text",
            }
        )
        shown.add(name)
    return figure(traces, log_axis("boxes"), log_axis("milliseconds"), height=520)


def scaling(rows: Sequence[Row]) -> tuple[int, dict[str, dict[str, float]]]:
    """For the most threads: how much faster than one, by library and family."""
    counts = sorted({row["threads"] for row in rows})
    if len(counts) < 2:
        return 1, {}
    times: dict[tuple[str, str], dict[int, float]] = {}
    families = {}
    for row in rows:
        families[row["case"]] = row["family"]
        for name, result in row["results"].items():
            if result["status"] == TIMED:
                times.setdefault((name, row["case"]), {})[row["threads"]] = result["min"]
    gains: dict[str, dict[str, list[float]]] = {}
    for (name, case), by_threads in times.items():
        if counts[0] in by_threads and counts[-1] in by_threads:
            gain = by_threads[counts[0]] / by_threads[counts[-1]]
            gains.setdefault(name, {}).setdefault(families[case], []).append(gain)
    return counts[-1], {
        name: {family: geometric_mean(values) for family, values in by_family.items()}
        for name, by_family in gains.items()
    }


def scaling_figure(rows: Sequence[Row]) -> Figure | None:
    _, gains = scaling(rows)
    if not gains:
        return None
    traces = [
        {
            "type": "bar",
            "x": list(by_family),
            "y": list(by_family.values()),
            "name": name,
            "marker": {"color": colour_of(name)},
            "hovertemplate": f"{escape(name)}, %{{x}}: %{{y:.2f}}<extra></extra>",
        }
        for name, by_family in gains.items()
    ]
    return figure(traces, {}, {"title": {"text": "times faster"}, "rangemode": "tozero"})


def scaling_table(rows: Sequence[Row]) -> Cells:
    _, gains = scaling(rows)
    families = list(dict.fromkeys(family for gain in gains.values() for family in gain))
    return ["library", *families], [
        [name, *(f"{gain[family]:.2f}" if family in gain else "-" for family in families)]
        for name, gain in gains.items()
    ]


def confident_table(confident: dict[str, Any]) -> Cells:
    chosen = [i for i, top in enumerate(confident["tops"]) if top % 10 == 0]
    return ["t", *confident["errors"]], [
        [
            f"{confident['tops'][i]:g}",
            *(f"{errors[i]:.2g}" for errors in confident["errors"].values()),
        ]
        for i in chosen
    ]


def limits_table(data: dict[str, Any]) -> Cells:
    headings = ["limit", *(f"{entry['threads']} thread(s)" for entry in data["limits"])]
    cells = [
        [f"multiply-add peak, {dtype}"]
        + [f"{entry['flops_' + dtype] / 1e9:.0f} GFLOP/s" for entry in data["limits"]]
        for dtype in ("float32", "float64")
    ]
    first = data["limits"][0]["bandwidths"] if data["limits"] else {}
    for kind, rates in first.items():
        for size in rates:
            cells.append(
                [f"{kind.replace('_', ' ')}, {size_text(int(size))}"]
                + [f"{e['bandwidths'][kind][size] / 1e9:.1f} GB/s" for e in data["limits"]]
            )
    return headings, cells


def size_text(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def html_table(cells: Cells, mark: Any = None) -> str:
    """`mark(heading, text)` gives a cell's class."""
    headings, rows = cells

    def cell(tag: str, heading: str, text: str) -> str:
        kind = "text" if heading in TEXT_COLUMNS else ""
        if tag == "td" and mark:
            kind = mark(heading, text) or kind
        attribute = f' class="{kind}"' if kind else ""
        return f"<{tag}{attribute}>{escape(text)}</{tag}>"

    lines = [[cell("th", heading, heading) for heading in headings]]
    for row in rows:
        lines.append([cell("td", h, text) for h, text in zip(headings, row, strict=True)])
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<div class="scroll"><table>{body}</table></div>'


def as_number(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (ValueError, IndexError):
        return None


def mark_ratio(heading: str, text: str) -> str:
    value = as_number(text)
    if heading not in ("best peer / stableops", "geometric mean", "worst"):
        return ""
    return "" if value is None else "good" if value >= 1 else "bad"


def mark_error(heading: str, text: str) -> str:
    value = as_number(text)
    if value is None or heading in ("operation", "dtype"):
        return ""
    return "good" if value <= 1.5 else "bad" if value > 1000 else ""


def mark_change(_heading: str, text: str) -> str:
    return {"no": "good", "yes": "bad"}.get(text, "")


def folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def item_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


class Page:
    """Collects the parts of the body and the figures that belong into them."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.parts: list[str] = []
        self.figures: dict[str, Figure] = {}

    def add(self, *parts: str) -> None:
        self.parts += parts

    def section(
        self,
        title: str,
        text: str,
        drawing: Figure | None = None,
        table: str = "",
        folded_table: str = "",
        least_width: int = 0,
    ) -> None:
        self.add(f"<h2>{escape(title)}</h2><p>{text}</p>")
        if drawing:
            name = f"figure{len(self.figures)}"
            self.figures[name] = drawing
            style = f' style="min-width: {least_width}px"' if least_width else ""
            self.add(f'<div class="plot"><div id="{name}"{style}></div></div>')
        self.add(table, folded("The numbers", folded_table) if folded_table else "")
        self.add(f'<p class="soft">Made by <code>{escape(self.command)}</code></p>')


def html(data: dict[str, Any]) -> str:
    page = Page(data["command"])
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    facts = {**machine, "command": data["command"], "libraries": versions}
    page.add(
        "<h1>stableops beside other libraries</h1>",
        f'<p class="soft">Measured on {escape(machine["date"])}.</p>',
        '<div class="facts">',
        *(
            f"<div><b>{escape(name)}</b>{escape(str(value))}</div>"
            for name, value in facts.items()
            if name != "date"
        ),
        "</div>",
    )
    if data.get("rows"):
        add_times(page, data)
    if data.get("confident"):
        page.section(
            "Confident rows",
            "The loss of a row [t, 0, 0] with label 0 is log(1 + 2 exp(-t)): small and positive. "
            "Most libraries subtract two nearly equal numbers and lose every digit of it. "
            "float32, error in units of the last place; 0.5 is the best possible.",
            confident_figure(data["confident"]),
            folded_table=html_table(confident_table(data["confident"])),
        )
    if data.get("accuracy"):
        page.section(
            "Accuracy",
            "The largest error in units of the last place against exact results, on adversarial "
            "and on random inputs; for conv2d, linear and avg_pool2d the error divided by "
            "(sum of |terms| · eps).",
            table=html_table(accuracy_table(data), mark_error),
            folded_table=item_list(worst_inputs(data)),
        )
    if data.get("reproducibility"):
        page.section(
            "Reproducibility",
            "Whether the bits of a result change with what should not matter.",
            table=html_table(reproducibility_table(data), mark_change),
            folded_table=item_list(examples(data)),
        )
    if data.get("limits"):
        page.section(
            "Limits of this machine",
            "Measured in the same run by a C++ program: multiply-adds on registers, and passes "
            "over arrays of each size.",
            folded_table=html_table(limits_table(data)),
        )
    if data.get("rows") and summary.notes(data):
        page.section(
            "Notes",
            "Libraries that were missing, answers that differed, and what had no time.",
            table=item_list(summary.notes(data)),
        )
    return Template(TEMPLATE.read_text()).substitute(
        body="\n".join(page.parts),
        plotly=plotly_source(),
        figures=json.dumps(page.figures).replace("</", "<\\/"),
    )


def add_times(page: Page, data: dict[str, Any]) -> None:
    rows = data["rows"]
    cells = summary.table(data["rows"])
    page.section(
        "Speed at a glance",
        "best peer / stableops: above 1, stableops is faster than the fastest of the others on "
        "that case. Minimum times over rounds in which the libraries take turns; "
        "a library whose answer is wrong has no time.",
        table=html_table(summary.summary_table(data), mark_ratio),
    )
    page.section(
        "Every case",
        "One line a case, the best at the top; the dotted line is where stableops and the best "
        "peer are equal. 1T: one thread.",
        ratio_figure(rows),
        folded_table=html_table(cells, mark_ratio),
        least_width=620,
    )
    page.section(
        "Roofline",
        "What each case reaches of what the machine can do. Below the slope, memory is the "
        "limit, below the flat part, arithmetic.",
        roofline_figure(data),
    )
    boxes = nms_figure(rows)
    if boxes:
        page.section(
            "Non-maximum suppression",
            "Time against the number of boxes; solid lines crowded, dotted lines sparse.",
            boxes,
        )
    most, gains = scaling(rows)
    if gains:
        page.section(
            "Threads",
            f"How many times faster with {most} threads than with one: the geometric mean over "
            "the cases of a family.",
            scaling_figure(rows),
            folded_table=html_table(scaling_table(rows)),
        )


def plotly_source() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return "/* plotly is not installed: pip install plotly */"
    return get_plotlyjs()


def markdown(data: dict[str, Any]) -> str:
    """The same numbers for a README."""
    parts = [summary.markdown(data)] if data.get("rows") else [f"`{data['command']}`"]
    if data.get("accuracy"):
        parts.append(markdown_table(*accuracy_table(data)))
    if data.get("reproducibility"):
        parts.append(markdown_table(*reproducibility_table(data)))
    return "\n\n".join(parts) + "\n"
