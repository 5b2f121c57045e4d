"""Cut a device's steps into segments: sequences of computations that run as one ONNX model.

A segment runs at the step of its last computation. By then, everything that it reads has arrived, and none of its
outputs was due earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cloven.graph.box import Box, contains, intersect, text, whole
from cloven.partition.program import Compute, Program, Receive, Send

Key = tuple[str, Box]
"""A box of a value."""


def named(key: Key) -> str:
    """Return the name of a box of a value in a model."""
    return f"{key[0]}[{text(key[1])}]"


@dataclass(frozen=True, eq=False)
class Segment:
    """The computations of one ONNX model, the boxes that it reads, and the results that other steps need."""

    computes: tuple[Compute, ...]
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]

    @property
    def step(self) -> int:
        """Return the segment's position in the global order."""
        return self.computes[-1].step


Origin = TypeVar("Origin")


def sources(held: Sequence[tuple[Box, Origin]], box: Box) -> list[tuple[Box, Origin]]:
    """Return the pieces that make up a box: an equal one, else the first that contains it, else all overlapping."""
    for entry in held:
        if entry[0] == box:
            return [entry]
    for entry in held:
        if contains(entry[0], box):
            return [entry]
    return [entry for entry in held if intersect(entry[0], box) is not None]


@dataclass
class _Open:
    """A segment under construction; ``outputs`` grows as later steps read its results."""

    computes: list[Compute] = field(default_factory=list)
    inputs: dict[Key, None] = field(default_factory=dict)
    outputs: dict[Key, None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Outside:
    """The origin of a piece that no segment computed: the step that received it, -1 for the image."""

    step: int


Pieces = list[tuple[Box, _Open | _Outside]]
"""Pieces of a value, with their origins."""


class _Cutter:
    def __init__(self) -> None:
        self.done: list[_Open] = []
        self.now = _Open()
        self.held: dict[str, Pieces] = {}

    def put(self, value: str, box: Box, origin: _Open | _Outside) -> None:
        self.held.setdefault(value, []).append((box, origin))

    def close(self) -> None:
        if self.now.computes:
            self.done.append(self.now)
            self.now = _Open()

    def fits(self, found: Pieces) -> bool:
        """Return whether the open segment can read a box that is made up of pieces.

        It cannot if the box is assembled from several pieces of which it computed one: numpy does that between
        segments. It cannot either if a piece arrives after its first computation, which would have to wait.
        """
        if len(found) > 1 and any(origin is self.now for _, origin in found):
            return False
        began = self.now.computes[0].step if self.now.computes else None
        return began is None or all(o.step < began for _, o in found if isinstance(o, _Outside))

    def need(self, value: str, found: Pieces) -> bool:
        """Mark pieces of a value as outputs of their segments; return whether the open segment computed any."""
        inside = False
        for piece, origin in found:
            if origin is self.now:
                inside = True
            elif isinstance(origin, _Open):
                origin.outputs[value, piece] = None
        return inside

    def compute(self, step: Compute) -> None:
        reads = [(value, box, sources(self.held[value], box)) for value, box in step.reads]
        if not all(self.fits(found) for _, _, found in reads):
            self.close()
        for value, box, found in reads:
            if not self.need(value, found):
                self.now.inputs[value, box] = None
        self.now.computes.append(step)
        self.put(step.value, step.box, self.now)

    def give(self, value: str, box: Box) -> None:
        """Record that a box is read outside of any segment."""
        found = sources(self.held[value], box)
        if any(origin is self.now for _, origin in found):
            self.close()
        self.need(value, found)


def segments(program: Program, device: str) -> tuple[Segment, ...]:
    """Return the segments of a device, in order; each is as long as its sends and receives allow."""
    cutter = _Cutter()
    if device == program.source:
        image = program.graph.input
        cutter.put(image.name, whole(image.shape), _Outside(-1))
    for step in program.parts[device]:
        match step:
            case Compute():
                cutter.compute(step)
            case Send(transfer=transfer):
                cutter.give(transfer.value, transfer.share)
            case Receive(transfer=transfer):
                cutter.put(transfer.value, transfer.share, _Outside(step.step))
    cutter.close()
    if device == program.sink:
        output = program.graph.by_name[program.graph.output]
        cutter.give(output.name, whole(output.shape))
    return tuple(
        Segment(tuple(made.computes), tuple(made.inputs), tuple(made.outputs))
        for made in cutter.done
        if made.outputs
    )
