"""The same bits on every SIMD level and for any number of threads, each in a process of its own."""

import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import digests as operations
import numpy as np
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


def test_same_bits_from_many_python_threads():
    """Every operation, while other operations run in other Python threads: at once where there is
    no global lock, beside each other's kernels where there is."""
    names = [name for name in operations.CASES if "training" not in name]

    def run(first):
        order = names[first:] + names[:first]
        results = {n: operations.CASES[n](np.random.default_rng(1)) for n in order}
        return {n: operations.digest(arrays) for n, arrays in results.items()}

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(run, range(0, len(names), -(-len(names) // 4))))
    expected = digests(stableops.active_isa(), 1)
    for result in runs:
        assert result == {name: expected[name] for name in names}


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded Python"
)
def test_no_global_lock_is_needed():
    assert not sys._is_gil_enabled()
