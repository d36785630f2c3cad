"""The same bits on every SIMD level and for any number of threads, each in a process of its own."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import stableops

DIGESTS = Path(__file__).with_name("digests.py")


@pytest.fixture(scope="module", autouse=True)
def isa():
    """Levels are set in the processes, so each test of this module runs once."""


@cache
def digests(level, threads):
    env = {**os.environ, "STABLEOPS_ISA": level, "STABLEOPS_NUM_THREADS": str(threads)}
    run = subprocess.run(
        [sys.executable, str(DIGESTS)], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("level", stableops.available_isas())
def test_same_bits(level, threads):
    expected = digests(stableops.available_isas()[-1], 1)
    assert len(expected) > 1
    assert digests(level, threads) == expected
