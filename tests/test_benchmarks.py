"""The benchmark suite on invented libraries: slow, wrong, dying, hanging, absent. Nothing is timed
for its own sake, and no peer needs to be installed."""

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpmath")

from benchmarks import (
    agreement,
    cases,
    compare,
    exact,
    limits,
    memory,
    report,
    run,
    summary,
    timing,
)
from benchmarks.__main__ import main, write_report
from benchmarks.peers import OURS, PEERS, Peer
from benchmarks.worker import Worker, stopping

SETTINGS = timing.Settings(
    rounds=3, sample_seconds=0.001, warm_up_seconds=0.001, patience=0.1, timeout=2
)
CASE = "softmax (10) float32"
NEXT_CASE = "logsumexp (10) float32"
RIGHT = """
    import time, os
    import numpy as np

    def load(threads):
        return "1.0"

    def right(x, axis):
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    def softmax(x, *, axis):
        return lambda: right(x, axis)

    def logsumexp(x, *, axis):
        return lambda: np.log(np.exp(x).sum(axis))
"""
FAKES = {
    "right": "",
    "slow": """
        def softmax(x, *, axis):
            return lambda: (time.sleep(0.2), right(x, axis))[1]
    """,
    "wrong": """
        def softmax(x, *, axis):
            return lambda: right(x, axis) + 0.125
    """,
    "dies": """
        def softmax(x, *, axis):
            return lambda: os.abort()
    """,
    "hangs": """
        def softmax(x, *, axis):
            return lambda: time.sleep(60)
    """,
    "raises": """
        def softmax(x, *, axis):
            raise RuntimeError("not today")
    """,
    "old": """
        def softmax(x, *, axis):
            return lambda: np.softmax(x, axis)
    """,
    "batchy": """
        def softmax(x, *, axis):
            return lambda: right(x, axis) * np.float32(1 + 1e-5 * (len(x) > 1))
    """,
    "unloadable": """
        raise ImportError("its library is broken")
    """,
}


@pytest.fixture(autouse=True)
def isa():
    """Once is enough: the libraries run in processes of their own, on the level they choose."""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a peer of one of the invented libraries."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(kind, name=None):
        module = f"fake_{kind}"
        text = textwrap.dedent(RIGHT) + textwrap.dedent(FAKES[kind])
        (tmp_path / f"{module}.py").write_text(text)
        return Peer(name or kind, module, (), kind)

    return make


ABSENT = Peer("absent", "benchmarks.peers.absent", ("no_such_module",), "no-such-package")


def measured(peers, *names):
    """The rows of the named cases, from one set of workers."""
    workers = {peer.name: Worker(peer, threads=1) for peer in peers}
    with stopping(list(workers.values())):
        return [
            timing.measure_case(
                cases.all_cases()[name],
                workers,
                SETTINGS,
                np.random.default_rng(0),
                lambda _: None,
            )
            for name in names
        ]


def test_every_fate_is_named(fake):
    kinds = ("right", "slow", "wrong", "dies", "hangs", "raises", "old", "unloadable")
    peers = [fake("right", OURS), *map(fake, kinds), ABSENT]
    (row,) = measured(peers, CASE)
    results = row["results"]
    assert {name: result["status"] for name, result in results.items()} == {
        OURS: timing.TIMED,
        "right": timing.TIMED,
        "slow": timing.SLOW,
        "wrong": timing.WRONG,
        "dies": timing.LOST,
        "hangs": timing.LOST,
        "raises": timing.FAILED,
        "old": timing.NOT_OFFERED,
        "unloadable": timing.UNUSABLE,
        "absent": timing.UNUSABLE,
    }
    assert results["slow"]["min"] >= 0.2
    assert results["wrong"]["note"].startswith("differs by 0.125")
    assert "min" not in results["wrong"]
    assert "SIGABRT" in results["dies"]["note"]
    assert results["hangs"]["note"] == "no answer within 2 s"
    assert results["raises"]["note"] == "RuntimeError: not today"
    assert "no attribute 'softmax'" in results["old"]["note"]
    assert "its library is broken" in results["unloadable"]["note"]
    assert "pip install no-such-package" in results["absent"]["note"]
    assert summary.best_peer(row)[0] == "right"
    for name, text in (("dies", "lost"), ("wrong", "wrong"), ("absent", "-")):
        assert summary.result_text(results[name]) == text


def test_a_dead_library_takes_part_in_the_next_case(fake):
    first, second = measured([fake("right", OURS), fake("dies")], CASE, NEXT_CASE)
    assert first["results"]["dies"]["status"] == timing.LOST
    assert second["results"]["dies"]["status"] == timing.TIMED


def test_two_that_disagree_are_both_named(fake):
    (row,) = measured([fake("right", OURS), fake("wrong")], CASE)
    assert [result["status"] for result in row["results"].values()] == [timing.WRONG] * 2


def test_every_library_gets_the_rounds_it_was_promised(fake):
    (row,) = measured([fake("right", OURS), fake("right")], CASE)
    for result in row["results"].values():
        assert len(result["samples"]) == SETTINGS.rounds
        assert result["min"] <= result["median"]
        assert result["spread"] >= 0


def whole_run(peers, monkeypatch, *names):
    monkeypatch.setenv("CXX", "no-such-compiler")
    chosen = [cases.all_cases()[name] for name in names]
    data = run.run(chosen, peers, [1], SETTINGS)
    machine = {"processor": "p", "cores": 1, "date": "2000-01-01 00:00 UTC"}
    return {"command": "python -m benchmarks", "machine": machine, **data}


def test_without_peers_and_compiler_the_rest_goes_on(fake, monkeypatch, tmp_path, capsys):
    data = whole_run([fake("right", OURS), ABSENT], monkeypatch, CASE)
    assert data["rows"][0]["results"][OURS]["status"] == timing.TIMED
    assert summary.ratio(data["rows"][0]) is None
    assert data["rows"][0]["limit_seconds"] is None
    notes = "\n".join(summary.notes(data))
    assert "limits not measured: no-such-compiler" in notes
    assert "absent: not installed: pip install no-such-package" in notes
    write_report(data, tmp_path / "results")
    written = sorted(path.suffix for path in (tmp_path / "results").iterdir())
    assert written == [".html", ".json", ".md"]
    assert str(tmp_path) in capsys.readouterr().out


def test_an_interrupted_run_keeps_its_rows(fake, monkeypatch):
    measure_case = timing.measure_case

    def interrupt(case, *arguments):
        if case.name == NEXT_CASE:
            raise KeyboardInterrupt
        return measure_case(case, *arguments)

    monkeypatch.setattr(run, "measure_case", interrupt)
    data = whole_run([fake("right", OURS)], monkeypatch, CASE, NEXT_CASE)
    assert data["interrupted"]
    assert [row["case"] for row in data["rows"]] == [CASE]
    assert data["left_out"] == [f"{NEXT_CASE}, 1 thread(s)"]


def test_a_folder_that_cannot_be_written_moves_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    machine = {"processor": "p", "cores": 1, "date": "2000-01-01 00:00 UTC"}
    data = {"command": "c", "machine": machine, "versions": {}, "accuracy": []}
    write_report(data, tmp_path / "file" / "results")
    captured = capsys.readouterr()
    assert "cannot write to" in captured.err
    written = {Path(line).suffix: Path(line) for line in captured.out.split()}
    assert set(written) == {".json", ".md", ".html"}
    assert json.loads(written[".json"].read_text()) == data


def test_the_report_needs_no_network(fake, monkeypatch):
    pytest.importorskip("plotly")
    data = whole_run([fake("right", OURS), fake("right")], monkeypatch, CASE)
    page = report.html(data)
    for text in ("<script src", "<link", "@import", "url(http"):
        assert text not in page
    assert 'id="figure0"' in page


def test_a_table_has_a_line_a_case(fake, monkeypatch, tmp_path, capsys):
    data = whole_run([fake("right", OURS), fake("right")], monkeypatch, CASE)
    (row,) = data["rows"]
    data["rows"].append({**row, "threads": 2})
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))
    assert main(["table", str(path), str(path)]) == 0
    text = capsys.readouterr().out
    assert text.count(f"| {CASE} |") == 1 + 2  # the case, and the worst case for either count
    line = next(line for line in text.splitlines() if line.startswith(f"| {CASE} |"))
    assert line.count("|") == text.splitlines()[-2].count("|") == 1 + 1 + 2 * 4
    assert f"{summary.ratio(row):.2f}" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--family", "nonsense"], "family 'nonsense': one of softmax, losses"),
        (["--only", "no such case", "--family", "nms"], "nms 100 boxes crowded"),
        (["--only", "("], "not a regular expression"),
        (["--libraries", "nonsense"], "some of stableops, PyTorch"),
        (["accuracy", "--exhaustive", "tan"], "one of sigmoid, log_sigmoid, softplus"),
        (["compare", "missing.json", "missing.json"], "missing.json"),
        (["table", "missing.json"], "missing.json"),
    ],
)
def test_a_bad_argument_is_answered_with_what_exists(arguments, expected, capsys):
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err


def test_list_names_the_cases(capsys):
    assert main(["--list", "--family", "nms,overhead", "--quick"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert "nms 8400 boxes crowded" in names
    assert all(cases.all_cases()[name].quick for name in names)


def test_a_quick_run_has_every_family():
    quick = cases.select(quick=True)
    assert {case.family for case in quick} == set(cases.FAMILIES)
    first = cases.interleaved(quick)[: len(cases.FAMILIES)]
    assert {case.family for case in first} == set(cases.FAMILIES)


def test_our_adapter_has_every_operation():
    from benchmarks.peers import with_stableops

    wanted = {case.operation for case in cases.all_cases().values()}
    assert {name for name in wanted if not hasattr(with_stableops, name)} == set()


def test_inputs_are_the_same_in_every_process():
    case = cases.all_cases()["max_pool2d_backward 3x3/2 (1,64,112,112) channels-last"]
    grad_output, indices = case.arrays()
    again = case.arrays()
    assert np.array_equal(grad_output, again[0])
    assert np.array_equal(indices, again[1])
    assert grad_output.strides[1] == grad_output.itemsize
    assert indices.min() >= 0
    assert indices.max() < 112 * 112


def test_agreement_forgives_rounding_and_nothing_else():
    right = [np.linspace(1, 2, 1000, dtype=np.float32)]
    rounded = [np.nextafter(right[0], np.float32(9))]
    missing = [np.where(np.arange(1000) == 7, np.nan, right[0]).astype(np.float32)]
    off = [right[0] + np.where(np.arange(1000) == 7, np.float32(0.01), 0)]
    assert agreement.disagreement(rounded, right) is None
    assert agreement.disagreement(missing, right) == "NaN or infinity in other places"
    assert agreement.disagreement(off, right).startswith("differs by 0.01")
    assert agreement.disagreement([right[0][:5]], right) == "shape (5,) instead of (1000,)"
    kept = [np.arange(100)]
    assert agreement.disagreement([np.arange(90)], kept) == "10 of 100 indices differ"


def test_limits_are_measured_and_bound_a_case():
    try:
        with limits.compiled() as library:
            assert library.flops_float32(1) > 1e8
            assert library.bandwidth(0, 1 << 15, 1) > 1e8
    except limits.NoLimits as error:
        pytest.skip(str(error))
    rates = dict.fromkeys(limits.BUFFER_SIZES, 1e10)
    measured = limits.Limits(1, 512, True, 1e11, 5e10, dict.fromkeys(limits.KINDS, rates))
    assert measured.seconds(1e11, 0, 0, "float32") == pytest.approx(1)
    assert measured.seconds(1e11, 0, 0, "float64") == pytest.approx(2)
    assert measured.seconds(0, 10**10, 10**10, "float32") == pytest.approx(2)


def test_exact_results_and_errors_in_ulp():
    row = exact.Row(np.array([40.0, 0.0, 0.0]))
    assert float(row.loss(0)) == 8.496708510583178e-18
    assert float(row.gradient_at(0)) == -8.496708510583178e-18
    third = exact.mpf(1) / 3
    nearest = np.array([1 / 3, np.nextafter(1 / 3, 1)])
    assert exact.ulp_errors(nearest, [third, third], "float64") == pytest.approx([1 / 3, 2 / 3])
    tiny = exact.mpf(2) ** -1074
    assert exact.ulp_errors(np.array([0.0, 5e-324]), [tiny, tiny], "float64").tolist() == [1, 0]
    huge = exact.mpf(2) ** 128
    infinite = np.array([np.inf, np.finfo(np.float32).max], np.float32)
    assert exact.ulp_errors(infinite, [huge, huge], "float32").tolist() == [0, np.inf]


def test_a_result_that_depends_on_the_batch_is_found(fake):
    from benchmarks.reproducibility import examine

    answers = examine([fake("batchy"), fake("right")], lambda _: None)["reproducibility"]
    assert answers["batch"]["batchy"]["changes"] == "yes"
    assert answers["batch"]["batchy"]["example"].startswith("softmax, alone")
    assert answers["threads"]["batchy"]["changes"] == "no"
    assert answers["batch"]["right"]["changes"] == "no"
    assert answers["simd"]["right"]["changes"] == "-"


def test_accuracy_finds_the_worst_input(fake):
    from benchmarks.accuracy import assess, worst_inputs

    data = assess([fake("right"), fake("wrong")], lambda _: None, short=True)
    errors = {
        name: error["ulp"]
        for entry in data["accuracy"]
        if entry["operation"] == "softmax"
        for name, error in entry["errors"].items()
    }
    assert errors["right"] < errors["wrong"]
    assert any("softmax float32, wrong" in line for line in worst_inputs(data))


def report_with(seconds, spread, ulp):
    result = {"status": timing.TIMED, "min": seconds, "median": seconds, "spread": spread}
    error = {"operation": "softmax", "dtype": "float32", "errors": {OURS: {"ulp": ulp}}}
    row = {"case": CASE, "threads": 1, "results": {OURS: result}}
    return {"rows": [row], "accuracy": [error]}


@pytest.mark.parametrize(
    ("new", "worse", "expected"),
    [
        (report_with(1.0, 0.01, 0.9), False, "0 slower, 0 faster, 0 less accurate"),
        (report_with(1.5, 0.01, 0.9), True, "slower: softmax (10) float32"),
        (report_with(1.5, 0.60, 0.9), False, "0 slower"),
        (report_with(0.5, 0.01, 0.9), False, "faster: softmax (10) float32"),
        (report_with(1.0, 0.01, 1.4), True, "less accurate: softmax float32: 0.90 -> 1.40 ULP"),
    ],
)
def test_compare_tells_change_from_noise(new, worse, expected):
    lines, became_worse = compare.compare(report_with(1.0, 0.01, 0.9), new)
    assert became_worse is worse
    assert expected in "\n".join(lines)


def test_peers_have_names_and_install_lines():
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert all(peer.install.startswith("pip install ") for peer in PEERS)


def test_model_of_convolution():
    """Every layer has a prediction that its multiply-adds and its bytes bound from below."""
    from benchmarks import model
    from benchmarks.cases import select

    sizes = (1 << 14, 1 << 27)
    entry = {
        "threads": 1,
        "vector_bits": 512,
        "flops_float32": 1e11,
        "bandwidths": {kind: dict.fromkeys(map(str, sizes), 1e10) for kind in ("read", "write")},
    }
    chosen = select("", ["conv"])
    rows = [
        {"case": c.name, "threads": 1, "results": {OURS: {"status": "timed", "min": 1.0}}}
        for c in chosen
    ]
    heading, lines = model.table({"limits": [entry], "rows": rows})
    assert len(lines) == len(chosen)
    assert len(lines[0]) == len(heading)
    for case in chosen:
        predicted = model.predicted_seconds(*model.parsed(case.name), entry)
        assert predicted > 0.99 * case.flops / 1e11
    assert model.parsed("softmax (10) float32") is None


def test_memory_of_a_library_that_fails_is_no_gap(monkeypatch):
    """Only one that is not installed is left out of the table."""
    with pytest.raises(RuntimeError, match="stableops, predict no_such_network"):
        memory.measured("stableops", "predict", "no_such_network")

    def missing(library, what):
        raise ModuleNotFoundError

    monkeypatch.setattr(memory, "predict", missing)
    with pytest.raises(SystemExit) as exit_:
        memory.measure("PyTorch", "predict", "resnet50")
    assert exit_.value.code == memory.NOT_INSTALLED
