"""How much memory a call takes beyond its arguments, in a process of its own."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, numpy as np, stableops as so
so.set_num_threads(2)
{setup}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{calls}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def growth_in_mib(isa, setup, calls):
    """MiB by which the peak grows during `calls`, results that stay alive included."""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss is in other units elsewhere")
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(setup=setup, calls=calls)],
        capture_output=True, text=True, check=True, env=os.environ | {"STABLEOPS_ISA": isa},
    )  # fmt: skip
    return int(run.stdout) / 1024
