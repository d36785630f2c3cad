"""What the run was made on: the processor, its caches, the versions, and the date."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

CPU = Path("/sys/devices/system/cpu")


def describe_machine() -> dict[str, str | int]:
    return {
        "processor": processor_name(),
        "cores": available_cores(),
        "caches": ", ".join(f"{name} {size}" for name, size in caches().items()) or "unknown",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "commit": commit(),
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def spread_cpus(count: int) -> list[int]:
    """`count` processors to run on, each on a core of its own as long as there are cores."""
    first, siblings, seen = [], [], set()
    for cpu in available_cpus():
        topology = CPU / f"cpu{cpu}/topology/thread_siblings_list"
        core = topology.read_text() if topology.exists() else str(cpu)
        (siblings if core in seen else first).append(cpu)
        seen.add(core)
    return (first + siblings)[:count]


def available_cores() -> int:
    cpus = available_cpus()
    cores = {
        text.read_text()
        for cpu in cpus
        if (text := CPU / f"cpu{cpu}/topology/thread_siblings_list").exists()
    }
    return len(cores) or len(cpus)


def caches() -> dict[str, str]:
    """The data caches of the first processor, as the system reports them."""
    found = {}
    for index in sorted((CPU / "cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            found[f"L{(index / 'level').read_text().strip()}"] = (
                (index / "size").read_text().strip()
            )
    return found


def commit() -> str:
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
