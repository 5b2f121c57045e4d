"""Horizontal partitioning: each layer's output is divided among the devices.

It is Fig. 1b of Mehrafrooz et al. (2025), with the methods of Stahl et al. (their reference [10]).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator

from cloven.graph.box import Box, Interval, Shape, bands, shares, whole
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import ANCHORS, KINDS
from cloven.partition.division import Owners, Placed, Placement, Share, Stretch, dealt, everything, spread
from cloven.partition.proportions import in_proportion, wrong_proportions
from cloven.partition.rewrite import partial_means, partial_sums, replaced
from cloven.partition.strategy import Strategy, checked

Axis = Literal["out_channels", "in_channels", "fused", "rows", "columns"]
AXES: tuple[Axis, ...] = get_args(Axis)
SPATIAL = ("rows", "columns")


@checked
class Horizontal(Strategy):
    """Every convolution and linear layer is divided among all devices.

    ``axis`` is one of:

    - ``out_channels`` (LOP in Mehrafrooz et al.): a device has a share of the filters and needs the whole input;
    - ``in_channels`` (LIP): a device reads a share of the input channels and computes a full-size partial sum;
      grouped convolutions are divided by output channels;
    - ``fused``: a LOP layer and the LIP layer after it, so that no device sends the values between them; layers
      without such a partner are LOP;
    - ``rows`` or ``columns`` of the maps; linear layers are divided by output, global means become local sums.

    ``shares`` are the devices' proportions (default: equal). The remainder of equal channels goes to the last
    device; with fewer channels than devices, some devices are idle. With ``exchange`` ``local``, devices apply
    channel-local ops (pooling, activations) to their share before they send it; with ``layer``, they send the
    layer's own output and each applies those ops to all of it. ``sums`` says which device adds up partial sums:
    the first (``hub``), or each for its share of the output channels (``scatter``).
    """

    kind: Literal["horizontal"] = field(default="horizontal", kw_only=True)
    axis: Axis = "out_channels"
    shares: Annotated[Sequence[float], AfterValidator(tuple)] | None = None
    exchange: Literal["local", "layer"] = "local"
    sums: Literal["hub", "scatter"] = "hub"

    def title(self) -> str:
        """Return the parameters in a few words."""
        named = {"out_channels": "output channels", "in_channels": "input channels", "fused": "fused pairs"}
        return f"horizontal, {named.get(self.axis, self.axis)}"

    def count(self, devices: int | None) -> int:
        """Return the number of shares; without shares, ``devices`` (default: 2)."""
        return len(self.shares) if self.shares else devices or 2

    def problems(self, stretch: Stretch) -> list[str]:
        """Return the problems: shares that are not proportions, more devices than any layer can use."""
        found = wrong_proportions(self.shares)
        layers, devices = _layers(stretch.ops), len(stretch.devices)
        widest = max((op.shape[_cut_axis(op, self.axis)] for op in layers), default=0)
        if not layers:
            found.append(
                f"there is no convolution or linear layer from {stretch.ops[0].name} to {stretch.ops[-1].name}; "
                "expected at least one"
            )
        elif not 1 <= devices <= widest:
            found.append(
                f"the strategy has {devices} devices, but the widest layer has {widest} {_said(self.axis)}; "
                f"expected 1 to {widest} devices"
            )
        return found

    def place(self, stretch: Stretch, before: Placement) -> Placed:
        """Return the owners: each layer is divided among the devices; the first device gathers the result."""
        if self.axis in ("in_channels", "fused"):
            stretch, anchors = self._summed(stretch)
        else:
            anchors = {op.name: self._dealt(op, stretch) for op in _layers(stretch.ops)}
        if self.exchange == "layer":
            everybody = [op for op in stretch.ops if op.name not in anchors]
            anchors |= {op.name: dict.fromkeys(stretch.devices, (whole(op.shape),)) for op in everybody}
        owners = spread(stretch, anchors, before)
        if self.axis in SPATIAL and self.exchange == "local":
            stretch, sums = _local_means(stretch, owners)
            owners = spread(stretch, {**anchors, **sums}, before)
        return Placed(stretch.graph, owners, sink=stretch.hub)

    def _intervals(self, n: int, stretch: Stretch, *, even: bool = False) -> list[Interval]:
        return intervals(n, list(self.shares) if self.shares else None, len(stretch.devices), even=even)

    def _dealt(self, op: Op, stretch: Stretch) -> Owners:
        axis, spatial = _cut_axis(op, self.axis), self.axis in SPATIAL and len(op.shape) == 3
        if spatial and op.shape[axis] == 1:
            return everything(stretch.graph, op.name, stretch.hub)
        found = self._intervals(op.shape[axis], stretch, even=spatial)
        return dealt((_with(whole(op.shape), axis, share) for share in found), stretch.devices)

    def _summed(self, stretch: Stretch) -> tuple[Stretch, dict[str, Owners]]:
        """Return the stretch with layers rewritten as partial sums, and the owners of its layers and sums."""
        anchors: dict[str, Owners] = {}
        made: dict[str, Sequence[Op]] = {}
        for op in _layers(stretch.ops):
            if op.name in anchors:
                continue
            if self.axis == "in_channels":
                taken = _inputs(self._intervals(_read_axis(stretch.graph, op)[1], stretch), stretch.devices)
                partner = op if op.attrs.get("groups", 1) == 1 else None
            else:
                anchors[op.name] = self._dealt(op, stretch)
                between, partner, taken = _partner(stretch, op, anchors[op.name])
                anchors |= between if partner is not None else {}
            if partner is None:
                anchors[op.name] = self._dealt(op, stretch)
                continue
            source = stretch.graph.by_name[partner.inputs[0]].shape
            ops, placed = partial_sums(partner, source, tuple(taken.items()))
            made[partner.name] = ops
            scattered = self._dealt(partner, stretch) if self.sums == "scatter" else None
            whole_sum = everything(stretch.graph, partner.name, stretch.hub)
            anchors |= {**placed, partner.name: scattered or whole_sum}
        return _rewritten(stretch, made), anchors


def intervals(n: int, proportions: Sequence[float] | None, devices: int, *, even: bool) -> list[Interval]:
    """Divide ``n`` indices in proportion or equally; ``even`` uses `bands` (for rows) instead of `shares`."""
    if proportions is None:
        return bands(n, devices) if even else shares(n, devices)
    return in_proportion(n, proportions)


def _layers(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if op.kind in ANCHORS]


def _cut_axis(op: Op, axis: Axis) -> int:
    """Return the axis of an op's output that is divided: the channels are first in maps, last in vectors."""
    if len(op.shape) != 3 or op.kind == "linear":
        return len(op.shape) - 1
    return {"rows": 1, "columns": 2}.get(axis, 0)


def _read_axis(graph: Graph, op: Op) -> tuple[int, int]:
    """Return the channel axis of an op's input, and the number of channels."""
    source = graph.by_name[op.inputs[0]].shape
    axis = len(source) - 1 if op.kind == "linear" else 0
    return axis, source[axis]


def _said(axis: Axis) -> str:
    return axis if axis in SPATIAL else "output channels"


def _with(box: Box, axis: int, interval: Interval) -> Box:
    return (*box[:axis], interval, *box[axis + 1 :])


def _inputs(found: Sequence[Interval], devices: Sequence[int]) -> dict[int, Interval]:
    return {device: taken for device, taken in zip(devices, found, strict=True) if taken[0] < taken[1]}


def _rewritten(stretch: Stretch, made: Mapping[str, Sequence[Op]]) -> Stretch:
    graph = replaced(stretch.graph, made)
    more = len(graph.ops) - len(stretch.graph.ops)
    return Stretch(graph, stretch.first, stretch.last + more, stretch.devices)


def _partner(stretch: Stretch, op: Op, owned: Owners) -> tuple[dict[str, Owners], Op | None, dict[int, Interval]]:
    """Return the owners of the ops between a layer and its LIP partner, the partner, and its input channels.

    The ops between the two form a chain that keeps channels separate and that no other op reads.
    """
    graph, here, owners = stretch.graph, op, owned
    between: dict[str, Owners] = {}
    while True:
        readers = graph.users[here.name]
        if len(readers) != 1 or not stretch.holds(readers[0]) or here.name == graph.output:
            return {}, None, {}
        reader = graph.by_name[readers[0]]
        if reader.kind in ANCHORS and reader.attrs.get("groups", 1) == 1:
            axis, _ = _read_axis(graph, reader)
            return between, reader, {device: box[axis] for device, (box,) in owners.items()}
        carried = {device: _apart(graph, reader, box) for device, (box,) in owners.items()}
        if len(reader.inputs) != 1 or None in carried.values():
            return {}, None, {}
        owners = {device: (box,) for device, box in carried.items() if box is not None}
        between[reader.name] = owners
        here = reader


def _apart(graph: Graph, op: Op, box: Box) -> Box | None:
    """Return the output box that an op computes from some channels alone, or None if it mixes channels."""
    shapes = graph.input_shapes(op)
    if op.kind not in ANCHORS:
        made = KINDS[op.kind].carry(op, shapes, 0, box)
        alone = made is not None and KINDS[op.kind].needs(op, shapes, made)[0] == box
        return made if alone else None
    groups = op.attrs.get("groups", 1)
    if op.kind == "linear" or groups != shapes[0][0]:
        return None
    times = op.shape[0] // groups
    return _with(whole(op.shape), 0, (box[0][0] * times, box[0][1] * times))


def _local_means(stretch: Stretch, owners: Placement) -> tuple[Stretch, dict[str, Owners]]:
    """Return the stretch with means over maps divided by rows or columns rewritten as local sums."""
    made: dict[str, list[Op]] = {}
    anchors: dict[str, Owners] = {}
    for op in stretch.ops:
        shapes = stretch.graph.input_shapes(op)
        averaged = KINDS[op.kind].averaged(op, shapes)
        held = owners[op.inputs[0]] if averaged else {}
        if len(held) > 1 and all(_summable(share, shapes[0], averaged) for share in held.values()):
            made[op.name], placed = partial_means(op, shapes[0], {device: box for device, (box,) in held.items()})
            anchors |= placed | {op.name: everything(stretch.graph, op.name, stretch.hub)}
    return _rewritten(stretch, made), anchors


def _summable(share: Share, source: Shape, averaged: Sequence[int]) -> bool:
    """Return whether a share is one band that is whole along all axes that the mean keeps."""
    if len(share) != 1:
        return False
    (box,) = share
    cut = {axis for axis, size in enumerate(source) if box[axis] != (0, size)}
    return bool(cut) and cut <= set(averaged)
