"""Threads, memory and SIMD levels."""

import platform
import sys

import numpy as np

from stableops import _core

__all__ = [
    "active_isa",
    "available_isas",
    "empty_cache",
    "get_num_threads",
    "set_num_threads",
    "show_config",
]


def active_isa() -> str:
    """Return the SIMD level in use.

    It is the best one that the CPU runs, or the one that the environment variable
    ``STABLEOPS_ISA`` names. Results have the same bits on every level.

    Returns
    -------
    str
        ``"baseline"`` (SSE2 on x86-64, NEON on arm64), ``"x86-64-v3"`` or ``"x86-64-v4"``.

    Raises
    ------
    ValueError
        If ``STABLEOPS_ISA`` names no level of this build and CPU.

    Examples
    --------
    >>> import stableops
    >>> stableops.active_isa() in stableops.available_isas()
    True
    """
    return _core.active_isa()


def available_isas() -> tuple[str, ...]:
    """Return the SIMD levels that this build has and this CPU runs, lowest first.

    Examples
    --------
    >>> import stableops
    >>> stableops.available_isas()[0]
    'baseline'
    """
    return _core.available_isas()


def get_num_threads() -> int:
    """Return how many threads a call may use, the calling one included.

    The default is the number of CPUs that the process may use (affinity and cgroup quota);
    ``STABLEOPS_NUM_THREADS`` sets it, and ``OMP_NUM_THREADS`` bounds it where that is unset.

    Raises
    ------
    ValueError
        If one of the two variables is set to something else than a positive integer.

    Examples
    --------
    >>> import stableops
    >>> stableops.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use. Results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int
        1 or more.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is out of range.

    Examples
    --------
    >>> import stableops
    >>> stableops.set_num_threads(2)
    >>> stableops.get_num_threads()
    2
    """
    _core.set_num_threads(n)


def empty_cache() -> None:
    """Give the idle memory of past results back to the system.

    Large results come from blocks that are kept when an array dies and used again, up to
    ``STABLEOPS_CACHE_BYTES`` bytes (0 keeps none).

    Examples
    --------
    >>> import stableops
    >>> stableops.empty_cache()
    """
    _core.empty_cache()


def show_config() -> None:
    """Print versions, compiler, SIMD levels, threads and cache: what a bug report needs.

    Examples
    --------
    >>> import stableops
    >>> stableops.show_config()  # doctest: +ELLIPSIS
    stableops ...
    """
    rows = {
        "stableops": _core.version,
        "python": sys.version.split()[0] + f" ({platform.python_implementation()})",
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "compiler": _core.compiler,
        "SIMD level": f"{active_isa()} (available: {', '.join(available_isas())})",
        "threads": str(get_num_threads()),
        "cache": f"{_core.cache_bytes_in_use()} of at most {_core.cache_limit()} bytes",
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")
