"""A Division: a (possibly rewritten) graph and the owners of each of its values.

A strategy places anchors (the input, convolutions, linear layers, named values); ``spread`` derives the owners of
all other values with the rules of the op table.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloven.errors import ClovenError
from cloven.graph.box import Box, Shape, count, covers, hull, whole, without
from cloven.graph.graph import Graph, Op
from cloven.graph.ops import KINDS, Carry
from cloven.partition.protection import COORDINATOR

Share = tuple[Box, ...]
"""Disjoint boxes of one value."""

Owners = Mapping[int, Share]
"""The owners of one value: device number -> share. A device that is missing owns nothing."""

Placement = Mapping[str, Owners]
"""The owners of several values, by name."""


@dataclass(frozen=True, eq=False)
class Division:
    """A graph, possibly rewritten, with the owners of its values.

    ``sink`` is the device that needs the whole output. ``exact`` is False if the rewritten graph computes something
    different from the model.
    """

    graph: Graph
    owners: Placement
    devices: int
    sink: int
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive ops of a graph, from position ``first`` to ``last``, to be divided among ``devices``."""

    graph: Graph
    first: int
    last: int
    devices: tuple[int, ...]

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops."""
        return self.graph.ops[self.first : self.last + 1]

    @property
    def hub(self) -> int:
        """The device that gathers shares and adds up partial sums."""
        return self.devices[0]

    @property
    def ends_early(self) -> bool:
        """True if ops follow after the stretch."""
        return self.last < len(self.graph.ops) - 1

    def holds(self, value: str) -> bool:
        """Return whether the stretch computes a value."""
        return self.first <= self.graph.position[value] <= self.last


@dataclass(frozen=True, eq=False)
class Placed:
    """A graph that was rewritten in a stretch, with the owners of all values up to the stretch's end."""

    graph: Graph
    owners: Placement
    sink: int
    exact: bool = True


MOST_DEVICES = 4096
"""The largest number of devices; it keeps a mistyped number from filling the memory."""


def check_count(devices: int) -> int:
    """Return a number of devices if it is at most `MOST_DEVICES`.

    Raises:
        ClovenError: if it is larger.
    """
    if devices > MOST_DEVICES:
        raise ClovenError(f"the plan takes {reprlib.repr(devices)} devices; expected at most {MOST_DEVICES}")
    return devices


def device_names(count: int) -> tuple[str, ...]:
    """Return the default names: edge0, edge1, ...

    Raises:
        ClovenError: as `check_count`.
    """
    return tuple(f"edge{i}" for i in range(check_count(count)))


def wrong_names(names: Sequence[str]) -> list[str]:
    """Return the problems of device names, one sentence each."""
    found = []
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        found.append(f"two devices are named {', '.join(repeated)}; expected unique names")
    if COORDINATOR in names:
        found.append(
            f"a device is named {COORDINATOR}, the name of the party that sends the images; choose another"
        )
    wrong = [name for name in dict.fromkeys(names) if not _is_name(name)]
    return found + [f"a device is named {name!r}; expected printable text without '->' and ':'" for name in wrong]


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str) and bool(name.strip()) and name.isprintable() and "->" not in name and ":" not in name
    )


def everywhere(graph: Graph, devices: int) -> Stretch:
    """Return the stretch of all ops except the image.

    Raises:
        ClovenError: as `check_count`.
    """
    check_count(devices)
    return Stretch(graph, 1, len(graph.ops) - 1, tuple(range(devices)))


def everything(graph: Graph, value: str, device: int) -> Owners:
    """Return the owners of a value that belongs to one device."""
    return {device: (whole(graph.by_name[value].shape),)}


def dealt(boxes: Iterable[Box], devices: Sequence[int]) -> Owners:
    """Return the owners with the i-th box on the i-th device, without empty boxes."""
    return {device: (box,) for device, box in zip(devices, boxes, strict=True) if count(box) > 0}


def home(owners: Owners) -> dict[int, list[Box]]:
    """Return the part of a value that each device is home of: what no lower-numbered device owns."""
    homes: dict[int, list[Box]] = {}
    for device in sorted(owners):
        lower = [box for share in homes.values() for box in share]
        homes[device] = without(owners[device], lower)
    return homes


def spread(stretch: Stretch, anchors: Placement, before: Placement) -> dict[str, Owners]:
    """Return the owners of all values up to a stretch's end: of anchors as given, of others derived from inputs.

    If the op table cannot carry ownership over (flattening rows, an op without a split rule), the first owner of
    the input owns the whole value.
    """
    owners = dict(before)
    for op in stretch.ops:
        owners[op.name] = anchors[op.name] if op.name in anchors else _carried(stretch.graph, op, owners)
    return owners


def _carried(graph: Graph, op: Op, owners: Placement) -> Owners:
    shapes, kind = graph.input_shapes(op), KINDS[op.kind]
    sources = [owners[name] for name in op.inputs]
    if all(_all_whole(source, shape) for source, shape in zip(sources, shapes, strict=True)):
        return {device: (whole(op.shape),) for device in sources[0]}
    every = (_carry_from(kind.carry, op, shapes, index, source) for index, source in enumerate(sources))
    if kind.gathers:
        carried = list(every)
        joined = _joined([c for c in carried if c is not None]) if None not in carried else {}
        return joined if _all_of(joined, op.shape) else everything(graph, op.name, min(sources[0]))
    # Every element needs an owner, so ownership carries over only if it covers the whole value.
    chosen = next((c for c in every if c is not None and _all_of(c, op.shape)), None)
    return chosen or everything(graph, op.name, min(sources[0]))


def _all_whole(owners: Owners, shape: Shape) -> bool:
    return all(share == (whole(shape),) for share in owners.values())


def _carry_from(carry: Carry, op: Op, shapes: tuple[Shape, ...], index: int, source: Owners) -> Owners | None:
    """Return the owners of an op's output that follow from those of one of its inputs, or None."""
    found: dict[int, Share] = {}
    for device, share in source.items():
        boxes = [carry(op, shapes, index, box) for box in share]
        if None in boxes:
            return None
        found[device] = tuple(box for box in boxes if box is not None and count(box) > 0)
    return {device: share for device, share in found.items() if share}


def _all_of(owners: Owners, shape: Shape) -> bool:
    return covers([box for share in owners.values() for box in share], whole(shape))


def _joined(several: list[Owners]) -> Owners:
    """Return the union of shares if each device's form one box (such as the same rows of all inputs), else nothing.

    Each separate box would add a step and a transfer.
    """
    joined: dict[int, list[Box]] = {}
    for owners in several:
        for device, share in owners.items():
            joined.setdefault(device, []).extend(share)
    boxes = {device: hull(share) for device, share in joined.items()}
    one = all(count(box) == sum(map(count, joined[device])) for device, box in boxes.items())
    return {device: (box,) for device, box in sorted(boxes.items())} if one else {}
