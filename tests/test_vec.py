"""csrc/simd/vec.h on each level: exactly what IEEE 754 says, lane by lane, whatever the width."""

import ctypes
import ctypes.util
import subprocess

import ml_dtypes
import numpy as np
import pytest
from compiled import level_flags, program
from reference import same_bits


def apply(isa, name, x, dtype):
    run = subprocess.run(
        [program(("csrc/simd/vec_test.cpp",), level_flags(isa)), name],
        input=x.tobytes(),
        capture_output=True,
        check=True,
    )
    return np.frombuffer(run.stdout, dtype)


def random_bits(dtype, n, rng):
    dtype = np.dtype(dtype)
    return rng.integers(0, 2 ** (8 * dtype.itemsize), n, f"u{dtype.itemsize}").view(dtype)


def cancelling(dtype, n, rng):
    """Triples whose a * b and c nearly cancel: where fma differs from multiply and add."""
    info = np.finfo(dtype)
    a = (1 + rng.random(n)).astype(dtype)
    b = np.ldexp((1 + rng.random(n)), rng.integers(-4, 4, n)).astype(dtype)
    c = -(a * b) * (1 + rng.integers(-2, 3, n) * info.eps).astype(dtype)
    return a, b, c.astype(dtype)


def subnormal(dtype, n, rng):
    """Triples whose result is subnormal or next to it."""
    low = np.finfo(dtype).minexp
    a = np.ldexp(1 + rng.random(n), low // 2).astype(dtype)
    b = np.ldexp(rng.random(n) - 0.5, low // 2).astype(dtype)
    c = np.ldexp(rng.random(n) - 0.5, low - rng.integers(0, 20, n)).astype(dtype)
    return a, b, c


def exact_fma(a, b, c, dtype):
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    function = libm.fmaf if dtype == np.float32 else libm.fma
    kind = ctypes.c_float if dtype == np.float32 else ctypes.c_double
    function.restype, function.argtypes = kind, [kind] * 3
    return np.array(
        [function(*t) for t in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)], dtype
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("inputs", ["bits", "cancelling", "subnormal"])
def test_fma(isa, dtype, inputs):
    rng, n = np.random.default_rng(0), 20_001
    if inputs == "bits":
        a, b, c = (random_bits(dtype, n, rng) for _ in range(3))
    else:
        a, b, c = (cancelling if inputs == "cancelling" else subnormal)(dtype, n, rng)
    result = apply(isa, f"{np.dtype(dtype)}.fma", np.concatenate([a, b, c]), dtype)
    assert same_bits(result, exact_fma(a, b, c, dtype))
    if inputs == "cancelling":
        assert np.mean(result != a * b + c) > 0.1, "the inputs would not tell fma from a * b + c"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_min_abs_sqrt_select(isa, dtype):
    rng, n = np.random.default_rng(1), 10_007
    a, b, c = (random_bits(dtype, n, rng) for _ in range(3))
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0], dtype)
    a[:36], b[:36] = np.repeat(special, 6), np.tile(special, 6)
    x, name = np.concatenate([a, b, c]), np.dtype(dtype).name
    assert same_bits(apply(isa, f"{name}.max", x, dtype), np.where(a > b, a, b))
    assert same_bits(apply(isa, f"{name}.min", x, dtype), np.where(a < b, a, b))
    assert same_bits(apply(isa, f"{name}.abs", x, dtype), np.abs(a))
    with np.errstate(invalid="ignore"):
        assert same_bits(apply(isa, f"{name}.sqrt", x, dtype), np.sqrt(a))
    assert same_bits(apply(isa, f"{name}.select", x, dtype), np.where(a < b, c, dtype(-1)))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_to_float32_is_exact(isa, dtype):
    x = np.arange(65536, dtype=np.uint16).view(dtype)
    result = apply(isa, f"from_{np.dtype(dtype).name}", x, np.float32)
    assert same_bits(result, x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_float32_to_narrow_rounds_to_nearest_even(isa, dtype):
    rng = np.random.default_rng(2)
    exact = np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    with np.errstate(over="ignore"):
        halfway = ((np.append(exact, 0) + np.append(0, exact)) / 2).astype(np.float32)
    x = np.concatenate(
        [
            exact,
            halfway,
            np.nextafter(halfway, np.float32(np.inf)),
            np.nextafter(halfway, np.float32(-np.inf)),
            random_bits(np.float32, 100_001, rng),
        ]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype)
    assert same_bits(apply(isa, f"to_{np.dtype(dtype).name}", x, dtype), expected)


def test_widen_keeps_lanes(isa):
    x = np.random.default_rng(3).standard_normal(1003).astype(np.float32)
    assert same_bits(apply(isa, "widen", x, np.float32), x)
