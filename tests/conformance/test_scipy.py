"""SciPy's own tests of logsumexp, softmax and log_softmax, run on stableops."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy", reason='pip install "stableops[conformance]"')


def test_scipy_special():
    run = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-p", "scipy_plugin", "-p", "no:cacheprovider"),
            *("-c", "/dev/null", "--pyargs", "scipy.special.tests.test_logsumexp"),
        ],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", run.stdout).group(1))
    assert passed >= 60, run.stdout[-2000:]
