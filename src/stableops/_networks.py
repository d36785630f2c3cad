"""The commands that show and train networks: ``models``, ``summary`` and ``train``."""

from __future__ import annotations

import argparse
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stableops import models, nn
from stableops._datasets import DATASETS, load_dataset
from stableops._demo.progress import ProgressLine
from stableops.nn._weights import check_format

if TYPE_CHECKING:
    from collections.abc import Callable

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["add_commands", "check_writable", "whole_number"]

LEARNERS = [name for name, (_, shape) in models.NETWORKS.items() if shape[0] == 1]
"""Networks for pictures of one channel."""

RATES = {"lenet5": 0.02, "lenet5_1998": 0.001}
"""Learning rates where the usual one is too large: of networks without batch norm."""


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser of ``python -m stableops``."""
    parser = commands.add_parser(
        "models", help="list the networks, their parameters and their work"
    )
    parser.set_defaults(run=_models)

    parser = commands.add_parser("summary", help="show a network layer by layer")
    parser.set_defaults(run=_summary)
    parser.add_argument("network", choices=models.NETWORKS, metavar="NETWORK")
    parser.add_argument("--size", type=int, metavar="N", help="rows and columns of the picture")

    parser = commands.add_parser("train", help="train a network on small pictures")
    parser.set_defaults(run=_train)
    parser.add_argument(
        "network", choices=LEARNERS, metavar="NETWORK", help=f"one of {', '.join(LEARNERS)}"
    )
    parser.add_argument("--data", choices=DATASETS, default="digits", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--rate", type=float, metavar="X", help="learning rate (default: by network)"
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="where they are saved, .npz or .safetensors (default: NETWORK-DATA.npz)",
    )


def check_writable(path: Path) -> None:
    """Raise OSError if a file cannot be written, before any work goes into it."""
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()


def whole_number(text: str) -> int:
    """Read an argument of the command line that is not negative."""
    number = int(text)
    if number < 0:
        msg = f"{number} is negative"
        raise argparse.ArgumentTypeError(msg)
    return number


def _models(_options: argparse.Namespace) -> int:
    print(f"{'network':15}  {'parameters':>11}  {'multiply-adds':>14}  picture")
    for name, (make, shape) in models.NETWORKS.items():
        total = nn.summary(make(), shape)
        picture = "x".join(map(str, shape))
        print(
            f"{name:15}  {total.parameters:11,}  {total.multiply_adds:14,}  {picture}", flush=True
        )
    return 0


def _summary(options: argparse.Namespace) -> int:
    make, (channels, rows, columns) = models.NETWORKS[options.network]
    size = (rows, columns) if options.size is None else (options.size, options.size)
    try:
        print(nn.summary(make(), (channels, *size)))
    except (ValueError, MemoryError) as error:
        print(f"{options.network} cannot take {size[0]}x{size[1]}: {error}", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace) -> int:
    try:
        _run_training(options)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run_training(options: argparse.Namespace) -> None:
    if min(options.epochs, options.batch - 1) < 1:
        msg = "at least one epoch, and two pictures a batch"
        raise ValueError(msg)
    rate = RATES.get(options.network, 0.1) if options.rate is None else options.rate
    if not 0 < rate < math.inf:
        msg = f"--rate must be positive, it is {rate}"
        raise ValueError(msg)
    weights = options.weights or Path(f"{options.network}-{options.data}.npz")
    unfinished = weights.with_suffix(".unfinished.npz")
    check_format(weights)
    check_writable(weights)
    check_writable(unfinished)
    make, shape = models.NETWORKS[options.network]
    data = load_dataset(options.data, shape[-1])
    generator = _generator_of(options.seed)

    net = make(rng=generator(0xFFFFFFFF))
    optimizer = nn.SGD(net, rate, momentum=0.9, weight_decay=1e-4)
    settings = [options.data, options.epochs, options.batch, rate, options.seed]
    history = _resume(unfinished, net, optimizer, settings)

    print(f"{options.network} learns {len(data.labels)} pictures; {weights} will hold its weights")
    if history:
        print(f"going on after epoch {len(history)} of {options.epochs}")
    line = ProgressLine(sys.stdout, len(history) / options.epochs)
    recent = reached = None
    losses: list[float] = []
    steps = nn.fit(
        net,
        data.images,
        data.labels,
        optimizer,
        rng=generator,
        epochs=options.epochs,
        batch_size=options.batch,
        first_epoch=len(history),
    )
    try:
        for step in steps:
            losses.append(step.loss)
            recent = step.loss if recent is None else recent + 0.05 * (step.loss - recent)
            if step.ends_epoch:
                reached = nn.accuracy(net, data.test_images, data.test_labels)
                history.append((float(np.mean(losses)), reached))
                losses.clear()
                _save(unfinished, net, optimizer, settings, history)
            line.update(step.done, recent, reached, keep=step.ends_epoch)
    except KeyboardInterrupt:
        print(f"\nthe same command goes on after epoch {len(history)}", end="")
        raise
    nn.save_weights(weights, net.state_dict())
    unfinished.unlink(missing_ok=True)
    print(f"{100 * history[-1][1]:.2f} % of {len(data.test_labels)} held-out pictures right")
    _draw(weights.with_suffix(".png"), history)


def _generator_of(seed: int) -> Callable[[int], np.random.Generator]:
    return lambda epoch: np.random.Generator(
        np.random.Philox(np.random.SeedSequence([seed, epoch]))
    )


def _save(path: Path, net: nn.Module, optimizer: Any, settings: list[Any], history: Any) -> None:
    state = {f"net.{key}": array for key, array in net.state_dict().items()}
    state |= {f"optimizer.{key}": array for key, array in optimizer.state_dict().items()}
    state |= {"settings": np.array(list(map(str, settings))), "history": np.array(history)}
    nn.save_weights(path, state)


def _resume(
    path: Path, net: nn.Module, optimizer: Any, settings: list[Any]
) -> list[tuple[float, float]]:
    """Load what `_save` wrote, if anything; give the losses and accuracies so far."""
    if not path.exists():
        return []
    state = nn.load_weights(path)
    if list(state.get("settings", [])) != list(map(str, settings)):
        msg = f"{path} is from a training with other settings: remove it, or choose them again"
        raise ValueError(msg)

    def part(name: str) -> dict[str, Any]:
        return {key[len(name) :]: state[key] for key in state if key.startswith(name)}

    net.load_state_dict(part("net."))
    optimizer.load_state_dict(part("optimizer."))
    return [(float(loss), float(accuracy)) for loss, accuracy in state["history"]]


def _draw(path: Path, history: list[tuple[float, float]]) -> None:
    """Draw the curves, if matplotlib is there."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    losses, accuracies = zip(*history, strict=True)
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(6, 4), layout="constrained")
    left = figure.subplots()
    left.plot(epochs, losses, color="tab:red", label="mean loss")
    left.set(xlabel="epoch", ylabel="mean loss", ylim=(0, None))
    right = left.twinx()
    right.plot(epochs, accuracies, color="tab:blue", label="accuracy")
    right.set(ylabel="accuracy on held-out pictures", ylim=(None, 1))
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(path)
    print(f"{path} shows the curves")
