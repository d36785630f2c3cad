"""python -m benchmarks.model REPORT.json: what convolution layers should cost, beside what they do.

The unit is the time of one fused multiply-add of a vector register, from the peak that the report
measured. A layer that is far from its prediction is a finding to follow: the constants stand for
things that are counted in the kernels' code, and for nothing else.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_conv2d import LAYERS, Layer
from benchmarks.cases import CHANNELS_LAST
from benchmarks.summary import best_peer, markdown_table, our_time, time_text

# Costs of the forward pass in vector multiply-adds, measured on AVX-512 with 256-bit data paths.
TILE_EFFICIENCY = 0.98
"""Of the register tile alone, with its operands in L1 and L2."""
TRANSPOSED_STORE = 11.0
"""A vector of results whose lanes are channels, to images whose pixels are contiguous."""
PLAIN_STORE = 2.0
PACKED_ELEMENT = 0.4
"""An element of the weight into a panel."""
COPIED_VECTOR = 4.0
"""A vector of the input into the window."""


def seconds_per_multiply_add(limits: dict[str, Any]) -> float:
    """Of one vector register, on all of the report's threads together."""
    return 2 * (limits["vector_bits"] // 32) / limits["flops_float32"]


def correlation_cost(
    layer: Layer, batch: int, lanes: int, *, transposed: bool, packed: bool
) -> float:
    """Vector multiply-adds of a forward pass, everything that comes with them included."""
    filters, channels = layer.filters // layer.groups, layer.channels // layer.groups
    pixels = batch * layer.output_size**2
    terms = channels * layer.kernel**2
    if filters < lanes // 2:
        # lanes are pixels (or the channels of all groups): nothing is packed or transposed
        rows = layer.output_size * math.ceil(layer.output_size / lanes)
        vectors, store, packing = batch * rows * filters, PLAIN_STORE, 0.0
    else:
        vectors = pixels * math.ceil(filters / lanes)
        store = TRANSPOSED_STORE if transposed else PLAIN_STORE
        packing = 0.0 if packed else PACKED_ELEMENT * filters * terms
    padded = layer.size + 2 * layer.padding
    window = 0.0
    if layer.kernel > 1 or layer.stride > 1:
        window = COPIED_VECTOR * batch * channels * padded * math.ceil(padded / lanes)
    one_group = vectors * (terms / TILE_EFFICIENCY + store) + packing + window
    return layer.groups * one_group


def exchanged(layer: Layer) -> Layer:
    """The layer whose forward pass does the arithmetic of this one's grad_input, by phase."""
    return layer._replace(
        channels=layer.filters, filters=layer.channels, size=layer.output_size, stride=1
    )


def predicted_seconds(
    layer: Layer, batch: int, layout: str, way: str, limits: dict[str, Any]
) -> float:
    lanes = limits["vector_bits"] // 32
    transposed = layout != CHANNELS_LAST
    cost = correlation_cost(layer, batch, lanes, transposed=transposed, packed=way == "packed")
    if way == "backward":
        back = correlation_cost(
            exchanged(layer), batch, lanes, transposed=transposed, packed=False
        ) * (layer.multiply_adds(batch) / exchanged(layer).multiply_adds(batch))
        # grad_weight does the forward pass's arithmetic once more, and packs and copies as much
        cost += back
    return max(cost * seconds_per_multiply_add(limits), moving_seconds(layer, batch, way, limits))


def moving_seconds(layer: Layer, batch: int, way: str, limits: dict[str, Any]) -> float:
    image = 4 * batch * layer.channels * layer.size**2
    result = 4 * batch * layer.filters * layer.output_size**2
    weight = 4 * layer.filters * layer.channels // layer.groups * layer.kernel**2
    read, written = image + weight, result
    if way == "backward":
        read, written = image + 2 * result + weight, image + weight
    total = read + written

    def rate(kind: str) -> float:
        rates = {int(size): value for size, value in limits["bandwidths"][kind].items()}
        return rates[max((size for size in rates if size <= total), default=min(rates))]

    return read / rate("read") + written / rate("write")


def parsed(case: str) -> tuple[Layer, int, str, str] | None:
    """The layer, batch, layout and pass of a case of bench_conv2d."""
    for name, layer in LAYERS.items():
        if case.startswith(f"conv {name} batch "):
            batch, layout, way = case.removeprefix(f"conv {name} batch ").split()
            return layer, int(batch), layout, way
    return None


def table(data: dict[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    limits = {entry["threads"]: entry for entry in data["limits"]}
    lines = []
    for row in data["rows"]:
        layer, ours = parsed(row["case"]), our_time(row)
        if layer is None or ours is None or row["threads"] not in limits:
            continue
        predicted = predicted_seconds(*layer, limits[row["threads"]])
        peer = best_peer(row)
        lines.append(
            (
                row["case"],
                str(row["threads"]),
                time_text(predicted),
                time_text(ours),
                f"{ours / predicted:.2f}",
                f"{time_text(peer[1])} {peer[0]}" if peer else "",
            )
        )
    heading = ("layer", "threads", "predicted", "stableops", "by prediction", "best peer")
    return heading, lines


def main(arguments: Iterable[str]) -> int:
    for path in arguments:
        print(markdown_table(*table(json.loads(Path(path).read_text()))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
