"""The schedule of one device for one image, derived from dependencies: jobs, and incoming and outgoing messages.

A bundle lists a device's steps in the global order over all devices. A device that runs on its own does not wait
for its turn in that order: it sends a share as soon as it is computed, and runs a segment as soon as all inputs
have arrived. The schedule fixes, by the order of the steps, the pieces that each box is assembled from. The result
therefore does not depend on the order of arrival.

A *message* is one frame on a link: transfers that become ready by the same events travel together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cloven.graph.box import Box, count, whole
from cloven.graph.graph import SIZES
from cloven.partition.protection import COORDINATOR
from cloven.partition.segments import sources
from cloven.partition.transform import ImageType, Transform, WireKind
from cloven.runtime.bundle.format import DevicePart, ReceiveShare, RunSegment, SendShare, Step

Message = tuple[str, int]
"""The other party, and the number of the message on the link from or to it, counted from 0 for each image."""


@dataclass(frozen=True)
class Read:
    """A box and the pieces that it is assembled from, by their numbers."""

    box: Box
    pieces: tuple[tuple[int, Box], ...]


@dataclass(frozen=True)
class Job:
    """A segment to run: what each input reads, and the number of the piece that each output becomes, by name."""

    step: int
    segment: str
    inputs: tuple[tuple[str, Read], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Incoming:
    """A message to receive: the pieces that it contains, with the transform of each, and its size in bytes.

    ``dtype`` is the type of the numbers of an image that the coordinator sends.
    """

    pieces: tuple[tuple[int, Box, WireKind], ...]
    bytes: int
    dtype: ImageType = "float32"


@dataclass(frozen=True)
class Outgoing:
    """A message to send: the boxes that it contains, with the transform of each, and its size in bytes."""

    message: Message
    reads: tuple[tuple[Read, WireKind], ...]
    bytes: int


@dataclass(frozen=True)
class Schedule:
    """Everything that a device does for an image. Pieces are numbered; ``uses`` counts the reads of each."""

    jobs: tuple[Job, ...]
    incoming: Mapping[Message, Incoming]
    outgoing: tuple[Outgoing, ...]
    uses: Mapping[int, int]

    @property
    def parties(self) -> frozenset[str]:
        """Return the parties that the device receives from or sends to."""
        return frozenset({party for party, _ in self.incoming} | {out.message[0] for out in self.outgoing})

    @property
    def largest(self) -> int:
        """Return the bytes of the largest message in either direction."""
        sizes = [m.bytes for m in self.incoming.values()] + [m.bytes for m in self.outgoing]
        return max(sizes, default=0)

    def renamed(self, names: Mapping[str, str]) -> Schedule:
        """Return the schedule with other names of parties; ``names`` maps old names to new ones."""
        incoming = {(names.get(party, party), number): m for (party, number), m in self.incoming.items()}
        outgoing = tuple(
            replace(out, message=(names.get(out.message[0], out.message[0]), out.message[1]))
            for out in self.outgoing
        )
        return replace(self, incoming=incoming, outgoing=outgoing)


def in_order(parts: Mapping[str, DevicePart]) -> list[tuple[str, int, Step]]:
    """Return the steps of all devices in the global order: the device, the index in its part, the step."""
    found: list[tuple[str, int, Step]] = []
    for device, part in parts.items():
        for place, step in enumerate(part.steps):
            found.append((device, place, step))
    # A send and its receive have the same number: the send comes first.
    return sorted(found, key=lambda entry: (entry[2].step, isinstance(entry[2], ReceiveShare)))


Event = tuple[str, str, int]
"""The origin of a piece: the image, a segment (by its step), or a message (by its source and number)."""


def numbered(parts: Mapping[str, DevicePart]) -> dict[str, DevicePart]:
    """Return the parts with message numbers; transfers of a link that wait for the same events share a message."""
    held: dict[str, dict[str, list[tuple[Box, Event]]]] = {device: {} for device in parts}
    for device, part in parts.items():
        if part.image is not None:
            held[device][part.image.value] = [(whole(part.image.shape), ("image", "", 0))]
    events: dict[tuple[str, str], dict[frozenset[Event], int]] = {}
    numbers: dict[int, int] = {}
    for device, _, step in in_order(parts):
        mine = held[device]
        match step:
            case RunSegment():
                for piece in step.outputs:
                    mine.setdefault(piece.value, []).append((piece.box, ("run", "", step.step)))
            case SendShare():
                event = frozenset(origin for _, origin in sources(mine[step.value], step.share))
                known = events.setdefault((device, step.target), {})
                numbers[step.transfer] = known.setdefault(event, len(known))
            case ReceiveShare():
                origin = ("message", step.source, numbers[step.transfer])
                mine.setdefault(step.value, []).append((step.share, origin))
    renumbered = {}
    for device, part in parts.items():
        steps = tuple(
            step if isinstance(step, RunSegment) else step.model_copy(update={"message": numbers[step.transfer]})
            for step in part.steps
        )
        renumbered[device] = part.model_copy(update={"steps": steps})
    return renumbered


def schedule(part: DevicePart) -> Schedule:
    """Return the schedule of a device's part; the image comes from the coordinator, and the output goes there."""
    return _ScheduleBuilder(part).schedule()


class _ScheduleBuilder:
    """Builds a schedule step by step; ``held`` lists the boxes of each value with their piece numbers."""

    def __init__(self, part: DevicePart) -> None:
        self.part = part
        self.held: dict[str, list[tuple[Box, int]]] = {}
        self.count = 0
        self.uses: Counter[int] = Counter()

    def put(self, value: str, box: Box) -> int:
        self.held.setdefault(value, []).append((box, self.count))
        self.count += 1
        return self.count - 1

    def read(self, value: str, box: Box) -> Read:
        found = tuple((number, piece) for piece, number in sources(self.held[value], box))
        self.uses.update(number for number, _ in found)
        return Read(box, found)

    def schedule(self) -> Schedule:
        jobs: list[Job] = []
        comes: dict[Message, list[tuple[int, Box, WireKind]]] = {}
        goes: dict[Message, list[tuple[Read, WireKind]]] = {}
        if (image := self.part.image) is not None:
            comes[COORDINATOR, 0] = [(self.put(image.value, whole(image.shape)), whole(image.shape), "none")]
        for step in self.part.steps:
            match step:
                case RunSegment():
                    inputs = tuple((piece.name, self.read(piece.value, piece.box)) for piece in step.inputs)
                    outputs = tuple((piece.name, self.put(piece.value, piece.box)) for piece in step.outputs)
                    jobs.append(Job(step.step, step.segment, inputs, outputs))
                case ReceiveShare():
                    piece = (self.put(step.value, step.share), step.share, step.transform)
                    comes.setdefault((step.source, step.message), []).append(piece)
                case SendShare():
                    read = (self.read(step.value, step.share), step.transform)
                    goes.setdefault((step.target, step.message), []).append(read)
        if (output := self.part.output) is not None:
            goes[COORDINATOR, 0] = [(self.read(output.value, whole(output.shape)), "none")]
        incoming = {}
        for message, pieces in comes.items():
            dtype = image.dtype if image is not None and message == (COORDINATOR, 0) else "float32"
            size = _bytes(((box, kind) for _, box, kind in pieces), dtype)
            incoming[message] = Incoming(tuple(pieces), size, dtype)
        outgoing = []
        for message, reads in goes.items():
            size = _bytes((read.box, kind) for read, kind in reads)
            outgoing.append(Outgoing(message, tuple(reads), size))
        return Schedule(tuple(jobs), incoming, tuple(outgoing), dict(self.uses))


def _bytes(shares: Iterable[tuple[Box, WireKind]], dtype: ImageType = "float32") -> int:
    return sum(Transform(kind).bytes(count(box), SIZES[dtype]) for box, kind in shares)
