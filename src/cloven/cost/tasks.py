"""The tasks of a program for one image: segments that devices run, and messages that cross links."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloven.cost.loading import WeightMemory, weights
from cloven.cost.operators import Work, work
from cloven.graph.box import Box, count, whole
from cloven.graph.graph import SIZES
from cloven.partition.program import Compute, Link, Program, Receive, Send
from cloven.partition.protection import COORDINATOR, Protection
from cloven.partition.segments import Segment, segments, sources
from cloven.partition.usage import Usage, usage


@dataclass(frozen=True, eq=False)
class SegmentRun:
    """A device runs a segment after the tasks with these numbers.

    Attributes:
        device: the device.
        value: the value that it computes last.
        works: the work of each computation.
        weights: the memory of its weights.
        boundary_bytes: the bytes of the values that it reads, and of those that other tasks read.
        after: the tasks that it waits for.
    """

    device: str
    value: str
    works: tuple[Work, ...]
    weights: WeightMemory
    boundary_bytes: int
    after: tuple[int, ...]


@dataclass(frozen=True)
class LinkMessage:
    """A party sends bytes to another one after the tasks with these numbers."""

    link: Link
    bytes: int
    after: tuple[int, ...]


Task = SegmentRun | LinkMessage


@dataclass(frozen=True, eq=False)
class Workload:
    """The work of a program for one image, on any cluster. It does not hold the program, which is much larger.

    Attributes:
        devices: the devices of the program.
        source: the device that receives the image.
        sink: the device that sends the answer.
        protection: the protection of the links.
        tasks: the tasks, as `tasks` returns them.
        usage: the usage of each device.
    """

    devices: tuple[str, ...]
    source: str
    sink: str
    protection: Protection
    tasks: tuple[Task, ...]
    usage: tuple[Usage, ...]

    @classmethod
    def of(cls, program: Program) -> Workload:
        """Return the workload of a program."""
        return cls(
            devices=tuple(program.devices),
            source=program.source,
            sink=program.sink,
            protection=program.protection,
            tasks=tasks(program),
            usage=tuple(usage(program)),
        )

    @property
    def messages(self) -> list[LinkMessage]:
        """The messages, with the image and the answer."""
        return [task for task in self.tasks if isinstance(task, LinkMessage)]


def tasks(program: Program) -> tuple[Task, ...]:
    """Return the tasks, each after those that it waits for.

    The first task is the message with the image, the last one the message with the answer. As on workers,
    a segment is one ONNX model, and transfers of a link that become ready by the same tasks are one message.
    """
    return _TaskList(program).tasks()


@dataclass
class _TaskList:
    """The tasks so far, and for each device the task that provided each box of each value."""

    program: Program
    made: list[Task] = field(default_factory=list)
    held: dict[tuple[str, str], list[tuple[Box, int]]] = field(default_factory=dict)
    last_job: dict[str, int] = field(default_factory=dict)

    def tasks(self) -> tuple[Task, ...]:
        program = self.program
        image, output = program.graph.input, program.graph.by_name[program.graph.output]
        ends = {segment.step: segment for device in program.devices for segment in segments(program, device)}
        messages: dict[tuple[Link, tuple[int, ...]], int] = {}
        carried: dict[int, int] = {}
        self.put(
            program.source,
            image.name,
            whole(image.shape),
            self.add(LinkMessage((COORDINATOR, program.source), program.image_bytes, ())),
        )
        for device, step in program.steps:
            match step:
                case Compute() if step.step in ends:
                    self.run(device, ends[step.step])
                case Send(transfer=transfer):
                    after = self.origins(device, transfer.value, transfer.share)
                    key = (transfer.link, after)
                    if key in messages:
                        number = messages[key]
                        first = self.made[number]
                        assert isinstance(first, LinkMessage)
                        self.made[number] = LinkMessage(transfer.link, first.bytes + transfer.bytes, after)
                    else:
                        number = messages[key] = self.add(LinkMessage(transfer.link, transfer.bytes, after))
                    carried[transfer.id] = number
                case Receive(transfer=transfer):
                    self.put(device, transfer.value, transfer.share, carried[transfer.id])
        answer = self.origins(program.sink, output.name, whole(output.shape))
        self.add(LinkMessage((program.sink, COORDINATOR), output.bytes, answer))
        return tuple(self.made)

    def run(self, device: str, segment: Segment) -> None:
        needed = {task for value, box in segment.inputs for task in self.origins(device, value, box)}
        if device in self.last_job:
            needed.add(self.last_job[device])
        works = tuple(work(self.program.graph, step.value, step.box) for step in segment.computes)
        held = weights(segment.computes)
        graph = self.program.graph
        sizes = (
            SIZES[graph.by_name[value].dtype] * count(box) for value, box in (*segment.inputs, *segment.outputs)
        )
        made = SegmentRun(device, segment.computes[-1].value, works, held, sum(sizes), tuple(sorted(needed)))
        job = self.last_job[device] = self.add(made)
        for value, box in segment.outputs:
            self.put(device, value, box, job)

    def add(self, task: Task) -> int:
        self.made.append(task)
        return len(self.made) - 1

    def put(self, device: str, value: str, box: Box, task: int) -> None:
        self.held.setdefault((device, value), []).append((box, task))

    def origins(self, device: str, value: str, box: Box) -> tuple[int, ...]:
        return tuple(sorted({task for _, task in sources(self.held[device, value], box)}))
