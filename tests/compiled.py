"""C++ test programs, compiled for each SIMD level that this machine runs."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import stableops

ROOT = Path(__file__).parents[1]
TAGS = {"baseline": "Baseline", "x86-64-v3": "X86V3", "x86-64-v4": "X86V4"}
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"]


def compiler():
    """The C++ compiler that builds the package; a source checkout cannot do without one."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    assert found, "no C++ compiler: set CXX"
    return found


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="stableops-tests-")


@functools.cache
def program(sources, flags=()):
    """The path of an executable made from sources (relative to the checkout)."""
    path = Path(_folder().name) / f"program{abs(hash((sources, flags)))}"
    paths = [str(ROOT / source) for source in sources]
    subprocess.run([compiler(), *FLAGS, *flags, *paths, "-o", str(path)], check=True)
    return path


def level_flags(level):
    march = (
        []
        if sys.platform == "darwin" or "x86-64-v3" not in stableops.available_isas()
        else ["-march=" + level.replace("baseline", "x86-64")]
    )
    return (f"-DSTABLEOPS_ISA={TAGS[level]}", *march)
