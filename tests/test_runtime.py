"""Threads and memory under load, also under the thread sanitizer: csrc/runtime/runtime_test.cpp."""

import subprocess

import pytest
from compiled import program

SOURCES = tuple(
    f"csrc/runtime/{name}.cpp"
    for name in ("runtime_test", "parallel", "memory", "environment", "cpu_count")
)


@pytest.fixture(scope="module", autouse=True)
def isa():
    """The runtime is compiled for the baseline only."""


@pytest.mark.parametrize("flags", [("-pthread",), ("-pthread", "-g", "-fsanitize=thread")], ids=str)
def test_runtime(flags):
    run = subprocess.run(
        [program(SOURCES, flags)], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("ok\n")
