"""The stubs say what the extension has, and the package passes mypy's strict mode."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="pip install mypy")


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Nothing here depends on the level."""


def check(*arguments):
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_mypy_strict():
    check("mypy", "--strict", "src/stableops")


def test_stubs_match_the_extension():
    check("mypy.stubtest", "stableops._core")
