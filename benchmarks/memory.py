"""How much memory training and prediction take at most: ``python -m benchmarks.memory [FOLDER]``.

Each figure is of a process of its own: the largest resident size (VmHWM of Linux) that two calls
reach, above what it was when network and input were there. Writes a table and a plot of what
training a dense block of L layers takes: in proportion to L, or to its square where each keeps
its input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

DEPTHS = (6, 12, 18, 24, 36, 48)
GROWTH, CHANNELS, SIDE, BATCH = 16, 32, 48, 4
NETWORKS = ("resnet50", "vgg16", "densenet121")
LIBRARIES = ("stableops", "stableops, inputs kept", "PyTorch", "ONNX Runtime")

NOT_INSTALLED = 3
"""Exit status of a measurement whose library is not there."""


def resident(kind: str) -> float:
    """MiB now ("VmRSS"), or at most since the last reset ("VmHWM")."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{kind}:")[1].split()[0]) / 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def train_block(library: str, depth: int):
    from stableops import nn
    from stableops.models.densenet import dense_block

    rng = np.random.default_rng(0)
    block = dense_block(CHANNELS, GROWTH, depth).initialize(rng)
    x = rng.random((BATCH, CHANNELS, SIDE, SIDE), np.float32)
    if library == "PyTorch":
        import torch

        from benchmarks.peers.torch_network import to_torch

        torch.set_num_threads(2)
        theirs, tensor = to_torch(block).train(), torch.from_numpy(x)
        return lambda: theirs(tensor).sum().backward()
    if library == "stableops, inputs kept":
        nn.DenseLayer.forward = nn.Sequential.forward
        nn.DenseLayer.backward = nn.Sequential.backward
    return lambda: block.backward(np.ones_like(block(x)))


def predict(library: str, network: str):
    import importlib

    names = {"PyTorch": "with_torch", "ONNX Runtime": "with_onnxruntime"}
    module = names.get(library, "with_stableops")
    peer = importlib.import_module(f"benchmarks.peers.{module}")
    peer.load(2)
    x = np.random.default_rng(0).random((8, 3, 224, 224), np.float32)
    return peer.predict(x, network=network)


def measured(library: str, task: str, what: str) -> float | None:
    """MiB, in a process of its own; None where the library is not installed."""
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", library, task, what]
    # Each large array has pages of its own, so that the peak is not one of fragments.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "STABLEOPS_NUM_THREADS": "2"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if run.returncode == NOT_INSTALLED:
        return None
    if run.returncode:
        msg = f"{library}, {task} {what}:\n{run.stderr}"
        raise RuntimeError(msg)
    return float(run.stdout.split()[-1])


def measure(library: str, task: str, what: str) -> None:
    try:
        call = train_block(library, int(what)) if task == "train" else predict(library, what)
    except ModuleNotFoundError:
        sys.exit(NOT_INSTALLED)
    reset_peak()
    before = resident("VmRSS")
    for _ in range(2):
        call()
    print(resident("VmHWM") - before)


def table(heads: list[str], rows: dict[str, list[float | None]]) -> str:
    lines = ["| MiB | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, values in rows.items():
        cells = ["-" if value is None else f"{value:.0f}" for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: dict[str, list[float | None]], path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure(layout={"title": "Training a dense block", "template": "plotly_white"})
    for name, values in rows.items():
        figure.add_scatter(x=DEPTHS, y=values, name=name)
    figure.update_xaxes(title="layers", rangemode="tozero")
    figure.update_yaxes(title="peak memory, MiB", rangemode="tozero")
    figure.write_html(path)


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
        return
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results")
    folder.mkdir(parents=True, exist_ok=True)
    blocks = {
        library: [measured(library, "train", str(depth)) for depth in DEPTHS]
        for library in LIBRARIES[:3]
    }
    print(table([f"{depth} layers" for depth in DEPTHS], blocks) + "\n")
    nets = {
        library: [measured(library, "predict", network) for network in NETWORKS]
        for library in LIBRARIES
        if library != "stableops, inputs kept"
    }
    print(table([f"{network}, batch 8" for network in NETWORKS], nets))
    plot(blocks, folder / "memory.html")
    print(folder / "memory.html")


if __name__ == "__main__":
    main()
