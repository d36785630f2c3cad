"""Networks learn real pictures; the command line trains, goes on after Ctrl-C, shows networks."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import stableops
from stableops import models, nn
from stableops.__main__ import main
from stableops._datasets import load_dataset
from stableops._networks import LEARNERS, RATES, _draw, _generator_of


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Nothing here depends on the level."""


def dataset(name, side=28):
    try:
        return load_dataset(name, side)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def best_accuracy(name, data, epochs, goal, **changes):
    """Train until the goal is reached, at most some epochs."""
    generator = _generator_of(changes.pop("seed", 0))
    net = models.NETWORKS[name][0](rng=generator(99))
    optimizer = nn.SGD(net, RATES.get(name, 0.1), momentum=0.9, weight_decay=1e-4)
    settings = {"rng": generator, "epochs": epochs, "batch_size": 32} | changes
    reached = 0.0
    for step in nn.fit(net, data.images, data.labels, optimizer, **settings):
        if step.ends_epoch:
            reached = max(reached, nn.accuracy(net, data.test_images, data.test_labels))
            if reached >= goal:
                break
    return reached


def test_lenet5_learns_digits():
    assert best_accuracy("lenet5", dataset("digits"), 6, 0.96) >= 0.96


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "lenet5"])
def test_each_family_learns_digits(name):
    data = dataset("digits", models.NETWORKS[name][1][-1])
    start = time.perf_counter()
    assert best_accuracy(name, data, 8, 0.97) >= 0.97
    assert time.perf_counter() - start < 120


@pytest.mark.slow
def test_lenet5_learns_mnist():
    assert best_accuracy("lenet5", dataset("mnist"), 10, 0.96) >= 0.96


@pytest.mark.slow
def test_lenet5_learns_clothes():
    reached = best_accuracy("lenet5", dataset("fashion-mnist"), 2, 0.85, batch_size=64)
    assert reached >= 0.85


def test_predictions_do_not_depend_on_the_batch():
    net = models.small_inception(rng=_generator_of(0)(0))
    images = dataset("digits").images[:50]
    net(images)
    assert np.array_equal(
        nn.predict(net, images, batch_size=7), nn.predict(net, images, batch_size=50)
    )
    assert net.training, "the mode was changed"


# The command line


def run(*arguments, cwd, **settings):
    package = str(Path(stableops.__file__).resolve().parents[1])
    path = filter(None, [package, os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        [sys.executable, "-m", "stableops", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=settings.pop("stderr", subprocess.STDOUT),
        text=True,
        # Ctrl-C works also where the tests were started in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


def test_models_lists_all(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(models.NETWORKS)
    row = next(line for line in lines if line.startswith("resnet50 "))
    assert row.split() == ["resnet50", "25,557,032", "4,089,184,256", "3x224x224"]


def test_nobody_reads_on(tmp_path):
    with run("models", cwd=tmp_path, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_summary_prints_a_table(capsys):
    assert main(["summary", "lenet5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["conv1", "Conv2d", "6x28x28", "156", "122,304", "117,600", "5", "1"]
    assert lines[-1].split()[:2] == ["total", "61,706"]
    assert main(["summary", "alexnet", "--size", "50"]) == 1
    assert "alexnet cannot take 50x50: layer features.12" in capsys.readouterr().err


def test_train_goes_on_after_ctrl_c(tmp_path):
    arguments = ("train", "lenet5", "--epochs", "4", "--seed", "3")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    process = run(*arguments, cwd=whole)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("loss") == 4
    assert re.search(r"9\d\.\d\d % of 359 held-out pictures right", output)
    assert re.search(r" 50 %   loss \d.\d+   accuracy +\d+\.\d %   +\d+ s left", output)

    process = run(*arguments, cwd=parts)
    for line in process.stdout:
        if " 25 % " in line:
            process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert not (parts / "lenet5-digits.npz").exists()
    assert (parts / "lenet5-digits.unfinished.npz").exists()

    process = run(*arguments[:-1], "4", cwd=parts)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "is from a training with other settings" in output

    process = run(*arguments, cwd=parts)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert re.search(r"going on after epoch [123] of 4", output)
    expected = nn.load_weights(whole / "lenet5-digits.npz")
    state = nn.load_weights(parts / "lenet5-digits.npz")
    assert list(state) == list(models.lenet5().state_dict())
    for key in expected:
        assert np.array_equal(expected[key], state[key]), "another end than without Ctrl-C"
    names = {path.name for path in parts.iterdir()}
    assert names <= {"lenet5-digits.npz", "lenet5-digits.png"}


def test_curves_are_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pip install matplotlib")
    path = tmp_path / "net.png"
    _draw(path, [(2.0, 0.5), (1.0, 0.75), (0.5, 0.9)])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "net.png shows the curves" in capsys.readouterr().out


def test_train_refuses_what_it_cannot_do(tmp_path, capsys):
    missing = tmp_path / "missing" / "net.npz"
    assert main(["train", "lenet5", "--epochs", "1", "--weights", str(missing)]) == 1
    assert "missing" in capsys.readouterr().err
    assert main(["train", "lenet5", "--epochs", "0"]) == 1
    assert "at least one epoch" in capsys.readouterr().err
    assert main(["train", "lenet5", "--weights", str(tmp_path / "net.bin")]) == 1
    assert "does not end with .npz" in capsys.readouterr().err
    assert main(["train", "lenet5", "--rate", "1e9", "--weights", str(tmp_path / "a.npz")]) == 1
    assert re.search(r"the loss is \S+ at step \d+: it began in layer", capsys.readouterr().err)
    for rate in ("0", "-1", "nan", "inf"):
        assert main(["train", "lenet5", "--rate", rate]) == 1
        assert "--rate must be positive" in capsys.readouterr().err
    (tmp_path / "folder.npz").mkdir()
    assert main(["train", "lenet5", "--weights", str(tmp_path / "folder.npz")]) == 1
    assert "folder.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "resnet50"])
    with pytest.raises(SystemExit):
        main(["train", "lenet5", "--seed", "-1"])
    assert "argument --seed: -1 is negative" in capsys.readouterr().err
    for size in ("-3", "100000000"):
        assert main(["summary", "lenet5", "--size", size]) == 1
        assert f"lenet5 cannot take {size}x{size}" in capsys.readouterr().err


def test_train_touches_no_file_but_its_own(tmp_path):
    names = (".net.npz", ".net.npz.part", "net.png", "..net.npz.part")
    for name in names:
        (tmp_path / name).write_text("precious")
    weights = str(tmp_path / "net.npz")
    assert main(["train", "lenet5", "--rate", "1e9", "--weights", weights]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all((tmp_path / name).read_text() == "precious" for name in names)
