"""csrc/simd/math.h against mpmath: largest errors, special values, the same bits at every level."""

import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
from mpmath import mpf

SIMD = Path(__file__).parent.parent / "csrc" / "simd"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"]
# How many random inputs a function gets; STABLEOPS_MATH_SAMPLES=1000000 is for measuring.
SAMPLES = int(os.environ.get("STABLEOPS_MATH_SAMPLES", "1000"))


def levels():
    """March flags of the levels that this machine runs, lowest first."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return [[]]
    from stableops import available_isas

    return [[f"-march={name.replace('baseline', 'x86-64')}"] for name in sorted(available_isas())]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """math_test.cpp compiled for each level."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs the C++ compiler that built the package")
    folder = tmp_path_factory.mktemp("math")
    result = []
    for march in levels():
        program = folder / f"math{len(result)}"
        subprocess.run(
            [compiler, *FLAGS, *march, str(SIMD / "math_test.cpp"), "-o", str(program)], check=True
        )
        result.append(program)
    return result


def apply(program, name, x, y):
    """Rows (hi, lo, exponent) of the function for each x, y."""
    data = np.stack([x, y], axis=1).astype("<f8").tobytes()
    output = subprocess.run([program, name], input=data, capture_output=True, check=True).stdout
    return np.frombuffer(output, "<f8").reshape(-1, 3)


def bit_neighbours(x, rng):
    """Low parts of up to half a unit in the last place of x."""
    return np.spacing(x) * rng.uniform(-0.5, 0.5, x.shape)


def exp_inputs(rng, largest):
    """Every size of argument, halfway points of the reduction, and results next to 1."""
    n = SAMPLES
    k = rng.integers(-1074, 1024, n)
    x = np.concatenate(
        [
            rng.uniform(-largest, largest, n),
            rng.uniform(-2, 2, n),
            np.ldexp(rng.uniform(-1, 1, n), rng.integers(-1070, 10, n)),
            (k + 0.5) * math.log(2) * (1 + rng.integers(-4, 5, n) * 2.0**-52),
            [0.0, 5e-324, -5e-324, 1.0, -1.0],
        ]
    )
    return x[np.abs(x) <= largest]


def log_inputs(rng):
    """Every exponent, the neighbourhood of 1 and the edges of the reduction."""
    n = SAMPLES
    edge = math.sqrt(0.5) * 2.0 ** rng.integers(-100, 100, n)
    return np.concatenate(
        [
            np.ldexp(rng.uniform(0.5, 1, n), rng.integers(-955, 955, n)),
            1 + np.ldexp(rng.uniform(-0.5, 1, n), rng.integers(-52, 1, n)),
            edge * (1 + rng.integers(-4, 5, n) * 2.0**-52),
            rng.uniform(0.5, 3, n),
            [1.0, 2.0, 0.5, np.nextafter(1, 0), np.nextafter(1, 2)],
        ]
    )


def log1p_inputs(rng, smallest=-1074, largest=899):
    """Every exponent of r, and the edges of the reduction of 1 + r."""
    n = SAMPLES
    edge = math.sqrt(2) * 2.0 ** rng.integers(-1, 100, n) - 1
    return np.concatenate(
        [
            np.ldexp(rng.uniform(0.5, 1, n), rng.integers(smallest + 1, largest, n)),
            np.ldexp(rng.uniform(0.5, 1, n), rng.integers(-60, 60, n)),
            np.abs(edge) * (1 + rng.integers(-4, 5, n) * 2.0**-52),
            rng.uniform(0, 3, n),
            [1.0, 2.0**53, 2.0**60],
        ]
    )


def value(row):
    """(hi + lo) 2^exponent."""
    return mpmath.ldexp(mpf(row[0]) + mpf(row[1]), int(row[2]))


# name: (inputs, with a low part, exact function, bound as a power of two). The bounds are what
# 10^6 samples a kind have shown, rounded up.
RELATIVE = {
    "exp_fast": (lambda g: exp_inputs(g, 708), False, mpmath.exp, -44.5),
    "exp_pair": (lambda g: exp_inputs(g, 1400), True, mpmath.exp, -61.0),
    "exp_wide": (lambda g: exp_inputs(g, 1400), True, mpmath.exp, -103.0),
    "expm1_fast": (lambda g: exp_inputs(g, 708), False, mpmath.expm1, -45.0),
    "expm1_pair": (lambda g: exp_inputs(g, 709), True, mpmath.expm1, -59.0),
    "log_fast": (log_inputs, False, mpmath.log, -46.0),
    "log_pair": (log_inputs, True, mpmath.log, -58.0),
    "log1p_fast": (log1p_inputs, False, mpmath.log1p, -46.0),
    "log1p_unit_fast": (
        lambda g: (lambda x: x[x <= 1])(log1p_inputs(g)),
        False,
        mpmath.log1p,
        -46.0,
    ),
    "log1p_pair": (lambda g: log1p_inputs(g, -900), True, mpmath.log1p, -58.0),
    "log1p_wide": (lambda g: log1p_inputs(g, -400, 500), True, mpmath.log1p, -101.0),
    "reciprocal_fast": (lambda g: log_inputs(g)[::7] % 1e30 + 1e-30, False, lambda x: 1 / x, -45.0),
}


def exact_inputs(name, rng):
    inputs, paired, _, _ = RELATIVE[name]
    x = inputs(rng)
    y = bit_neighbours(x, rng) if paired else np.zeros_like(x)
    if paired:
        y[::5] = 0
    return x, y


@pytest.mark.parametrize("name", RELATIVE)
def test_relative_error(programs, name):
    x, y = exact_inputs(name, np.random.default_rng(1))
    _, _, exact, bound = RELATIVE[name]
    result = apply(programs[-1], name, x, y)
    worst, where = mpf(0), None
    with mpmath.workprec(300):
        # mpmath's expm1 and log1p are only as precise as the working precision at 1.
        for a, b, row in zip(x, y, result, strict=True):
            with mpmath.workprec(300 if abs(a) > 1e-20 else 2500):
                want = exact(mpf(a) + mpf(b))
            error = abs(value(row) - want) / abs(want) if want else abs(value(row))
            if not error <= worst:
                worst, where = error, (a, b)
    print(f"{name}: 2^{float(mpmath.log(worst, 2)):.2f} at {where}", file=sys.stderr)
    assert worst <= mpf(2) ** bound, where


def ulp_error(got, want):
    """|got - want| in units in the last place of the double next to want."""
    if abs(want) < mpf(2) ** -1022:
        unit = mpf(2) ** -1074
    else:
        unit = mpf(2) ** (mpmath.frexp(want)[1] - 53)
    return abs(mpf(got) - want) / unit


@pytest.mark.parametrize(
    ("name", "exact", "bound"), [("exp", mpmath.exp, 0.503), ("log", mpmath.log, 0.52)]
)
def test_rounded_to_double(programs, name, exact, bound):
    rng = np.random.default_rng(2)
    if name == "exp":
        x = np.concatenate([exp_inputs(rng, 709.7), rng.uniform(-745.2, -708, SAMPLES)])
    else:
        x = np.concatenate([log_inputs(rng), np.ldexp(1.1, np.arange(-1074, 1024))])
    result = apply(programs[-1], name, x, np.zeros_like(x))[:, 0]
    with mpmath.workprec(300):
        errors = [ulp_error(r, exact(mpf(a))) for a, r in zip(x, result, strict=True)]
    worst = int(np.argmax(errors))
    print(f"{name}: {float(errors[worst]):.5f} at {x[worst]}", file=sys.stderr)
    assert errors[worst] <= bound, x[worst]


@pytest.mark.parametrize(
    ("name", "bound"), [("add", -104), ("mul", -103), ("div", -102), ("div_fast", -99)]
)
def test_double_length(programs, name, bound):
    rng = np.random.default_rng(3)
    x, y = np.ldexp(rng.uniform(0.5, 1, (2, SAMPLES)), rng.integers(-50, 50, (2, SAMPLES)))
    operation = {"add": mpf.__add__, "mul": mpf.__mul__}.get(name, mpf.__truediv__)
    with mpmath.workprec(300):
        for a, b, row in zip(x, y, apply(programs[-1], name, x, y), strict=True):
            want = operation(mpf(a) ** 2, mpf(b) ** 2)
            assert abs(value(row) - want) <= abs(want) * mpf(2) ** bound, (a, b)


def test_subnormal_r_survives_log1p(programs):
    r = np.concatenate([np.ldexp(1.0, np.arange(-1074, -960)), np.arange(1, 50) * 5e-324])
    for name in ("log1p_fast", "log1p_pair"):
        result = apply(programs[-1], name, r, np.zeros_like(r))
        np.testing.assert_array_equal(result[:, 0], r)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("name", "x", "want"),
    [
        ("exp", [NAN, INF, -INF, 0.0, -0.0], [NAN, INF, 0, 1, 1]),
        ("exp", [710.0, -746.0, 1e308, -1e308], [INF, 0, INF, 0]),
        ("exp", [709.782712893384, -745.1332191019411], [math.exp(709.782712893384), 5e-324]),
        ("exp_fast", [NAN, 0.0, -0.0], [NAN, 1, 1]),
        ("exp_pair", [NAN, 0.0], [NAN, 1]),
        ("expm1_pair", [NAN, INF, -INF, 0.0, 711.0], [NAN, INF, -1, 0, INF]),
        ("expm1_fast", [NAN, -INF, 0.0], [NAN, -1, 0]),
        ("log", [NAN, INF, -INF, 0.0, -0.0, -1.0, 1.0], [NAN, INF, NAN, -INF, -INF, NAN, 0]),
        ("log_fast", [NAN, 1.0], [NAN, 0]),
        ("log1p_pair", [NAN, INF, 0.0, 1.7976931348623157e308], [NAN, INF, 0, 709.782712893384]),
        ("log1p_fast", [NAN, 0.0], [NAN, 0]),
    ],
)
def test_special_values(programs, name, x, want):
    x = np.array(x)
    result = apply(programs[-1], name, x, np.zeros_like(x))[:, 0]
    np.testing.assert_array_equal(result, np.array(want, dtype=float))


def test_low_part_of_an_infinite_argument_is_dropped(programs):
    x = np.array([INF, -INF, 1e308])
    result = apply(programs[-1], "exp_pair", x, np.full_like(x, NAN))
    np.testing.assert_array_equal(result[:, 2], [2020, -2020, 2020])
    assert np.isfinite(result).all()


def test_ldexp_rounds_subnormal_results_once(programs):
    rng = np.random.default_rng(4)
    x = rng.uniform(0.5, 2, SAMPLES)
    k = rng.integers(-1080, 1030, SAMPLES).astype(float)
    result = apply(programs[-1], "ldexp", x, k)[:, 0]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result, np.ldexp(x, k.astype(int)))


@pytest.mark.parametrize("name", [*RELATIVE, "exp", "log", "add", "mul", "div", "div_fast"])
def test_same_bits_at_every_level(programs, name):
    rng = np.random.default_rng(5)
    if name in RELATIVE:
        x, y = exact_inputs(name, rng)
    elif name in {"exp", "log"}:
        x, y = exact_inputs(f"{name}_pair", rng)
    else:
        x, y = np.ldexp(rng.uniform(0.5, 1, (2, SAMPLES)), rng.integers(-50, 50, (2, SAMPLES)))
    first = apply(programs[0], name, x, y).view(np.int64)
    for program in programs[1:]:
        np.testing.assert_array_equal(apply(program, name, x, y).view(np.int64), first)


def test_constants_are_those_of_the_fit():
    subprocess.run([sys.executable, SIMD / "fit_math.py", "--check"], check=True)
