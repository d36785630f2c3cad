"""Levels can be listed and forced, a forced level is the running one; objects of different levels
share no symbol."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stableops
from stableops import _core

ROOT = Path(__file__).parents[1]
TAGS = {"Baseline": "baseline", "X86V3": "x86-64-v3", "X86V4": "x86-64-v4"}

# What kernel code may call: the runtime, the scalar code of csrc/ops/*.cpp, memory functions that
# compilers emit, the exact fma that the baseline lacks, the machinery of exceptions (thread_scratch
# may throw std::bad_alloc), and in a sanitizer build the sanitizers. That build matters most:
# without inlining nothing hides.
ALLOWED_CALLS = re.compile(
    r"stableops::(parallel_for|num_threads|thread_scratch|acquire_block|release_block"
    r"|iou_exceeds|box_measures|rotated_iou|make_rotated_box)\("
    r"|^(memcpy|memset|memmove|memcmp|fmaf?|_Unwind_Resume|__gxx_personality_v0|__stack_chk_fail"
    r"|_GLOBAL_OFFSET_TABLE_|__cxa_begin_catch|__cxa_end_catch|__cxa_rethrow|std::terminate\(\)"
    r"|DW\.ref\.__gxx_personality_v0|__asan_|__ubsan_|__odr_asan)"
)


def run_python(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_forced_level_is_active(isa):
    assert stableops.active_isa() == isa


def test_environment_forces_a_level(isa):
    run = run_python("import stableops; print(stableops.active_isa())", STABLEOPS_ISA=isa)
    assert run.stdout.strip() == isa


def test_unknown_level_in_the_environment():
    code = "import stableops; stableops.relu([1.0])"
    run = run_python(code, STABLEOPS_ISA="mmx")
    assert run.returncode == 1
    assert "ValueError: STABLEOPS_ISA=mmx is no SIMD level" in run.stderr
    assert "baseline" in run.stderr


def test_unknown_level_by_name():
    with pytest.raises(ValueError, match="level='mmx' does not run here; allowed are baseline"):
        _core.set_active_isa("mmx")


def kernel_objects():
    objects = {}
    for path in ROOT.glob("build/*/CMakeFiles/kernels_*.dir/**/*.o"):
        tag = re.search(r"kernels_(\w+)\.dir", str(path)).group(1)
        objects.setdefault(tag, []).append(path)
    return objects


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm of binutils")
@pytest.mark.skipif(not kernel_objects(), reason="needs the build tree (pip install . keeps it)")
@pytest.mark.parametrize("tag", sorted(kernel_objects()))
def test_objects_of_a_level_export_only_their_own(tag):
    """An untagged inline function in two levels' objects is one symbol to the linker, which keeps
    either copy: perhaps the AVX-512 one, on a CPU without it."""
    for path in kernel_objects()[tag]:
        listing = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True)
        defined = 0
        for line in listing.stdout.splitlines():
            kind, name = line[17:].split(" ", 1)
            if kind == "U" and name.startswith(f"stableops::KernelTable<stableops::isa::{tag},"):
                continue  # another family's kernels of the same level
            if kind == "U":
                assert ALLOWED_CALLS.search(name), f"{path.name} ({tag}) calls {name}"
            elif (kind.isupper() and kind != "A") or kind in "uvw":
                if ALLOWED_CALLS.search(name):
                    continue
                assert re.search(rf"isa(::|\d+){tag}", name), f"{path.name} ({tag}) exports {name}"
                defined += 1
        assert defined > 0
        sections = subprocess.run(
            ["objdump", "-h", path], capture_output=True, text=True, check=True
        ).stdout
        if "asan" in path.parts:
            continue  # registers its globals at load
        for section in (".init_array", ".ctors"):
            assert section not in sections, f"{path} runs code at load"
