"""The boundary: what arrays are taken, how, and what is refused with which words."""

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from reference import relu, same_bits

import stableops as so


def test_array_likes():
    assert same_bits(so.relu([[1, -2], [3, 4]]), np.array([[1.0, 0.0], [3.0, 4.0]]))
    assert same_bits(so.relu(-1.5), np.float64(0.0))
    assert isinstance(so.relu(np.float32(2)), np.float32)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "i8"])
def test_integers_become_float64(dtype):
    x = np.array([0, 1, 1]).astype(dtype)
    assert same_bits(so.relu(x), x.astype(np.float64))


@pytest.mark.parametrize(
    "x", ["text", 1j, np.longdouble(1), None, {}, np.array(["2020-01-01"], "M8[D]"), b"x"]
)
def test_dtypes_refused(x):
    with pytest.raises(TypeError, match=r"x has dtype .*; allowed are float64, float32, float16"):
        so.relu(x)


def test_other_ml_dtypes_refused():
    with pytest.raises(TypeError, match="x has dtype float8_e5m2"):
        so.relu(np.zeros(3, ml_dtypes.float8_e5m2))


def test_masked_array_refused():
    with pytest.raises(TypeError, match="x is a masked array"):
        so.relu(np.ma.array([1.0, 2.0], mask=[0, 1]))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("labels", lambda v: so.softmax_cross_entropy(np.zeros((2, 2)), v)),
        ("labels", lambda v: so.softmax_cross_entropy(np.zeros(2), v)),
        ("labels", lambda v: so.linear_cross_entropy(np.zeros((2, 3)), np.zeros((2, 3)), v)),
        ("labels", lambda v: so.sigmoid_cross_entropy(np.zeros(2), v)),
        ("idxs", lambda v: so.batched_nms(np.zeros((2, 4)), np.zeros(2), v, 0.5)),
        ("b", lambda v: so.logsumexp(np.zeros(2), b=v)),
        ("where", lambda v: so.softmax(np.zeros(2), where=v)),
        ("out", lambda v: so.relu(np.zeros(2, int), out=v.astype(float))),
    ],
)
def test_masked_arrays_refused_everywhere(name, call):
    with pytest.raises(TypeError, match=f"{name} is a masked array"):
        call(np.ma.array([1, 0], mask=[0, 1]))


def test_ragged_list_refused():
    with pytest.raises(TypeError, match="x is no array"):
        so.relu([[1.0], [1.0, 2.0]])


class Exporter:
    """An object that offers its memory by DLPack and in no other way, as tensors do."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack():
    x = np.arange(-3.0, 3.0).reshape(2, 3)
    assert same_bits(so.relu(Exporter(x)), relu(x))


def test_dlpack_labels():
    x, k = np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([1, 0])
    expected = so.softmax_cross_entropy(x, k)
    assert same_bits(so.softmax_cross_entropy(Exporter(x), Exporter(k)), expected)
    w = np.eye(2)
    assert same_bits(so.linear_cross_entropy(Exporter(x), w, Exporter(k)), expected)


def test_dlpack_that_fails():
    class Broken(Exporter):
        def __dlpack__(self, **kwargs):
            raise BufferError("on another device")

    with pytest.raises(TypeError, match="x cannot be read through DLPack: on another device"):
        so.relu(Broken(np.ones(1)))


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_byte_order(dtype):
    x = np.array([1.5, -2.0, 3.0], dtype)
    assert same_bits(so.relu(x.astype(x.dtype.newbyteorder())), relu(x))


def test_misaligned_and_odd_strides():
    raw = np.zeros(8 * 6 + 1, np.uint8)
    x = raw[1:].view("f8")
    x[:] = [1, -1, 2, -2, 3, -3]
    assert same_bits(so.relu(x), relu(x.copy()))
    fields = np.zeros(5, [("a", "i1"), ("x", "f4"), ("b", "i2")])
    fields["x"] = [1, -1, 2, -2, 3]
    assert same_bits(so.relu(fields["x"]), np.float32([1, 0, 2, 0, 3]))


def test_read_only_input_is_read_only():
    x = np.array([-1.0, 2.0])
    x.flags.writeable = False
    assert same_bits(so.relu(x), np.array([0.0, 2.0]))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5, 2)])
def test_zero_sizes(shape):
    assert same_bits(so.relu(np.zeros(shape, "f4")), np.zeros(shape, "f4"))


def test_64_dimensions():
    x = -np.ones((1,) * 62 + (2, 3))
    assert same_bits(so.relu(x), np.zeros_like(x))


def test_many_dimensions_that_do_not_merge():
    x = np.random.default_rng(0).standard_normal((2,) * 12)
    view = x.transpose(*range(0, 12, 2), *range(1, 12, 2))[..., ::-1]
    assert same_bits(so.relu(view), relu(view))


def test_result_keeps_the_layout():
    x = np.zeros((2, 3, 4, 5), "f4").transpose(0, 3, 1, 2)
    assert so.relu(x).strides == x.strides


class TestOut:
    def test_is_returned(self):
        x, out = np.array([-1.0, 2.0]), np.empty(2)
        assert so.relu(x, out=out) is out
        assert same_bits(out, np.array([0.0, 2.0]))

    def test_in_place(self):
        x = np.array([-1.0, 2.0])
        so.relu(x, out=x)
        assert same_bits(x, np.array([0.0, 2.0]))

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            (slice(None, -1), slice(1, None)),
            (slice(1, None), slice(None, -1)),
            (slice(1, None), slice(None, 0, -1)),
        ],
    )
    def test_overlap(self, source, target):
        x = np.random.default_rng(0).standard_normal(5001)
        expected = relu(x[source].copy())
        so.relu(x[source], out=x[target])
        assert same_bits(x[target], expected)

    def test_strided_misaligned_swapped(self):
        x = np.array([-1.0, 2.0, 3.0])
        strided = np.full(7, 9.0)
        so.relu(x, out=strided[1::2])
        assert strided.tolist() == [9, 0, 9, 2, 9, 3, 9]
        misaligned = np.zeros(25, np.uint8)[1:].view("f8")
        assert so.relu(x, out=misaligned).tolist() == [0, 2, 3]
        swapped = np.zeros(3, ">f8")
        assert so.relu(x, out=swapped).tolist() == [0, 2, 3]

    def test_wrong_shape(self):
        with pytest.raises(ValueError, match=r"out has shape \(3,\); it must be \(2,\)"):
            so.relu(np.ones(2), out=np.ones(3))

    def test_wrong_dtype(self):
        with pytest.raises(TypeError, match="out has dtype float32; it must be float64"):
            so.relu(np.ones(2), out=np.ones(2, "f4"))

    def test_not_an_array(self):
        with pytest.raises(TypeError, match="out is of type list"):
            so.relu(np.ones(2), out=[0.0, 0.0])

    def test_read_only(self):
        out = np.ones(2)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out is read-only"):
            so.relu(np.ones(2), out=out)
        assert out.tolist() == [1, 1]


def test_promotion():
    g32, y16 = np.ones(3, "f4"), np.ones(3, "f2")
    assert so.relu_backward(g32, y16).dtype == np.float32
    assert so.relu_backward(y16, y16.astype(ml_dtypes.bfloat16)).dtype == np.float32
    assert so.relu_backward(g32, np.ones(3, "i8")).dtype == np.float64


def test_eight_python_threads():
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((300, 1000)) for _ in range(8)]
    failures = []

    def work(x):
        expected = relu(x)
        failures.extend(1 for _ in range(20) if not same_bits(so.relu(x), expected))

    workers = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_fork_while_another_thread_computes():
    code = """
import os, threading, warnings
import numpy as np, stableops as so
warnings.simplefilter("ignore")
so.set_num_threads(4)
x = -np.ones((1000, 1000))
stop = threading.Event()
def work():
    while not stop.is_set():
        so.relu(x)
worker = threading.Thread(target=work)
worker.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if (so.relu(x) == 0).all() else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
worker.join()
print("ok")
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout == "ok\n", run.stderr


class TestThreads:
    @pytest.mark.parametrize("n", [0, -1, 513, 10**30])
    def test_out_of_range(self, n):
        with pytest.raises(ValueError, match=f"n={n} is out of range; allowed are 1 to 512"):
            so.set_num_threads(n)

    @pytest.mark.parametrize("n", [1.0, "2", None, True])
    def test_wrong_type(self, n):
        with pytest.raises(TypeError, match="an int is"):
            so.set_num_threads(n)

    def test_bad_environment(self):
        run = subprocess.run(
            [sys.executable, "-c", "import stableops; stableops.get_num_threads()"],
            env={**os.environ, "STABLEOPS_NUM_THREADS": "many"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "ValueError" in run.stderr
        assert "STABLEOPS_NUM_THREADS" in run.stderr
        assert "many" in run.stderr


def test_recycled_memory():
    """A large result's memory is used again when the array dies, and given back on request."""
    so.empty_cache()
    y = so.relu(np.ones((1000, 1000)))
    assert y.ctypes.data % 4096 == 0
    address = y.ctypes.data
    held = so._core.cache_bytes_in_use()
    view = y[::2]
    del y
    assert so._core.cache_bytes_in_use() == held, "a view keeps the block alive"
    del view
    assert so._core.cache_bytes_in_use() > held
    assert so.relu(np.ones((1000, 1000))).ctypes.data == address
    so.empty_cache()
    assert so._core.cache_bytes_in_use() == 0


def test_flush_to_zero_of_the_caller_does_not_matter():
    """Loading a library built with -ffast-math sets flush-to-zero for the thread that loads it."""
    code = """
import ctypes, mmap, platform
import numpy as np, stableops as so
assert platform.machine() in ("x86_64", "AMD64")
# ldmxcsr [rdi]; ret
code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes([0x0F, 0xAE, 0x17, 0xC3]))
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
load = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
tiny = np.full(100_000, 5e-324)
before = so.relu_backward(tiny, np.ones(100_000)).tobytes()
value = ctypes.c_uint32(0x1F80 | 0x8040)
load(ctypes.addressof(value))
after = so.relu_backward(tiny, tiny).tobytes()
value.value = 0x1F80
load(ctypes.addressof(value))
assert before == after
print("ok")
"""
    if sys.platform != "linux":
        return
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "ok\n", run.stderr


BOXES, SCORES = np.zeros((2, 4)), np.zeros(2)
IMAGE, WEIGHT = np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 2, 2))


@pytest.mark.parametrize(
    "value", [2**70, -(2**70), pytest.param(10**5000, id="huge"), 1.5, None, "text", (1, 2)]
)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("axis", lambda v: so.softmax([1.0, 2.0], axis=v)),
        ("ignore_index", lambda v: so.softmax_cross_entropy([[1.0, 2]], [0], ignore_index=v)),
        ("label_smoothing", lambda v: so.softmax_cross_entropy([[1.0, 2]], [0], label_smoothing=v)),
        ("reduction", lambda v: so.softmax_cross_entropy([[1.0, 2]], [0], reduction=v)),
        ("reduction", lambda v: so.sigmoid_cross_entropy([1.0, 2], [0, 1], reduction=v)),
        ("iou_threshold", lambda v: so.nms(BOXES, SCORES, v)),
        ("score_threshold", lambda v: so.nms(BOXES, SCORES, 0.5, score_threshold=v)),
        ("max_output", lambda v: so.nms(BOXES, SCORES, 0.5, max_output=v)),
        ("method", lambda v: so.soft_nms(BOXES, SCORES, method=v)),
        ("sigma", lambda v: so.soft_nms(BOXES, SCORES, sigma=v)),
        ("in_fmt", lambda v: so.box_convert(BOXES, v, "xyxy")),
        ("mode", lambda v: so.interpolate(IMAGE, (2, 2), mode=v)),
        ("scale_factor", lambda v: so.interpolate(IMAGE, scale_factor=v)),
        ("stride", lambda v: so.conv2d(IMAGE, WEIGHT, stride=v)),
        ("padding", lambda v: so.conv2d(IMAGE, WEIGHT, padding=v)),
        ("groups", lambda v: so.conv2d(IMAGE, WEIGHT, groups=v)),
        ("kernel_size", lambda v: so.max_pool2d(IMAGE, v)),
        ("eps", lambda v: so.batch_norm(IMAGE, training=True, eps=v)),
        ("p", lambda v: so.dropout([1.0], p=v)),
        ("negative_slope", lambda v: so.leaky_relu([1.0], v)),
    ],
)
def test_settings_are_taken_or_named(name, call, value):
    message = name
    try:
        call(value)
    except (ValueError, TypeError, IndexError) as error:  # and no OverflowError
        message = str(error)
    assert name in message
    assert len(message) < 400
