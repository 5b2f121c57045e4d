"""Observe what each worker received in a run with work stealing, from the record of the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cloven.documents import read_document
from cloven.errors import ClovenError, check_type, path_of
from cloven.graph.box import contains, count, whole
from cloven.partition.observe import Observation, Seen
from cloven.partition.program import Program

if TYPE_CHECKING:
    from cloven.runtime.cluster.task_record import TaskRecord


def read_tasks(record: str | Path, program: Program, *, image: int | None = None) -> tuple[Observation, ...]:
    """Return what each worker received of one image in a run, as observations to audit; by name of the worker.

    Args:
        record: the file that ``cloven run --steal --record`` wrote.
        program: the program that ran.
        image: the number of the image; by default, for each worker, the image of which it received the most pixels,
            and the most numbers among equals.

    Raises:
        ClovenError: if the file is not a record, is not one of this program, or no worker received the image.
    """
    from cloven.runtime.cluster.task_record import TaskRecord

    check_type(program, Program, "program", "the program that cloven.divide or cloven.compile returns")
    place = path_of(record, "record")
    found = read_document(TaskRecord, place)
    if wrong := _unknown(found, program):
        raise ClovenError(f"{place} is not the record of a run of this program, which has no {wrong}")
    seen: list[Observation] = []
    for worker, images in sorted(found.received().items()):
        chosen = [tasks for number, tasks in images.items() if image in (None, number)]
        if chosen:
            seen.append(max((_observed(found, worker, tasks, program) for tasks in set(chosen)), key=_extent))
    if not seen:
        raise ClovenError(f"{place}: no worker received image {image}")
    return tuple(seen)


def _unknown(record: TaskRecord, program: Program) -> str | None:
    """Return a box of the record that the program does not have."""
    if record.image != program.graph.input.shape:
        return f"image of the shape {record.image}"
    for box in (one for task in record.tasks for one in task.inputs):
        op = program.graph.by_name.get(box.value)
        if op is None or len(op.shape) != len(box.box) or not contains(whole(op.shape), box.box):
            return f"{box.value} {box.box}"
    return None


def _observed(record: TaskRecord, worker: str, tasks: frozenset[int], program: Program) -> Observation:
    boxes = dict.fromkeys((one.value, one.box) for task in sorted(tasks) for one in record.tasks[task].inputs)
    seen = tuple(Seen(value, box) for value, box in boxes)
    return Observation(seen, "full", crosses=True, links=(), graph=program.graph, program=program, device=worker)


def _extent(observation: Observation) -> tuple[float, int, str]:
    numbers = sum(count(one.share) for one in observation.seen)
    return observation.raw_image, numbers, observation.fingerprint
