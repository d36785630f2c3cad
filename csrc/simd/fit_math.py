"""Fit the constants of math.h, triple.h and exp_float.h.

``python csrc/simd/fit_math.py`` prints every constant with its interval and maximal error;
``--check`` compares them with the headers instead and exits with status 1 where they differ.

Each polynomial is the best one in the maximum norm for a relative error (Remez's exchange, 200
bits), computed with its leading coefficients held at their exact values, then rounded to double
coefficient by coefficient. Needs mpmath.
"""

import re
import struct
import sys
from pathlib import Path

from mpmath import (
    atanh,
    cos,
    exp,
    expm1,
    factorial,
    log,
    log1p,
    lu_solve,
    matrix,
    mp,
    mpf,
    pi,
    sqrt,
)

HEADERS = ("math.h", "triple.h", "exp_float.h")
mp.prec = 300
LN2 = log(2)
# Where rounding x / ln 2 to the nearest integer may leave the remainder: half a step and a little.
EXP_HALF_WIDTH = LN2 / 2 * (1 + mpf(2) ** -40)
# w = 2 (m - 1) / (m + 1) for m in [sqrt(1/2), sqrt(2)], squared, and a little.
LOG_SQUARE_MAX = (2 * (sqrt(2) - 1) / (sqrt(2) + 1)) ** 2 * (1 + mpf(2) ** -40)


def to_double(value):
    """Round to the nearest double: CPython rounds the ratio of two integers correctly."""
    sign, man, exponent, _ = value._mpf_
    man = -int(man) if sign else int(man)
    return man * 2**exponent * 1.0 if exponent >= 0 else man / 2**-exponent


def to_float(value):
    """Round to the nearest float32, as a double."""
    return struct.unpack("<f", struct.pack("<f", to_double(value)))[0]


def horner(coefficients, x):
    """Evaluate sum c_i x^i."""
    result = mpf(0)
    for c in reversed(coefficients):
        result = result * x + c
    return result


def minimax(target, weight, degree, low, high):
    """Coefficients p_0 ... p_degree minimising max |weight (p - target)| on [low, high]."""
    n = degree + 2
    points = 60 * n
    grid = [(low + high) / 2 - (high - low) / 2 * cos(pi * i / points) for i in range(points + 1)]
    targets = [target(x) for x in grid]
    weights = [weight(x) for x in grid]
    nodes = [round(points * i / (n - 1)) for i in range(n)]
    for _ in range(40):
        system = matrix(n, n)
        right = matrix(n, 1)
        for row, i in enumerate(nodes):
            for column in range(n - 1):
                system[row, column] = grid[i] ** column
            system[row, n - 1] = (-1) ** row / weights[i]
            right[row] = targets[i]
        solution = lu_solve(system, right)
        coefficients = [solution[i] for i in range(n - 1)]
        errors = [
            w * (horner(coefficients, x) - t)
            for x, t, w in zip(grid, targets, weights, strict=True)
        ]
        extremes = [0]
        for i in range(1, points + 1):
            if (errors[i] > 0) == (errors[extremes[-1]] > 0):
                if abs(errors[i]) > abs(errors[extremes[-1]]):
                    extremes[-1] = i
            else:
                extremes.append(i)
        while len(extremes) > n:
            del extremes[0 if abs(errors[extremes[0]]) < abs(errors[extremes[-1]]) else -1]
        if extremes == nodes:
            break
        nodes = extremes
    return coefficients


def largest_error(error, low, high, points=4000):
    """Return the largest |error| on a grid."""
    return max(abs(error(low + (high - low) * i / points)) for i in range(points + 1))


def nonzero(x):
    """Keep removable singularities out of the way."""
    return x if x else mpf(2) ** -60


def exp_tail(first, degree, relative_to):
    """Fit exp(r) = sum_(i < first) r^i / i! + r^first q(r); return q rounded, and its error."""
    h = EXP_HALF_WIDTH

    def remainder(r):
        return sum(r**i / factorial(i + first) for i in range(40))

    def weight(r):
        return abs(r) ** first / relative_to(r)

    q = minimax(remainder, lambda r: weight(nonzero(r)) + mpf(2) ** -120, degree - first, -h, h)
    q = [to_double(c) for c in q]
    error = largest_error(
        lambda r: weight(nonzero(r)) * (horner(q, nonzero(r)) - remainder(nonzero(r))), -h, h
    )
    return q, error


def exp_table_tail(steps, degree):
    """Fit exp(r) = 1 + r + r^2 q(r), |r| <= ln 2 / (2 steps), in float32; return q, its error."""
    h = LN2 / steps / 2 * (1 + mpf(2) ** -12)

    def remainder(r):
        return sum(r**i / factorial(i + 2) for i in range(20))

    q = minimax(remainder, lambda r: r * r + mpf(2) ** -100, degree - 2, -h, h)
    q = [to_float(c) for c in q]
    error = largest_error(lambda r: r * r * (horner(q, r) - remainder(r)), -h, h)
    return q, error


def log_tail(degree):
    """Fit log(m) = w + w z p(z), z = w^2, m = (2 + w) / (2 - w); return p rounded, its error."""

    def remainder(z):
        return sum(z**i / ((2 * i + 3) * mpf(4) ** (i + 1)) for i in range(60))

    def weight(z):
        w = sqrt(nonzero(z))
        return w**3 / (2 * atanh(w / 2))

    p = minimax(remainder, lambda z: weight(z), degree, mpf(0), LOG_SQUARE_MAX)
    p = [to_double(c) for c in p]
    error = largest_error(
        lambda z: weight(z) * (horner(p, z) - remainder(z)), mpf(0), LOG_SQUARE_MAX
    )
    return p, error


def log1p_tail(degree):
    """Fit log1p(t) = t p(t) on [0, 1] with p_0 = 1; return p_1 ... rounded, and the error."""

    def remainder(t):
        if t < mpf(2) ** -10:
            return sum((-1) ** (i + 1) * t**i / (i + 2) for i in range(30))
        return (log1p(t) / t - 1) / t

    def weight(t):
        return t / (log1p(nonzero(t)) / nonzero(t)) + mpf(2) ** -120

    p = minimax(remainder, weight, degree - 1, mpf(0), mpf(1))
    p = [to_double(c) for c in p]
    error = largest_error(lambda t: weight(t) * (horner(p, t) - remainder(t)), mpf(0), mpf(1))
    return p, error


def constants():
    """Yield (name, values, note)."""
    ln2_high = to_double(LN2)
    ln2_low = to_double(LN2 - ln2_high)
    # 42 bits: k * ln2_head is exact for |k| < 2^11.
    head = float(int(LN2 * 2**42)) / 2**42
    yield "log2_e", [to_double(1 / LN2)], "1 / ln 2"
    yield "ln2_high", [ln2_high], "ln 2 to 53 bits"
    yield "ln2_low", [ln2_low], "ln 2 - ln2_high"
    yield "ln2_lowest", [to_double(LN2 - ln2_high - ln2_low)], "ln 2 - ln2_high - ln2_low"
    yield "ln2_head", [head], "ln 2 to 42 bits"
    yield "ln2_tail", [to_double(LN2 - head)], "ln 2 - ln2_head"

    def report(error):
        return f"relative error 2^{float(log(error, 2)):.2f}"

    c, error = exp_tail(1, 9, exp)
    yield "exp_fast_tail", c, f"exp(r) = 1 + r q(r), |r| <= ln 2 / 2: {report(error)}"
    yield "power_steps", [to_double(mpf(2) ** (mpf(j) / 32)) for j in range(32)], "2^(j/32)"
    c, error = exp_table_tail(16, 4)
    yield (
        "exp_sixteenth_tail",
        c,
        f"exp(r) = 1 + r + r^2 q(r), |r| <= ln 2 / 32, q in float32: {report(error)}",
    )
    c, error = exp_tail(2, 10, lambda r: abs(expm1(r)))
    yield "expm1_fast_tail", c, f"expm1(r) = r + r^2 q(r), |r| <= ln 2 / 2: {report(error)}"
    sixth = to_double(mpf(1) / 6)
    yield "sixth", [sixth, to_double(mpf(1) / 6 - sixth)], "1 / 6, high and low"
    c, error = exp_tail(4, 13, exp)
    yield (
        "exp_pair_tail",
        c,
        f"exp(r) = 1 + r + r^2 / 2 + r^3 / 6 + r^4 q(r), |r| <= ln 2 / 2: {report(error)}",
    )
    c, error = log_tail(5)
    yield "log_fast_tail", c, f"log(m) = w + w z p(z), sqrt(1/2) <= m <= sqrt(2): {report(error)}"
    c, error = log1p_tail(16)
    yield "log1p_unit_tail", c, f"log1p(t) = t + t^2 p(t), 0 <= t <= 1: {report(error)}"
    c, error = log_tail(8)
    yield "log_pair_tail", c, f"log(m) = w + w z p(z), sqrt(1/2) <= m <= sqrt(2): {report(error)}"
    # Taylor's series is enough where speed does not count.
    inverse = [1 / factorial(i) for i in range(24)]
    high = [to_double(c) for c in inverse]
    low = [to_double(c - h) for c, h in zip(inverse, high, strict=True)]
    h = EXP_HALF_WIDTH
    cut = h ** len(inverse) / factorial(len(inverse))
    yield (
        "inverse_factorial",
        high,
        f"1 / i!; exp(r) cut there, |r| <= ln 2 / 2: {report(cut / exp(-h))}",
    )
    yield "inverse_factorial_low", low[:14], "1 / i! - inverse_factorial[i]"

    # triple.h
    yield (
        "ln2_rest",
        [to_double(LN2 - ln2_high - ln2_low - to_double(LN2 - ln2_high - ln2_low))],
        "ln 2 - ln2_high - ln2_low - ln2_lowest",
    )
    inverse = [1 / factorial(i) for i in range(32)]
    high = [to_double(c) for c in inverse]
    middle = [to_double(c - h) for c, h in zip(inverse, high, strict=True)]
    low = [to_double(c - h - m) for c, h, m in zip(inverse, high, middle, strict=True)]
    cut = EXP_HALF_WIDTH ** len(inverse) / factorial(len(inverse))
    yield (
        "triple_factorial",
        high,
        f"1 / i!; exp(r) cut there, |r| <= ln 2 / 2: {report(cut / exp(-EXP_HALF_WIDTH))}",
    )
    yield "triple_factorial_mid", middle[:23], "1 / i! - triple_factorial[i]"
    yield (
        "triple_factorial_low",
        low[:14],
        "1 / i! - triple_factorial[i] - triple_factorial_mid[i]",
    )


def float_constants():
    """Yield (name, values, note) of exp_float.h."""
    eighth = LN2 / 8
    yield "eighths_per_ln2", [to_float(1 / eighth)], "8 / ln 2"
    high = to_float(eighth)
    yield "ln2_eighth_high", [high], "ln 2 / 8, high and low"
    yield "ln2_eighth_low", [to_float(eighth - high)], ""
    h = eighth / 2 * (1 + mpf(2) ** -18)

    def remainder(r):
        return sum(r**i / factorial(i + 2) for i in range(20))

    c = minimax(remainder, lambda r: r**2 * exp(-r) + mpf(2) ** -120, 2, -h, h)
    c = [to_float(v) for v in c]
    error = largest_error(lambda r: (r + r * r * horner(c, r) - expm1(r)) / exp(r), -h, h)
    yield (
        "exp_float_tail",
        c,
        f"expm1(r) = r + r^2 q(r), |r| <= ln 2 / 16: relative error 2^{float(log(error, 2)):.2f}",
    )
    roots = [mpf(2) ** (mpf(j) / 8) for j in range(8)]
    heads = [to_float(t) for t in roots]
    patterns = [
        struct.unpack("<i", struct.pack("<f", t))[0] - (j << 20) for j, t in enumerate(heads)
    ]
    yield "exp_float_bits", patterns, "The bits of 2^(j / 8) as float, less j 2^20."
    rests = [to_float((t - head) / t) for t, head in zip(roots, heads, strict=True)]
    yield "exp_float_low", rests, "1 - float(2^(j / 8)) / 2^(j / 8)"


def in_header(name, text):
    """Read the constant of that name from the text of the headers, or None."""
    found = re.search(rf"constexpr (\S+) {name}(?:\[\])? = ([^;]*);", text)
    if found is None:
        return None
    if found[1] == "std::int32_t":
        return [int(v, 16) for v in re.findall(r"0x[0-9a-f]+", found[2])]
    return [float.fromhex(v) for v in re.findall(r"-?0x[0-9a-f.]+p[+-][0-9]+", found[2])]


def main():
    """Print the constants, or check those of math.h."""
    check = sys.argv[1:] == ["--check"]
    headers = [Path(__file__).parent / name for name in HEADERS]
    text = "".join(header.read_text() for header in headers) if check else ""
    wrong = []
    for name, values, note in (*constants(), *float_constants()):
        if check:
            if in_header(name, text) != values:
                wrong.append(name)
            continue
        print(f"// {note}")
        body = ",\n    ".join(v.hex() if isinstance(v, float) else hex(v) for v in values)
        if len(values) == 1:
            print(f"constexpr double {name} = {body};")
        else:
            print(f"constexpr double {name}[] = {{\n    {body}}};")
    if wrong:
        sys.exit(f"the headers differ from the fit in: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
