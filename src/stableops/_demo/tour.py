"""The demonstration: losses, a network trained, a page read."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np

import stableops as so
from stableops._demo.detect import compare, slide, suppress
from stableops._demo.lenet import LeNet
from stableops._demo.page import compose_page
from stableops._demo.picture import draw_page
from stableops._demo.progress import ProgressLine
from stableops._demo.table import format_table, loss_table
from stableops._demo.training import accuracy, train, weights_digest
from stableops._demo.windows import CLASSES, as_windows, training_samples
from stableops._digits import load_digits, split_digits
from stableops._png import write_png

if TYPE_CHECKING:
    from pathlib import Path

    from stableops._digits import Digits

__all__ = ["EPOCHS", "run", "train_with_progress"]

EPOCHS = 12


def run(output: Path, *, seed: int = 0, epochs: int = EPOCHS) -> None:
    """Show everything and write the picture.

    Parameters
    ----------
    output : Path
        The PNG file to write.
    seed : int
        Everything random follows from it.
    epochs : int
        Length of the training.
    """
    print("1. Losses where a probability rounds to 0 or 1 (float64)\n")
    print(format_table(loss_table()))

    training, held_out = split_digits(load_digits())
    print(
        f"\n2. A LeNet learns {len(training.labels)} handwritten digits (float32, "
        f"SIMD level {so.active_isa()}, threads: {so.get_num_threads()})\n"
    )
    started = time.perf_counter()
    net = train_with_progress(training, held_out, seed=seed, epochs=epochs)
    seconds = time.perf_counter() - started
    reached = accuracy(net, as_windows(held_out.images), held_out.labels)
    print(
        f"\n  {100 * reached:.2f} % of {len(held_out.labels)} held-out digits right, "
        f"after {seconds:.1f} s"
        f"\n  weights: sha256 {weights_digest(net.parameters)}"
        "\n  (the same on every SIMD level and for any number of threads)"
    )

    print("\n3. The network reads a page of held-out digits\n")
    page = compose_page(held_out, np.random.default_rng(seed))
    started = time.perf_counter()
    candidates = slide(net, page.ink)
    kept = suppress(candidates)
    seconds = time.perf_counter() - started
    outcome = compare(kept, page)
    print(
        f"  {len(candidates.labels)} windows look like a digit; non-maximum suppression keeps "
        f"{len(kept.labels)} ({seconds:.1f} s)"
        f"\n  {outcome.right.sum()} of {len(page.labels)} digits found and read right; "
        f"misread: {outcome.misread.sum()}, missed: {outcome.missed.sum()}, "
        f"false alarms: {outcome.false_alarm.sum()}"
    )
    write_png(output, draw_page(page, candidates, kept, outcome))
    print(f"  {output}: green is right, red is wrong, amber was missed, thin is suppressed")


def train_with_progress(training: Digits, held_out: Digits, *, seed: int, epochs: int) -> LeNet:
    """Train a network to read a page, with a line of progress on standard output.

    Parameters
    ----------
    training, held_out : Digits
        To learn from, and to measure the accuracy after each epoch.
    seed : int
        Of the weights and the samples.
    epochs : int
        Length of the training.

    Returns
    -------
    LeNet
    """
    rng = np.random.default_rng(seed)
    net = LeNet(CLASSES, rng)
    test_images = as_windows(held_out.images)
    line = ProgressLine(sys.stdout)
    recent_loss = reached = None
    for step in train(net, lambda rng: training_samples(training, rng), rng, epochs=epochs):
        if recent_loss is None:
            recent_loss = step.loss
        recent_loss += 0.02 * (step.loss - recent_loss)
        if step.ends_epoch:
            reached = accuracy(net, test_images, held_out.labels)
        line.update(step.done, recent_loss, reached, keep=step.ends_epoch)
    return net
