"""The memory of an audit: what one cell needs, which is measured, and how many fit a limit."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

import torch

from cloven.attacks.knowledge import LabelReader
from cloven.attacks.provenance import label_of
from cloven.attacks.trainer import Training, chunked
from cloven.attacks.unbatched import begun
from cloven.auditing.cell import Cell
from cloven.auditing.material import Material
from cloven.errors import ClovenError
from cloven.process_memory import Resident, forget_most, keep_freed, resident, return_freed
from cloven.quantities import written
from cloven.rows import IN_MEMORY
from cloven.threads import one_thread, repeatable

SPARE = 1.2
"""The memory that a cell is given, divided by what was measured: the C library does not reuse every freed block."""
SCORED = 4
"""The copies of the victim images that scoring holds if they are in memory, such as reconstructions."""


@dataclass(frozen=True)
class Capacity:
    """The number of processes that run cells, and of attacks that one of them trains together."""

    jobs: int
    together: int


def capacity(cells: Sequence[Cell], material: Material, *, limit: int, most: Capacity) -> Capacity:
    """Return how many cells run at a time within a limit on memory, in bytes.

    To measure what a cell needs, one cell for each attack and shape of observation is begun in this process: it is
    trained on two batches, and answers for some victim images. Nothing of this changes a result. An attack that
    defines only ``fit`` is trained to its end. Memory that processes share counts once for each.

    Raises:
        ClovenError: if one cell does not fit; the message says how much memory it needs.
    """
    keep_freed()
    kinds = {(label_of(c.attack), c.pairs, c.captured(material, "auxiliary").shapes): c for c in cells}
    return_freed()
    here, before, _ = _resident()
    images = material.images["victims"]
    scored = SCORED * min(IN_MEMORY, 4 * prod(images.shape))
    grown, name = max((_rehearsed(cell, material), name) for (name, *_), cell in kinds.items())
    trained = int(SPARE * grown)
    need = trained + scored
    if max(before, here + need) > limit:
        least = math.ceil(1.05 * max(before, here + need) / 1e8) * 1e8
        raise ClovenError(
            f"--memory is {written(limit, 'bytes')}; this audit needs {written(least, 'bytes')}: up to "
            f"{written(before, 'bytes')} before its attacks, then {written(here, 'bytes')} and for {name} "
            f"{written(need, 'bytes')} more; allow that much, or leave out this attack or its observations"
        )
    jobs = max(
        1, min(most.jobs, (limit - 2 * here) // (here + need))
    )  # beside them: this process and a fork server
    each = limit - here if jobs == 1 else (limit - 2 * here) // jobs - here
    return Capacity(jobs, max(1, min(most.together, (each - scored) // max(1, trained))))


def _rehearsed(cell: Cell, material: Material) -> int:
    """Return by how many bytes this process grows, at most, while it begins a cell."""
    gc.collect()
    return_freed()
    before = _resident().now
    try:
        forget_most()
    except OSError as error:
        raise ClovenError(
            f"--memory cannot be kept here: {error.filename} cannot be written; leave it out"
        ) from error
    with suppress(Exception), one_thread(), repeatable():  # a cell that fails says so when it runs
        trainee = begun(cell.attack, cell.given(material), cell.generator(material), cell.machine)
        training = None
        if trainee.pairs is not None and trainee.schedule is not None:
            for index in torch.arange(len(trainee.pairs)).split(trainee.schedule.batch)[:2]:
                trainee.step(index, *trainee.pairs.take(index), 0.0)
            trainee.ended(1)
            training = Training(1, 0.0)
        learned = trainee.finish(training)
        captured = cell.captured(material, "victims")
        some = captured.take(chunked(captured, torch.arange(len(captured)))[0])
        if isinstance(learned, LabelReader):
            learned.classify(some)
        else:
            learned(some)
    return _resident().most - before


def _resident() -> Resident:
    """Return the memory of this process.

    Raises:
        ClovenError: if the system is not Linux.
    """
    try:
        return resident()
    except OSError as error:
        raise ClovenError(
            f"--memory needs Linux, where {error.filename} says how much memory is used; leave it out"
        ) from error
