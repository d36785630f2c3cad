"""What a network is made of, layer by layer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from stableops.nn._module import in_evaluation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stableops.nn._module import Array, Module, Window

__all__ = ["LayerSummary", "Summary", "calls", "summary"]

Field = tuple[tuple[float, float], tuple[float, float]] | None
"""Receptive field and stride, of rows and columns; None for the whole picture."""


@contextmanager
def calls(net: Module, record: Callable[[str, Module, Array, Array], None]) -> Iterator[None]:
    """Report each `forward` inside the network: name, module, input and output.

    A module is reported after its children.
    """

    def watch(name: str, module: Module) -> None:
        forward = module.forward

        def reporting(x: Array, *out: Any) -> Array:
            y = forward(x, *out)
            record(name, module, x, y)
            return y

        vars(module)["forward"] = reporting

    modules = dict(net.named_modules())
    for name, module in modules.items():
        watch(name, module)
    try:
        yield
    finally:
        for module in modules.values():
            del vars(module)["forward"]


@dataclass(frozen=True)
class LayerSummary:
    """One layer, for one sample.

    Attributes
    ----------
    name, kind : str
        Where it is in the network, and its class.
    output_shape : tuple of ints
        Without the batch.
    parameters : int
        Numbers that training changes.
    connections : int
        Products and biases that enter the outputs: for a convolution, size of the feature map *
        filters * (kernel area * channels + 1).
    multiply_adds : int
        The products alone.
    receptive_field, stride : tuple of float, or None
        Rows and columns of the picture that an output sees, and by which neighbouring outputs are
        apart; None for the whole picture.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    connections: int
    multiply_adds: int
    receptive_field: tuple[float, float] | None
    stride: tuple[float, float] | None


@dataclass(frozen=True)
class Summary:
    """All layers, in the order in which they are computed; `str` gives a table.

    Attributes
    ----------
    layers : list of LayerSummary
        Modules without children, and modules with parameters of their own.
    """

    layers: list[LayerSummary]

    @property
    def parameters(self) -> int:
        """Numbers that training changes."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def connections(self) -> int:
        """Products and biases for one sample."""
        return sum(layer.connections for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Products for one sample."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def receptive_field(self) -> tuple[float, float] | None:
        """Of the last layer that does not see the whole picture."""
        return next(
            (layer.receptive_field for layer in reversed(self.layers) if layer.stride), None
        )

    def __str__(self) -> str:
        heads = [field.name.replace("_", " ") for field in fields(LayerSummary)]
        rows = [heads, *(_cells(layer) for layer in self.layers)]
        totals = (self.parameters, self.connections, self.multiply_adds)
        rows.append(["total", "", "", *(f"{number:,}" for number in totals), "", ""])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 3 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def summary(net: Module, input_shape: tuple[int, ...]) -> Summary:
    """Tell what each layer gives, holds and costs, by running the network once in evaluation mode.

    Parameters
    ----------
    net : Module
        Left as it is.
    input_shape : tuple of ints
        Shape of one sample, (C, H, W).

    Returns
    -------
    Summary
        Print it for a table, or read its fields.

    Raises
    ------
    ValueError
        If a layer cannot take what it is given; the text names the layer.

    Notes
    -----
    The receptive field grows by (kernel - 1) * stride so far, from layer to layer; of branches the
    largest counts (Araujo, Norris and Sim, "Computing receptive fields of convolutional neural
    networks", Distill, 2019, doi:10.23915/distill.00021).

    Examples
    --------
    >>> from stableops import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5))
    >>> print(nn.summary(net, (1, 32, 32)))
    name   kind       output shape  parameters  connections  multiply adds  receptive field  stride
    -----------------------------------------------------------------------------------------------
    0      Conv2d     6x28x28              156      122,304        117,600                5       1
    1      MaxPool2d  6x14x14                0            0              0                6       2
    2      Conv2d     16x10x10           2,416      241,600        240,000               14       2
    -----------------------------------------------------------------------------------------------
    total                                2,572      363,904        357,600
    """
    parameters = net.parameters().values()
    x = np.zeros((1, *input_shape), next(iter(parameters)).dtype if parameters else np.float32)
    start: Field = ((1.0, 1.0), (1.0, 1.0))
    of_array, of_module = {id(x): start}, {"": start}
    alive = [x]  # so that no two arrays have the same id
    layers: list[LayerSummary] = []
    last = start

    def record(name: str, module: Module, x: Array, y: Array) -> None:
        nonlocal last
        # A view that a module made for its child shows the last output besides earlier ones.
        field = of_array.get(id(x), last)
        inside = [f"{name}.{child}" if name else child for child in module.children()]
        if inside:
            field = _largest([field, *(of_module[key] for key in inside if key in of_module)])
        else:
            field = _seen_through(module.window(), field)
        of_array[id(y)] = of_module[name] = last = field
        alive.extend([x, y])
        if not inside or module.learnable():
            layers.append(
                LayerSummary(
                    name,
                    type(module).__name__,
                    y.shape[1:],
                    module.learnable(),
                    *module.cost(y.shape),
                    *(field or (None, None)),
                )
            )

    with in_evaluation(net), calls(net, record):
        net(x)
    return Summary(layers)


def _seen_through(window: Window | None, field: Field) -> Field:
    if window is None or field is None:
        return None
    (height, width), (rows, columns) = field
    (kernel_height, kernel_width), (down, right) = window
    return (
        (height + (kernel_height - 1) * rows, width + (kernel_width - 1) * columns),
        (rows * down, columns * right),
    )


def _largest(candidates: list[Field]) -> Field:
    known = [field for field in candidates if field is not None]
    if len(known) < len(candidates):
        return None
    return (
        (max(field[0][0] for field in known), max(field[0][1] for field in known)),
        (max(field[1][0] for field in known), max(field[1][1] for field in known)),
    )


def _cells(layer: LayerSummary) -> list[str]:
    return [
        layer.name,
        layer.kind,
        "x".join(map(str, layer.output_shape)),
        *(f"{n:,}" for n in (layer.parameters, layer.connections, layer.multiply_adds)),
        _side(layer.receptive_field),
        _side(layer.stride),
    ]


def _side(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return "all"
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g}x{pair[1]:g}"
