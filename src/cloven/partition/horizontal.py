"""Horizontal partitioning (S1 Fig. 1b; Stahl et al., S1's reference [10]): each layer's output is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

from cloven.graph.box import Box, Interval, bands, extent, shares, whole
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import ANCHORS
from cloven.partition.division import Division, Owners, dealt, everything, spread

Axis = Literal["out_channels", "in_channels", "rows", "columns"]
AXES: tuple[Axis, ...] = ("out_channels", "in_channels", "rows", "columns")


@dataclass(frozen=True)
class Horizontal:
    """Every convolution and linear layer is shared out among all devices.

    ``axis``: ``out_channels`` (S1's LOP: each device holds a share of the filters, needs the whole input);
    ``in_channels`` (LIP: each device reads a share of the input channels and makes a full-size partial sum, which
    the first device adds up; grouped convolutions are shared out by output channels); ``rows`` or ``columns``
    of the maps, with linear layers by output. ``shares`` are the devices' proportions, equal if left out; the
    remainder of equal channels goes to the last device, and with fewer channels than devices some are idle.

    ``exchange``: ``local`` sends what channel-local ops (pools, activations) have made of a share, ``layer``
    sends the layer's own output, and every device then computes those ops on all of it.
    """

    axis: Axis = "out_channels"
    shares: tuple[float, ...] | list[float] | None = None
    exchange: Literal["local", "layer"] = "local"

    def count(self, devices: int | None) -> int:
        """As many as there are shares, or as asked for; 2 if left open."""
        return len(self.shares) if self.shares else devices or 2

    def problems(self, graph: Graph, devices: int) -> list[str]:
        """An unknown axis or exchange, shares that are no proportions, more devices than any layer can use."""
        found = []
        if self.axis not in AXES:
            return [f"axis is {self.axis!r}; choose from {', '.join(AXES)}"]
        if self.exchange not in ("local", "layer"):
            found.append(f"exchange is {self.exchange!r}; expected 'local' or 'layer'")
        if self.shares is not None and (min(self.shares, default=0) < 0 or sum(self.shares) <= 0):
            found.append(f"shares are {list(self.shares)}; expected numbers from 0, not all of them 0")
        widest = max((_length(op, self.axis) for op in graph.ops if op.kind in ANCHORS), default=0)
        if not 1 <= devices <= widest:
            found.append(
                f"{devices} devices, but the widest layer has {widest} {_said(self.axis)}; expected 1 to {widest}"
            )
        return found

    def divide(self, graph: Graph, devices: int) -> Division:
        """The first device holds the image and wants the output; every layer is dealt out."""
        proportions = list(self.shares) if self.shares else None
        if self.axis == "in_channels":
            graph, anchors = _partial_sums(graph, proportions, devices)
        else:
            anchors = {op.name: _dealt(op, self.axis, proportions, devices) for op in _layers(graph)}
        anchors[graph.input.name] = everything(graph, graph.input.name, 0)
        if self.exchange == "layer":
            replicated = {op.name: op for op in graph.ops if op.name not in anchors}
            anchors |= {name: dict.fromkeys(range(devices), (whole(op.shape),)) for name, op in replicated.items()}
        return Division(graph, spread(graph, anchors), devices, sink=0)


def intervals(n: int, proportions: Sequence[float] | None, devices: int, *, even: bool) -> list[Interval]:
    """``n`` indices in proportion, or equally: ``even`` bands for rows, S1's rule for channels."""
    if proportions is None:
        return bands(n, devices) if even else shares(n, devices)
    edges = [0, *(round(n * total / sum(proportions)) for total in accumulate(proportions))]
    return list(pairwise(edges))


def _layers(graph: Graph) -> list[Op]:
    return [op for op in graph.ops if op.kind in ANCHORS]


def _cut_axis(op: Op, axis: Axis) -> int:
    """The axis of an op's output that is shared out: channels first in maps, last in vectors."""
    if len(op.shape) != 3 or op.kind == "linear":
        return len(op.shape) - 1
    return {"rows": 1, "columns": 2}.get(axis, 0)


def _length(op: Op, axis: Axis) -> int:
    return op.shape[_cut_axis(op, axis)]


def _said(axis: Axis) -> str:
    return {"rows": "rows", "columns": "columns"}.get(axis, "output channels")


def _dealt(op: Op, axis: Axis, proportions: Sequence[float] | None, devices: int) -> Owners:
    cut, box = _cut_axis(op, axis), whole(op.shape)
    even = axis in ("rows", "columns") and op.kind != "linear"
    return dealt(_with(box, cut, share) for share in intervals(op.shape[cut], proportions, devices, even=even))


def _with(box: Box, axis: int, interval: Interval) -> Box:
    return (*box[:axis], interval, *box[axis + 1 :])


def _partial_sums(
    graph: Graph, proportions: Sequence[float] | None, devices: int
) -> tuple[Graph, dict[str, Owners]]:
    """The graph with each layer as one partial sum a device and an addition, which carries the bias."""
    ops: list[Op] = []
    anchors: dict[str, Owners] = {}
    for op in graph.ops:
        if op.kind not in ANCHORS:
            ops.append(op)
        elif op.attrs.get("groups", 1) != 1:
            ops.append(op)
            anchors[op.name] = _dealt(op, "out_channels", proportions, devices)
        else:
            made, placed = _summed(op, graph.by_name[op.inputs[0]].shape, proportions, devices)
            ops += made
            anchors |= placed
    return Graph(tuple(ops), graph.output), anchors


def _summed(
    op: Op, source: tuple[int, ...], proportions: Sequence[float] | None, devices: int
) -> tuple[list[Op], dict[str, Owners]]:
    axis = 0 if op.kind == "conv2d" else len(source) - 1
    ops: list[Op] = []
    placed: dict[str, Owners] = {op.name: {0: (whole(op.shape),)}}
    parts = []
    for device, (lo, hi) in enumerate(intervals(source[axis], proportions, devices, even=False)):
        if lo == hi:
            continue
        piece, part = f"{op.name}.input@{device}", f"{op.name}.partial@{device}"
        shape = extent(_with(whole(source), axis, (lo, hi)))
        weight = np.ascontiguousarray(op.params["weight"][:, lo:hi])
        ops.append(Op(piece, "narrow", op.inputs, shape, op.module, {"axis": axis, "start": lo}))
        ops.append(replace(op, name=part, inputs=(piece,), params={"weight": weight}))
        placed |= {piece: {device: (whole(shape),)}, part: {device: (whole(op.shape),)}}
        parts.append(part)
    bias = {"bias": op.params["bias"]} if "bias" in op.params else {}
    ops.append(Op(op.name, "sum", tuple(parts), op.shape, op.module, params=bias))
    return ops, placed
