"""Rewrites of a graph that strategies use: partial sums, partial means, joins at the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from cloven.graph.box import Box, Interval, Shape, count, covers, extent, whole
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import KINDS
from cloven.partition.division import Division, Owners, home
from cloven.remembered import remembered


def replaced(graph: Graph, made: Mapping[str, Sequence[Op]]) -> Graph:
    """Return the graph with some ops replaced by several ops each, the last of which keeps the name."""
    ops = [new for op in graph.ops for new in made.get(op.name, (op,))]
    return Graph(tuple(ops), graph.output)


@remembered
def partial_sums(
    op: Op, source: Shape, shares: tuple[tuple[int, Interval], ...]
) -> tuple[tuple[Op, ...], Mapping[str, Owners]]:
    """Return a layer as partial sums, one per device over its share of the input channels, and their total.

    The ops are the same objects for equal arguments, so that what is known about their pieces serves again. All
    shares of the input come first: their owner sends them before it computes a partial sum.

    The total adds the bias and keeps the layer's name. The owners of the partial sums are returned too, but not
    that of the total.
    """
    axis = 0 if len(source) == 3 and op.kind != "linear" else len(source) - 1
    pieces: list[Op] = []
    partials: list[Op] = []
    placed: dict[str, Owners] = {}
    for device, (lo, hi) in shares:
        piece, part = f"{op.name}.input@{device}", f"{op.name}.partial@{device}"
        box = (*whole(source)[:axis], (lo, hi), *whole(source)[axis + 1 :])
        weight = op.params["weight"]
        # A transposed convolution's weight has the input channels first.
        taken = weight[lo:hi] if op.kind == "conv_transpose2d" else weight[:, lo:hi]
        narrow = {"axis": axis, "start": lo, "step": 1}
        pieces.append(Op(piece, "narrow", op.inputs, extent(box), op.module, narrow))
        partials.append(replace(op, name=part, inputs=(piece,), params={"weight": taken}))
        placed |= {piece: {device: (whole(extent(box)),)}, part: {device: (whole(op.shape),)}}
    bias = {"bias": op.params["bias"]} if "bias" in op.params else {}
    # The output has its channels on the same axis as the input: the last one after a linear layer, also in maps.
    total = Op(op.name, "sum", tuple(part.name for part in partials), op.shape, op.module, {"axis": axis}, bias)
    return (*pieces, *partials, total), placed


def partial_means(op: Op, source: Shape, boxes: Mapping[int, Box]) -> tuple[list[Op], dict[str, Owners]]:
    """Return a mean over height and width as local sums, one per device over its box of the input, and the mean."""
    axes = KINDS[op.kind].averaged(op, (source,))
    attrs = {"axes": axes, "keep": len(op.shape) == len(source)}
    ops = [
        Op(f"{op.name}.partial@{device}", "partial", op.inputs, op.shape, op.module, {**attrs, "box": box})
        for device, box in boxes.items()
    ]
    placed: dict[str, Owners] = {
        part.name: {device: (whole(op.shape),)} for part, device in zip(ops, boxes, strict=True)
    }
    averaged = count(tuple((0, source[axis]) for axis in axes))
    parts = tuple(part.name for part in ops)
    return [*ops, Op(op.name, "sum", parts, op.shape, op.module, {"count": averaged})], placed


def joined(division: Division, hub: int) -> Division:
    """Return the star of Stahl et al.: every value that is sent goes whole to the hub, and from there to readers.

    A device then receives its own share back, too. If a device needs more of a value than it owns, it reads the
    value through an identity op, ``join``, which the hub owns.
    """
    graph, owners = division.graph, dict(division.owners)
    moved = {(op.name, value) for op in graph.ops for value in op.inputs if _sent(division, op, value)}
    gathered = {value for _, value in moved if set(owners[value]) != {hub}}
    made: dict[str, list[Op]] = {}
    for op in graph.ops:
        inputs = tuple(f"{v}.join" if (op.name, v) in moved and v in gathered else v for v in op.inputs)
        made[op.name] = [replace(op, inputs=inputs)]
        if op.name in gathered:
            made[op.name].append(Op(f"{op.name}.join", "join", (op.name,), op.shape, op.module, dtype=op.dtype))
            # Without halo, a device's version of a value exists only inside the device's tile.
            held = tuple(chain.from_iterable(home(owners[op.name]).values()))
            owners[f"{op.name}.join"] = {hub: (whole(op.shape),) if covers(held, whole(op.shape)) else held}
    ops = tuple(op for several in made.values() for op in several)
    return replace(division, graph=Graph(ops, graph.output), owners=owners)


def _sent(division: Division, op: Op, value: str) -> bool:
    """Return whether any device needs more of a value than it owns to compute its share of an op."""
    graph, index = division.graph, op.inputs.index(value)
    for device, share in division.owners[op.name].items():
        held = division.owners[value].get(device, ())
        needs = (KINDS[op.kind].needs(op, graph.input_shapes(op), box)[index] for box in share)
        if any(need is not None and not covers(held, need) for need in needs):
            return True
    return False
