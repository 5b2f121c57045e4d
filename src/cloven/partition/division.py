"""A Division: a (possibly rewritten) graph and who owns which share of each of its values.

A strategy places anchors (the input, convolutions, linear layers, values that the user names); ``spread``
carries the placement to all other values from the op table.
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
"""Who owns what of one value: device number -> share. A device that is not in it owns nothing."""

Placement = Mapping[str, Owners]
"""Who owns what of several values."""


@dataclass(frozen=True, eq=False)
class Division:
    """Who computes what.

    ``sink`` is the device where the whole output is wanted. ``exact`` is False where the rewritten graph does not
    compute what the model computes.
    """

    graph: Graph
    owners: Placement
    devices: int
    sink: int
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive ops of a graph, ``first`` to ``last`` by their position, to be shared out among ``devices``."""

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
        """The device that gathers and adds up."""
        return self.devices[0]

    @property
    def ends_early(self) -> bool:
        """Whether ops follow that are not part of it."""
        return self.last < len(self.graph.ops) - 1

    def holds(self, value: str) -> bool:
        """Return whether a value is made here."""
        return self.first <= self.graph.position[value] <= self.last


@dataclass(frozen=True, eq=False)
class Placed:
    """A graph, rewritten in a stretch, with the owners of all that is made up to its end."""

    graph: Graph
    owners: Placement
    sink: int
    exact: bool = True


MOST_DEVICES = 4096
"""The most devices that a model is divided over; lists of more take all memory before anything is said."""


def check_count(devices: int) -> int:
    """Return a number of devices that is not absurd.

    Raises:
        ClovenError: if it is above `MOST_DEVICES`.
    """
    if devices > MOST_DEVICES:
        raise ClovenError(f"the plan takes {reprlib.repr(devices)} devices; expected at most {MOST_DEVICES}")
    return devices


def device_names(count: int) -> tuple[str, ...]:
    """Return the usual names: edge0, edge1, ...

    Raises:
        ClovenError: as `check_count`.
    """
    return tuple(f"edge{i}" for i in range(check_count(count)))


def wrong_names(names: Sequence[str]) -> list[str]:
    """Return what is wrong with the names of devices, one sentence each."""
    found = []
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        found.append(f"two devices are named {', '.join(repeated)}; names must differ")
    if COORDINATOR in names:
        found.append(f"no device can be named {COORDINATOR}: it sends the images; choose another name")
    wrong = [name for name in dict.fromkeys(names) if not _is_name(name)]
    return found + [
        f"a device is named {name!r}; expected text without '->' and ':', in characters that can be printed"
        for name in wrong
    ]


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str) and bool(name.strip()) and name.isprintable() and "->" not in name and ":" not in name
    )


def everywhere(graph: Graph, devices: int) -> Stretch:
    """Return all of a graph but the image.

    Raises:
        ClovenError: as `check_count`.
    """
    check_count(devices)
    return Stretch(graph, 1, len(graph.ops) - 1, tuple(range(devices)))


def everything(graph: Graph, value: str, device: int) -> Owners:
    """Return the owners of a value that one device owns whole."""
    return {device: (whole(graph.by_name[value].shape),)}


def dealt(boxes: Iterable[Box], devices: Sequence[int]) -> Owners:
    """Return the owners that have the i-th box on the i-th device; empty boxes are nobody's."""
    return {device: (box,) for device, box in zip(devices, boxes, strict=True) if count(box) > 0}


def home(owners: Owners) -> dict[int, list[Box]]:
    """Return the part of a value that each device is home of: what it owns and no lower-numbered device does."""
    homes: dict[int, list[Box]] = {}
    for device in sorted(owners):
        lower = [box for share in homes.values() for box in share]
        homes[device] = without(owners[device], lower)
    return homes


def spread(stretch: Stretch, anchors: Placement, before: Placement) -> dict[str, Owners]:
    """Return who owns all values up to a stretch's end: the anchors' as given, others' carried from their inputs.

    Where the op table cannot carry a share over (a flatten of rows, an op without a split rule), the device that
    is first among the owners of the input owns the whole.
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
    carried = [_carry_from(kind.carry, op, shapes, index, source) for index, source in enumerate(sources)]
    if kind.gathers:
        joined = _joined([c for c in carried if c is not None]) if None not in carried else {}
        return joined if _all_of(joined, op.shape) else everything(graph, op.name, min(sources[0]))
    # What nobody owns nobody would compute: ownership carries over only where it covers the whole.
    chosen = next((c for c in carried if c is not None and _all_of(c, op.shape)), None)
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
    """Return all shares together where each device's make one box (the same rows of every input); else nothing.

    Many small boxes would be as many steps and transfers.
    """
    joined: dict[int, list[Box]] = {}
    for owners in several:
        for device, share in owners.items():
            joined.setdefault(device, []).extend(share)
    boxes = {device: hull(share) for device, share in joined.items()}
    one = all(count(box) == sum(map(count, joined[device])) for device, box in boxes.items())
    return {device: (box,) for device, box in sorted(boxes.items())} if one else {}
