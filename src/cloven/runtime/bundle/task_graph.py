"""The tasks of a bundle: the segments of all devices, each of which any worker can compute from its inputs alone.

A device of a plan keeps values from one step to the next. A task keeps nothing: it receives all its inputs,
computes one segment, and sends all its outputs. Whoever hands out the tasks holds the *pieces* of an image, and
cuts the inputs of each task from them: piece 0 is the image, the others are the outputs of the tasks, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from cloven.documents import Document
from cloven.errors import ClovenError, one_line
from cloven.graph.box import Box, contains, count, extent, intersect, relative, slices, whole
from cloven.graph.graph import SIZES
from cloven.partition.protection import COORDINATOR
from cloven.partition.segments import sources
from cloven.partition.transform import ImageType, WireKind
from cloven.runtime.bundle.format import Box as BoxEntry
from cloven.runtime.bundle.format import (
    DevicePart,
    Number,
    ReceiveShare,
    RunSegment,
    SegmentTensor,
    SendShare,
    SentImage,
)
from cloven.runtime.bundle.schedule import Incoming, Job, Outgoing, Read, Schedule, in_order

MOST_TASKS = 4096
"""The maximum number of tasks of a plan, and of the regions that an input is made up of."""

IMAGE = 0
"""The number of the image among the pieces."""

Name = Annotated[str, AfterValidator(one_line)]


class Region(Document):
    """A box of a value, and the number of the piece that contains it."""

    piece: Number
    box: BoxEntry


class AssembledBox(Document):
    """A box of a value, and the regions that it is made up of; where they overlap, the later one counts."""

    value: Name
    box: BoxEntry
    regions: tuple[Region, ...] = Field(min_length=1, max_length=MOST_TASKS)

    @model_validator(mode="after")
    def _large_enough(self) -> Self:
        """Check that the regions have enough numbers; whether they cover the box would take too long to check."""
        boxes = [region.box for region in self.regions]
        if any(len(box) != len(self.box) for box in boxes) or sum(map(count, boxes)) < count(self.box):
            raise ValueError(f"the regions of {self.value!r} do not cover its box")
        return self

    @property
    def raw(self) -> bool:
        """Return whether it consists of pixels of the image only."""
        return all(region.piece == IMAGE for region in self.regions)


class TaskInput(AssembledBox):
    """An input of a segment; ``name`` is its name in the ONNX model."""

    name: str


class SegmentTask(Document):
    """A segment of a device of the plan; ``inputs`` are in the order of the segment's, as are the ``outputs``."""

    device: Name
    segment: Name
    step: Number
    inputs: tuple[TaskInput, ...] = Field(max_length=MOST_TASKS)
    outputs: tuple[SegmentTensor, ...] = Field(min_length=1, max_length=MOST_TASKS)


class TaskGraph(Document):
    """The tasks of a plan for one image, each after those whose outputs it reads, and the output of the model."""

    image: SentImage
    tasks: tuple[SegmentTask, ...] = Field(max_length=MOST_TASKS)
    output: AssembledBox

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """Check that each task reads only the image and outputs of earlier tasks, inside their boxes."""
        known = [whole(self.image.shape)]
        for task in self.tasks:
            _expect_known(known, task.inputs, f"a task of {task.device}")
            known += [piece.box for piece in task.outputs]
        _expect_known(known, [self.output], "the output")
        return self

    @cached_property
    def pieces(self) -> tuple[Box, ...]:
        """Return the box of each piece, by its number."""
        made = chain.from_iterable(task.outputs for task in self.tasks)
        return (whole(self.image.shape), *(piece.box for piece in made))

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """Return the number of the first piece that each task makes."""
        found, number = [], IMAGE + 1
        for task in self.tasks:
            found.append(number)
            number += len(task.outputs)
        return tuple(found)

    @cached_property
    def needs(self) -> tuple[frozenset[int], ...]:
        """Return, for each task, the tasks whose outputs it reads."""
        maker: dict[int, int] = {}
        for number, task in enumerate(self.tasks):
            maker |= dict.fromkeys(range(self.firsts[number], self.firsts[number] + len(task.outputs)), number)
        return tuple(
            frozenset(maker[r.piece] for one in task.inputs for r in one.regions if r.piece != IMAGE)
            for task in self.tasks
        )

    def sent_as(self, given: AssembledBox) -> ImageType:
        """Return the type of the numbers in which an input is sent: pixels of the image in that of the image."""
        return self.image.dtype if given.raw else "float32"

    def assembled(self, given: AssembledBox, held: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
        """Return a box ``(1, ...)``, assembled from the pieces that are held, by their numbers.

        What no region covers is zero; there is none in the tasks that `task_graph` returns.
        """
        found = []
        for region in given.regions:
            piece = held[region.piece]
            found.append((region.box, piece[slices(relative(region.box, self.pieces[region.piece]))]))
        box, array = found[0]
        if len(found) == 1 and contains(box, given.box):
            return np.ascontiguousarray(array[slices(relative(given.box, box))])
        canvas = np.zeros((1, *extent(given.box)), found[0][1].dtype)
        for box, array in found:
            shared = intersect(box, given.box)
            if shared is not None:
                canvas[slices(relative(shared, given.box))] = array[slices(relative(shared, box))]
        return canvas

    def largest(self) -> int:
        """Return the bytes of the largest message of a task, in either direction."""
        return max((schedule.largest for schedule in self.schedules), default=0)

    @cached_property
    def schedules(self) -> tuple[Schedule, ...]:
        """Return what a worker does for each task."""
        return tuple(map(self.schedule, range(len(self.tasks))))

    def schedule(self, number: int) -> Schedule:
        """Return what a worker does for a task; it names the segment of a device DEVICE/SEGMENT.

        It receives each input in a message of its own, in their order, and sends all outputs in one.
        """
        task = self.tasks[number]
        reads: list[tuple[Read, WireKind]] = []
        incoming, inputs, outputs = {}, [], []
        for i, given in enumerate(task.inputs):
            dtype = self.sent_as(given)
            incoming[COORDINATOR, i] = Incoming(((i, given.box, "none"),), SIZES[dtype] * count(given.box), dtype)
            inputs.append((given.name, Read(given.box, ((i, given.box),))))
        for i, made in enumerate(task.outputs, start=len(inputs)):
            outputs.append((made.name, i))
            reads.append((Read(made.box, ((i, made.box),)), "none"))
        job = Job(task.step, f"{task.device}/{task.segment}", tuple(inputs), tuple(outputs))
        size = SIZES["float32"] * sum(count(made.box) for made in task.outputs)
        uses = dict.fromkeys(range(len(inputs) + len(outputs)), 1)
        return Schedule((job,), incoming, (Outgoing((COORDINATOR, 0), tuple(reads), size),), uses)


def task_graph(parts: Mapping[str, DevicePart]) -> TaskGraph:
    """Return the tasks of a bundle with all its parts: one for each segment, in the global order of the steps.

    Raises:
        ClovenError: if there are more than `MOST_TASKS`, or a transfer is transformed: no task would do it.
    """
    held: dict[str, dict[str, list[tuple[Box, Pieces]]]] = {device: {} for device in parts}
    for device, part in parts.items():
        if part.image is not None:
            image, box = part.image, whole(part.image.shape)
            held[device][image.value] = [(box, ((IMAGE, box),))]
        if part.output is not None:
            sink, output = device, part.output
    under_way: dict[int, Pieces] = {}
    made: list[SegmentTask] = []
    pieces = IMAGE + 1
    for device, _, step in in_order(parts):
        mine = held[device]
        match step:
            case RunSegment():
                inputs = tuple(
                    TaskInput(
                        name=one.name, value=one.value, box=one.box, regions=_regions(mine[one.value], one.box)
                    )
                    for one in step.inputs
                )
                made.append(
                    SegmentTask(
                        device=device, segment=step.segment, step=step.step, inputs=inputs, outputs=step.outputs
                    )
                )
                for piece in step.outputs:
                    mine.setdefault(piece.value, []).append((piece.box, ((pieces, piece.box),)))
                    pieces += 1
            case SendShare():
                if step.transform != "none":
                    raise ClovenError(
                        f"its plan sends {step.transform} from {device} to {step.target}, but tasks exchange data "
                        "only with the coordinator"
                    )
                under_way[step.transfer] = _within(mine[step.value], step.share)
            case ReceiveShare():
                mine.setdefault(step.value, []).append((step.share, under_way.pop(step.transfer)))
    if len(made) > MOST_TASKS:
        raise ClovenError(f"the plan has {len(made)} tasks; expected at most {MOST_TASKS}")
    box = whole(output.shape)
    result = AssembledBox(value=output.value, box=box, regions=_regions(held[sink][output.value], box))
    return TaskGraph(image=image, tasks=tuple(made), output=result)


Pieces = tuple[tuple[int, Box], ...]
"""The numbers of pieces, and the box that is read of each."""


def _within(held: Sequence[tuple[Box, Pieces]], box: Box) -> Pieces:
    """Return the regions of pieces that make up a box of a value that a device holds."""
    found = []
    for _, pieces in sources(held, box):
        found += [(number, shared) for number, part in pieces if (shared := intersect(part, box)) is not None]
    return tuple(found)


def _regions(held: Sequence[tuple[Box, Pieces]], box: Box) -> tuple[Region, ...]:
    return tuple(Region(piece=number, box=shared) for number, shared in _within(held, box))


def _expect_known(known: Sequence[Box], inputs: Sequence[AssembledBox], reader: str) -> None:
    for region in chain.from_iterable(given.regions for given in inputs):
        there = region.piece < len(known) and len(known[region.piece]) == len(region.box)
        if not there or not contains(known[region.piece], region.box):
            raise ValueError(f"{reader} reads a region of piece {region.piece} that no earlier task has made")
