"""The largest error of each library, in ULP, on the same inputs; and the input that caused it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpmath import mpf

from benchmarks import exact
from benchmarks.cases import NCHW
from benchmarks.peers import Peer
from benchmarks.summary import in_order
from benchmarks.worker import LibraryError, NotOffered, Worker, WorkerLost, stopping

TIMEOUT = 120.0
DTYPES = ("float32", "float64")
WIDTHS = (1, 2, 15, 16, 17, 31, 33, 1023, 1024, 1025)


@dataclass
class Error:
    """The largest error of one library in one operation."""

    ulp: float = -1.0
    text: str = ""

    def note(self, ulp: float, describe: Callable[[], str]) -> None:
        if ulp > self.ulp:
            self.ulp, self.text = float(ulp), describe()


@dataclass
class Table:
    """Errors by operation and dtype, then by library."""

    errors: dict[tuple[str, str], dict[str, Error]] = field(default_factory=dict)

    def at(self, operation: str, dtype: str, library: str) -> Error:
        return self.errors.setdefault((operation, dtype), {}).setdefault(library, Error())

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "operation": operation,
                "dtype": dtype,
                "errors": {name: vars(error) for name, error in errors.items()},
            }
            for (operation, dtype), errors in self.errors.items()
        ]


@dataclass
class Rows:
    """Rows of logits of one length, each with its name and label."""

    names: list[str]
    logits: np.ndarray
    labels: np.ndarray


def adversarial_rows(dtype: str, short: bool = False) -> list[Rows]:
    """Rows on which softmax and its loss have been seen to lose digits, and ordinary ones.

    Only finite ones: what infinities and NaN give is a matter of tests, not of ULP.
    """
    by_width: dict[int, list[tuple[str, np.ndarray, int]]] = {}
    for name, values, label in named_rows(dtype, short):
        row = np.asarray(values, dtype=np.float64).astype(dtype)
        by_width.setdefault(len(row), []).append((name, row, label))
    return [
        Rows([name for name, _, _ in group], np.stack([row for _, row, _ in group]),
             np.array([label for _, _, label in group]))
        for group in by_width.values()
    ]  # fmt: skip


def named_rows(dtype: str, short: bool) -> Iterator[tuple[str, Sequence[float], int]]:
    largest, one = float(np.finfo(dtype).max), np.ones((), dtype)
    for others in (1, 9) if short else (1, 9, 999):
        for top in np.arange(0, 800.5, 4 if short else 0.5):
            yield f"one top above {others} zeros", [top, *[0] * others], 0
    for top in (1, 5, 700):
        yield "two equal tops", [top, top], 0
        yield "two tops one ULP apart", [top, float(np.nextafter(one * top, 0, dtype=dtype))], 0
    for row in ([largest, -largest], [largest, largest], [-largest] * 3):
        yield "the largest numbers", row, 0
    for edge in [103.97 + step / 100 for step in range(14)] + [745.1, 708.4, 709.8, 87.34, 88.73]:
        for label, right in enumerate(("right", "wrong")):
            yield f"a subnormal exponential, the top {right}", [0, -edge], label
    generator = np.random.default_rng(4)
    for width in (2, 10, 17) if short else (2, 4, 17, 100):
        for probabilities in generator.dirichlet(np.full(width, 0.5), 8):
            yield "logarithms of probabilities", np.log(np.maximum(probabilities, 1e-300)), 0
    for probabilities in ([0.5, 0.5], [0.3, 0.7], [0.25] * 4):
        yield "logarithms of probabilities", np.log(probabilities), 0
    for width in (2, 3) if short else (2, 3, 5):
        for probabilities in generator.dirichlet(np.ones(width), 8):
            yield "logarithms that sum to 1 + 1e-9", np.log(probabilities * (1 + 1e-9)), 0
    for width in (2, 17) if short else WIDTHS:
        for scale in (1, 10, 100):
            for row in scale * generator.standard_normal((4, width)):
                yield f"{width} random, scale {scale}", row, 0
    yield "increasing", np.linspace(-50, 50, 1000), 999
    yield "decreasing", np.linspace(50, -50, 1000), 0
    subnormal = float(np.finfo(dtype).smallest_subnormal)
    yield "subnormal and zeros", [subnormal, -subnormal, 0.0, -0.0], 0
    if not short:
        yield "50,000 equal", np.full(50_000, 3.25), 0
        tiny = generator.choice(generator.uniform(-2, 2, 64), 128_256)
        tiny[77] = 60
        yield "one large among 128,256", tiny, 77


def elements(dtype: str, short: bool = False) -> np.ndarray:
    """Inputs for the elementwise functions: every region, both signs."""
    generator = np.random.default_rng(5)
    count = 500 if short else 5_000
    information = np.finfo(dtype)
    exponents = generator.uniform(np.log2(information.smallest_subnormal), 10, count)
    positive = np.concatenate(
        [
            np.abs(generator.standard_normal(count)) * 4,
            generator.uniform(0, 800, count),
            np.exp2(exponents),
            [0.0, float(information.max), float(information.tiny), 17.33, 36.74, 88.73, 103.98],
        ]
    )
    return np.concatenate([positive, -positive]).astype(dtype)


def assess(
    peers: Sequence[Peer], say: Callable[[str], None], short: bool = False
) -> dict[str, Any]:
    """The accuracy part of the report's data."""
    workers = [Worker(peer, threads=1) for peer in peers]
    found = Table()
    with stopping(workers):
        for worker in workers:
            worker.begin()
        usable = [worker for worker in workers if worker.ready()]
        for dtype in DTYPES[: 1 if short else None]:
            say(f"accuracy: rows of logits, {dtype}")
            for rows in adversarial_rows(dtype, short):
                assess_rows(rows, dtype, usable, found)
            say(f"accuracy: elementwise, {dtype}")
            assess_elements(elements(dtype, short), dtype, usable, found)
        say("accuracy: sums of products")
        assess_sums(usable, found)
        return {
            "accuracy": found.to_json(),
            "confident": confident_rows(usable),
            "versions": {worker.peer.name: worker.version for worker in usable},
        }


def evaluate(
    worker: Worker,
    operation: str,
    arrays: Sequence[np.ndarray],
    options: dict[str, Any] | None = None,
    layout: str = NCHW,
) -> tuple[np.ndarray, ...] | None:
    """The library's results, or None where it has none to give."""
    try:
        return worker.ask("evaluate", TIMEOUT, operation, arrays, options or {}, layout)
    except (LibraryError, NotOffered, WorkerLost):
        return None


def assess_rows(rows: Rows, dtype: str, workers: Sequence[Worker], found: Table) -> None:
    references = [exact.Row(row) for row in rows.logits]
    labels = [int(label) for label in rows.labels]
    sums = [reference.logsumexp() for reference in references]
    losses = [r.loss(label) for r, label in zip(references, labels, strict=True)]

    def per_element(values: Callable[[exact.Row], list[mpf]]) -> list[np.ndarray]:
        return [np.array(values(r), dtype=object)[r.inverse] for r in references]

    probabilities = per_element(exact.Row.softmax)
    gradients = [values.copy() for values in probabilities]
    for values, reference, label in zip(gradients, references, labels, strict=True):
        values[label] = reference.gradient_at(label)
    operations = (
        ("softmax", [rows.logits], {"axis": -1}, {0: ("softmax", probabilities)}),
        (
            "log_softmax", [rows.logits], {"axis": -1},
            {0: ("log_softmax", per_element(exact.Row.log_softmax))},
        ),
        ("logsumexp", [rows.logits], {"axis": -1}, {0: ("logsumexp", sums)}),
        (
            "cross_entropy", [rows.logits, rows.labels], {"gradient": True, "reduction": "none"},
            {0: ("cross_entropy", losses), 1: ("cross_entropy gradient", gradients)},
        ),
    )  # fmt: skip

    def describe(position: tuple[int, ...], got: float, value: mpf) -> str:
        row, place = rows.logits[position[0]], ""
        shown = ", ".join(f"{x:.9g}" for x in row[:3]) + (", ..." if len(row) > 3 else "")
        if len(position) > 1:
            place = f", element {position[1]} ({row[position[1]]:.9g})"
        return (
            f"{rows.names[position[0]]}, [{shown}], label {labels[position[0]]}{place}: "
            f"{exact.text(got, dtype)} instead of {exact.text(value, dtype)}"
        )

    for operation, arrays, options, expected in operations:
        for worker in workers:
            results = evaluate(worker, operation, arrays, options)
            if results is None:
                continue
            for i, (name, values) in expected.items():
                error = found.at(name, dtype, worker.peer.name)
                note_worst(error, results[i], np.array(values, dtype=object), dtype, describe)


def note_worst(
    error: Error,
    results: np.ndarray,
    values: np.ndarray,
    dtype: str,
    describe: Callable[[tuple[int, ...], float, mpf], str],
) -> None:
    """Compare arrays of one shape and keep the worst element."""
    if results.shape != values.shape or results.dtype.name != dtype:
        error.note(np.inf, lambda: f"{results.shape} of {results.dtype}")
        return
    flat, exact_flat = results.reshape(-1), values.reshape(-1)
    # equal pairs have equal errors, and rows of few distinct values are common; the exact values
    # of one row are shared objects, so their identity will do
    pairs = zip(map(id, exact_flat), flat.tolist(), strict=True)
    first: dict[tuple[int, float], int] = {}
    for i, pair in enumerate(pairs):
        first.setdefault(pair, i)
    places = list(first.values())
    ulps = exact.ulp_errors(flat[places], exact_flat[places], dtype)
    worst = places[int(np.argmax(ulps))]

    def text() -> str:
        position = tuple(map(int, np.unravel_index(worst, results.shape)))
        return describe(position, float(flat[worst]), exact_flat[worst])

    error.note(ulps.max(), text)


def assess_elements(x: np.ndarray, dtype: str, workers: Sequence[Worker], found: Table) -> None:
    numbers = [mpf(float(value)) for value in x]
    labels = (np.arange(len(x)) % 2).astype(dtype)
    signed = [-v if label else v for v, label in zip(numbers, labels, strict=True)]
    signs = np.where(labels == 1, -1, 1)
    losses = np.array([exact.softplus(v) for v in signed], dtype=object)
    slopes = np.array([exact.sigmoid(v) for v in signed], dtype=object) * signs
    operations = [
        (name, [x], {}, {0: (name, np.array([function(v) for v in numbers], dtype=object))})
        for name, function in (
            ("sigmoid", exact.sigmoid),
            ("log_sigmoid", exact.log_sigmoid),
            ("softplus", exact.softplus),
        )
    ]
    operations.append(
        (
            "sigmoid_cross_entropy", [x, labels], {"gradient": True, "reduction": "none"},
            {0: ("sigmoid_cross_entropy", losses), 1: ("sigmoid_cross_entropy gradient", slopes)},
        )
    )  # fmt: skip

    def describe(position: tuple[int, ...], got: float, value: mpf) -> str:
        given = exact.text(float(x[position]), dtype)
        return f"{given}: {exact.text(got, dtype)} instead of {exact.text(value, dtype)}"

    for operation, arrays, options, expected in operations:
        for worker in workers:
            results = evaluate(worker, operation, arrays, options)
            if results is None:
                continue
            for i, (name, values) in expected.items():
                error = found.at(name, dtype, worker.peer.name)
                note_worst(error, results[i], values, dtype, describe)


def assess_sums(workers: Sequence[Worker], found: Table) -> None:
    """Convolution, linear and average pooling in float32: error / (sum of |terms| * eps).

    A sum of a few thousand products in float64 has a relative error of 1e-12, five digits more
    than is asked of it here.
    """
    generator = np.random.default_rng(6)
    x = generator.standard_normal((2, 64, 28, 28), np.float32)
    weight = generator.standard_normal((32, 64, 3, 3), np.float32)
    bias = generator.standard_normal(32, np.float32)
    features, matrix = (generator.standard_normal((n, 4096), np.float32) for n in (16, 100))
    offset = generator.standard_normal(100, np.float32)

    def windows(image: np.ndarray, padding: int) -> np.ndarray:
        padded = np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))

    def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        sums = np.tensordot(windows(x, 1), weight, ((1, 4, 5), (1, 2, 3)))
        return np.moveaxis(sums + bias, 3, 1)

    cases = (
        (
            "conv2d", [x, weight, bias],
            {"stride": 1, "padding": 1, "groups": 1}, convolution,
        ),
        ("linear", [features, matrix, offset], {}, lambda x, w, b: x @ w.T + b),
        (
            "avg_pool2d", [x], {"kernel_size": 3, "stride": 1, "padding": 0},
            lambda x: windows(x, 0).mean((4, 5)),
        ),
    )  # fmt: skip
    for operation, arrays, options, reference in cases:
        wide = [array.astype(np.float64) for array in arrays]
        expected, magnitude = reference(*wide), reference(*map(np.abs, wide))
        unit = magnitude * np.finfo(np.float32).eps
        for worker in workers:
            results = evaluate(worker, operation, arrays, options)
            if results is None or results[0].shape != expected.shape:
                continue
            errors = np.abs(results[0] - expected) / unit
            position = np.unravel_index(int(np.argmax(errors)), errors.shape)
            found.at(operation, "float32", worker.peer.name).note(
                errors[position],
                lambda position=position, got=results[0], expected=expected: (
                    f"at {tuple(map(int, position))}: {got[position]:.9g} "
                    f"instead of {expected[position]:.9g}"
                ),
            )


def confident_rows(workers: Sequence[Worker]) -> dict[str, Any]:
    """The error of the loss of [t, 0, 0], label 0, against t, in float32."""
    tops = np.arange(0, 101, 1.0)
    logits = np.zeros((len(tops), 3), np.float32)
    logits[:, 0] = tops
    labels = np.zeros(len(tops), np.int64)
    values = [exact.Row(row).loss(0) for row in logits]
    curves = {}
    for worker in workers:
        options = {"gradient": False, "reduction": "none"}
        results = evaluate(worker, "cross_entropy", [logits, labels], options)
        if results is not None:
            errors = exact.ulp_errors(results[0], values, "float32")
            curves[worker.peer.name] = [float(error) for error in errors]
    return {"tops": tops.tolist(), "errors": curves}


def error_text(error: dict[str, Any] | None) -> str:
    if error is None or error["ulp"] < 0:
        return "-"
    ulp = error["ulp"]
    if np.isinf(ulp):
        return "inf"
    return f"{ulp:.2f}" if ulp < 1000 else f"{ulp:.1e}"


def accuracy_table(data: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    libraries = in_order(name for entry in data["accuracy"] for name in entry["errors"])
    cells = [
        [
            entry["operation"],
            entry["dtype"],
            *(error_text(entry["errors"].get(name)) for name in libraries),
        ]
        for entry in data["accuracy"]
    ]
    return ["operation", "dtype", *libraries], cells


def worst_inputs(data: dict[str, Any]) -> list[str]:
    return [
        f"{entry['operation']} {entry['dtype']}, {name}: {error_text(error)}: {error['text']}"
        for entry in data["accuracy"]
        for name, error in entry["errors"].items()
    ]
