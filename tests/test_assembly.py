"""The hot loops in the objects that were built: every fma of a tile, and no register on the stack.
A compiler that spills there costs half the speed and changes no result, so that no other test would
see it."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The tiles that most of the time is spent in: function, sizes, multiply-adds of its inner loop.
HOT = {
    "X86V3": [
        *(("tile_sums", size, size[0] * size[1]) for size in [(6, 2), (5, 2), (4, 2)]),
        ("direct_tile", (4, 2), 8),
    ],
    "X86V4": [
        *(
            ("tile_sums", size, size[0] * size[1])
            for size in [(14, 2), (13, 2), (12, 2), (9, 3), (8, 3), (7, 2)]
        ),
        ("direct_tile", (6, 4), 24),
        ("depthwise_sums", (9,), 9),
    ],
}


def objects(level):
    found = ROOT.glob(f"build/*/CMakeFiles/kernels_{level}.dir/csrc/isa/conv2d.cpp.o")
    return [path for path in found if "asan" not in str(path)]


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Nothing here depends on the level that runs."""


@cache
def functions(path):
    """Name to instructions, as (address, text)."""
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found, body = {}, []
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            body = found.setdefault(head[1], [])
        elif instruction := re.match(r"\s+([0-9a-f]+):\s+(.*)", line):
            body.append((int(instruction[1], 16), instruction[2]))
    return found


def innermost_fma_loop(body):
    """The shortest run of instructions that a backward jump repeats and that has an fma in it."""
    position = {address: i for i, (address, _) in enumerate(body)}
    loops = []
    for i, (address, text) in enumerate(body):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if jump and int(jump[1], 16) <= address and int(jump[1], 16) in position:
            loop = [text for _, text in body[position[int(jump[1], 16)] : i + 1]]
            if any("vfmadd" in text for text in loop):
                loops.append(loop)
    return min(loops, key=len)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump of binutils")
@pytest.mark.parametrize("type_name", ["float", "double"])
@pytest.mark.parametrize("level", HOT)
def test_tiles_stay_in_registers(level, type_name):
    paths = objects(level)
    if not paths:
        pytest.skip("needs the build tree (pip install . keeps it)")
    for path in paths:
        for function, sizes, multiply_adds in HOT[level]:
            numbers = ", ".join(map(str, sizes))
            # A tile may have a form for packed rows, with their pitch behind its sizes.
            part = f"{function}<stableops::isa::{level}, {type_name}, {numbers}"
            forms = [
                body for name, body in functions(path).items() if re.search(part + "[,>]", name)
            ]
            assert forms, (path, part)
            for loop in map(innermost_fma_loop, forms):
                assert sum("vfmadd" in text for text in loop) == multiply_adds, (path, part)
                assert not any(re.search(r"\(%r[sb]p", text) for text in loop), (path, part, loop)
                assert not any(text.startswith("call") for text in loop), (path, part, loop)
