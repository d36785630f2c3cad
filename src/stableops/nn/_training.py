"""The training loop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stableops.nn._containers import AuxiliaryHead, Sequential
from stableops.nn._losses import CrossEntropyLoss
from stableops.nn._module import in_evaluation
from stableops.nn._summary import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stableops.nn._module import Array, Module
    from stableops.nn._optimizers import Optimizer

__all__ = ["Step", "accuracy", "fit", "predict", "train_step"]

AUXILIARY_WEIGHT = 0.3
"""Weight of the loss of an auxiliary head, as in Szegedy et al. 2015."""


class Step(NamedTuple):
    """Where a training stands after a batch.

    Attributes
    ----------
    epoch : int
        Epochs that are over, this batch included.
    done : float
        The part of the training that is over, 1.0 after the last batch.
    loss : float
        Mean loss of the batch.
    ends_epoch : bool
        Whether this was the last batch of an epoch.
    """

    epoch: int
    done: float
    loss: float
    ends_epoch: bool


def fit(
    net: Module,
    images: Array,
    labels: Array,
    optimizer: Optimizer,
    *,
    rng: Callable[[int], np.random.Generator],
    epochs: int,
    batch_size: int = 32,
    criterion: Any = None,
    first_epoch: int = 0,
) -> Iterator[Step]:
    """Train a classifier, one batch for each item taken from the returned iterator.

    The learning rate falls from that of the optimiser to 0 in a straight line. The same arguments
    give the same bits on every SIMD level and for any number of threads.

    Parameters
    ----------
    net : Module
        Trained in place.
    images : ndarray, shape (N, C, H, W)
        What to learn.
    labels : ndarray of int, shape (N,)
        Its classes.
    optimizer : Optimizer
        Of the network.
    rng : callable
        Gives the generator of an epoch from its number: of the order, and of dropout. So a training
        can go on after any epoch.
    epochs, batch_size : int
        How often to go through the images, and how many to learn from at once; a rest of one image
        is left out, since it has no batch statistics.
    criterion : callable, optional
        The loss; default `CrossEntropyLoss()`.
    first_epoch : int
        Epochs that are over already.

    Yields
    ------
    Step
        Where the training stands.

    Raises
    ------
    TypeError
        If `rng` cannot be called.
    ValueError
        At the call: if there are no images, or not as many labels; if `epochs` or `first_epoch` is
        negative or `batch_size` not positive.
    FloatingPointError
        If the loss is not finite; the text names the step and the layer where it began.

    Examples
    --------
    >>> import numpy as np
    >>> from stableops import nn
    >>> rng = lambda epoch: np.random.Generator(np.random.Philox([0, epoch]))
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).initialize(rng(-1 % 2**32))
    >>> images = np.eye(4, dtype=np.float32).reshape(4, 1, 2, 2)
    >>> labels = np.array([0, 1, 0, 1])
    >>> optimizer = nn.SGD(net, lr=1.0)
    >>> losses = [step.loss for step in nn.fit(net, images, labels, optimizer, rng=rng, epochs=9)]
    >>> losses[-1] < losses[0], nn.accuracy(net, images, labels)
    (True, 1.0)
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check_pairs(images, labels)
    if not callable(rng):
        msg = f"rng must be a function of the epoch, not {type(rng).__name__}"
        raise TypeError(msg)
    if min(epochs, first_epoch, batch_size - 1) < 0:
        msg = (
            f"epochs and first_epoch must not be negative and batch_size positive, not {epochs}, "
            f"{first_epoch} and {batch_size}"
        )
        raise ValueError(msg)
    criterion = CrossEntropyLoss() if criterion is None else criterion
    return _steps(net, images, labels, optimizer, rng, epochs, batch_size, criterion, first_epoch)


def _check_pairs(images: Array, labels: Array) -> None:
    if len(images) != len(labels) or not len(labels):
        msg = f"{len(images)} images with {len(labels)} labels: as many are needed, and at least 1"
        raise ValueError(msg)


def _steps(
    net: Module,
    images: Array,
    labels: Array,
    optimizer: Optimizer,
    rng: Callable[[int], np.random.Generator],
    epochs: int,
    batch_size: int,
    criterion: Any,
    first_epoch: int,
) -> Iterator[Step]:
    rate = optimizer.lr
    rest = 0 if batch_size == 1 else 1
    try:
        for epoch in range(first_epoch, epochs):
            generator = rng(epoch)
            for _, module in net.train().named_modules():
                if hasattr(module, "rng"):
                    module.rng = generator
            # A stable sort of random keys, because how `Generator.permutation` draws may change.
            order = np.argsort(generator.random(len(labels)), kind="stable")
            ends = [*range(batch_size, len(order) - rest, batch_size), len(order)]
            for start, end in zip([0, *ends], ends, strict=False):
                optimizer.lr = rate * (1 - (epoch + start / len(order)) / epochs)
                chosen = order[start : start + batch_size]
                loss = train_step(net, images[chosen], labels[chosen], optimizer, criterion)
                is_last = end == len(order)
                done = (epoch + end / len(order)) / epochs
                yield Step(epoch + is_last, done, loss, is_last)
    finally:
        optimizer.lr = rate
        net.eval()


def train_step(
    net: Module, images: Array, labels: Array, optimizer: Optimizer, criterion: Any
) -> float:
    """Learn from one batch.

    Parameters
    ----------
    net : Module
        In training mode.
    images, labels : ndarray
        The batch.
    optimizer : Optimizer
        Of the network.
    criterion : callable
        The loss.

    Returns
    -------
    float
        The loss, that of auxiliary heads not included.

    Raises
    ------
    FloatingPointError
        If a loss is not finite, before anything has been changed but running statistics.
    """
    logits = net(images)
    loss: float = criterion(logits, labels)
    grad = criterion.backward()
    losses = {"the loss": loss}
    for name, module in net.named_modules():
        if isinstance(module, AuxiliaryHead):
            losses[f"the loss of {name}"] = criterion(module.logits, labels)
            module.grad_logits = criterion.backward() * grad.dtype.type(AUXILIARY_WEIGHT)
    for name, value in losses.items():
        if not math.isfinite(value):
            where = _first_problem(net, images)
            msg = f"{name} is {value} at step {optimizer.steps + 1}: {where}"
            raise FloatingPointError(msg)
    # Nobody needs the gradient of the pictures.
    first = _first_layer(net)
    before, first.needs_input_gradient = first.needs_input_gradient, False
    try:
        net.backward(grad)
    finally:
        first.needs_input_gradient = before
    optimizer.step()
    return loss


def _first_layer(net: Module) -> Module:
    """The layer that the input goes to, and to no other."""
    while type(net) is Sequential and len(net):
        net = net[0]
    return net


def _first_problem(net: Module, images: Array) -> str:
    """Name the first layer whose output is not finite, and say where that comes from."""
    if not np.isfinite(images).all():
        return "the images are not finite"
    found: list[str] = []

    def record(name: str, module: Module, x: Array, y: Array) -> None:  # noqa: ARG001
        if not found and not np.isfinite(y).all():
            broken = [
                key
                for key in module.parameter_names
                if getattr(module, key) is not None and not np.isfinite(getattr(module, key)).all()
            ]
            why = f", whose {' and '.join(broken)} is not finite" if broken else ""
            found.append(f"it began in layer {name} ({type(module).__name__}){why}")

    with calls(net, record):
        net(images)
    return found[0] if found else "all layers are finite, so it began in the loss itself"


def predict(net: Module, images: Array, *, batch_size: int = 128) -> Array:
    """Compute the logits of many images in evaluation mode, in batches.

    Parameters
    ----------
    net : Module
        Left in the mode it is in.
    images : ndarray, shape (N, C, H, W)
        Any number of them.
    batch_size : int
        How many to compute at once; it does not change the result.

    Returns
    -------
    ndarray, shape (N, classes)
    """
    if batch_size < 1:
        msg = f"batch_size must be positive, it is {batch_size}"
        raise ValueError(msg)
    starts = range(0, max(1, len(images)), batch_size)
    with in_evaluation(net):
        return np.concatenate([net(images[i : i + batch_size]) for i in starts])


def accuracy(net: Module, images: Array, labels: Array) -> float:
    """Measure the part of the images that a network gives the right label.

    Parameters
    ----------
    net : Module
        Left in the mode it is in.
    images : ndarray, shape (N, C, H, W)
        What to classify.
    labels : ndarray of int, shape (N,)
        The right classes.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ValueError
        If there are no images, or not as many labels.
    """
    _check_pairs(images, labels)
    return float((predict(net, images).argmax(axis=1) == labels).mean())
