"""Record which worker received which tasks in a run, and how much of each image it saw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Literal, Self

from pydantic import model_validator

from cloven.documents import Document
from cloven.graph.box import Box, count, whole, without
from cloven.runtime.bundle.format import Box as BoxEntry
from cloven.runtime.bundle.task_graph import IMAGE, TaskGraph
from cloven.runtime.cluster.task_scheduler import TakenTask


class ReceivedBox(Document):
    """A box of a value that a worker receives for a task."""

    value: str
    box: BoxEntry


class RecordedTask(Document):
    """A task: the device and step of the plan, what its worker receives, and the boxes of the image in that."""

    device: str
    step: int
    inputs: tuple[ReceivedBox, ...]
    image: tuple[BoxEntry, ...]


class GivenTask(Document):
    """A task of an image that was sent to a worker; ``task`` is its index among the tasks of the plan.

    ``image`` is the number of the attempt, as in ``--sent``. ``answered`` is False if the worker was lost first, or
    the image failed.
    """

    image: int
    task: int
    worker: str
    answered: bool


class WorkerTasks(Document):
    """The tasks that a worker received in a run.

    Attributes:
        worker: its name.
        tasks: the number of tasks that it received.
        answered: the number of tasks that it answered.
        devices: the number of tasks that it received, by the device of the plan.
        images: the number of images of which it received a task.
        mean_pixels: the fraction of an image's pixels that it received, in all its tasks of the image together; the
            mean over those images.
        most_pixels: the largest such fraction.
    """

    worker: str
    tasks: int
    answered: int
    devices: dict[str, int]
    images: int
    mean_pixels: float
    most_pixels: float


class TaskRecord(Document):
    """The tasks of a plan, and to which worker each was sent in a run, in order."""

    version: Literal[1] = 1
    image: tuple[int, ...]
    tasks: tuple[RecordedTask, ...]
    given: tuple[GivenTask, ...]

    @model_validator(mode="after")
    def _known_tasks(self) -> Self:
        if any(not 0 <= one.task < len(self.tasks) for one in self.given):
            raise ValueError(f"given names a task that is not one of the {len(self.tasks)} tasks")
        return self

    @classmethod
    def of(cls, graph: TaskGraph, given: Iterable[TakenTask], answered: set[TakenTask]) -> TaskRecord:
        """Return the record of a run, from the assignments and those that were answered."""
        tasks = [
            RecordedTask(
                device=task.device,
                step=task.step,
                inputs=tuple(ReceivedBox(value=one.value, box=one.box) for one in task.inputs),
                image=tuple(r.box for one in task.inputs for r in one.regions if r.piece == IMAGE),
            )
            for task in graph.tasks
        ]
        rows = [GivenTask(**one._asdict(), answered=one in answered) for one in given]
        return cls(image=graph.image.shape, tasks=tuple(tasks), given=tuple(rows))

    def received(self) -> dict[str, dict[int, frozenset[int]]]:
        """Return the tasks of each image that each worker received."""
        found: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for one in self.given:
            found[one.worker][one.image].add(one.task)
        return {w: {image: frozenset(tasks) for image, tasks in images.items()} for w, images in found.items()}

    def workers(self) -> tuple[WorkerTasks, ...]:
        """Return what each worker received, by name."""
        everything = whole(self.image)

        @cache
        def pixels(tasks: frozenset[int]) -> float:
            boxes: list[Box] = [box for task in tasks for box in self.tasks[task].image]
            return 1 - sum(map(count, without([everything], boxes))) / count(everything)

        rows = []
        for worker, images in sorted(self.received().items()):
            mine = [one for one in self.given if one.worker == worker]
            seen = [pixels(tasks) for tasks in images.values()]
            rows.append(
                WorkerTasks(
                    worker=worker,
                    tasks=len(mine),
                    answered=sum(one.answered for one in mine),
                    devices=dict(Counter(self.tasks[one.task].device for one in mine)),
                    images=len(seen),
                    mean_pixels=round(sum(seen) / len(seen), 4),
                    most_pixels=round(max(seen), 4),
                )
            )
        return tuple(rows)
