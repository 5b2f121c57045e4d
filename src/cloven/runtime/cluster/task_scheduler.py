"""Decide which worker computes which task next, without a network or a clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

OUTSTANDING = 2
"""The number of tasks that a worker may have: the inputs of the second travel while it computes the first."""


class TakenTask(NamedTuple):
    """A task of an image, and the worker that computes it."""

    image: int
    task: int
    worker: str


@dataclass
class _Progress:
    """The tasks of an image that nobody has taken, those that are finished, and those that are neither."""

    waiting: set[int]
    finished: set[int]


class TaskScheduler:
    """Hands out the tasks of the images in flight: the oldest image first, to the worker with the fewest tasks.

    A task is handed out when all tasks that it needs are finished. It is finished once: a result of a worker that
    has been given up does not count.

    Attributes:
        needs: for each task, the tasks that it needs.
        outstanding: the number of tasks that a worker may have.
    """

    def __init__(self, needs: Sequence[Collection[int]], outstanding: int = OUTSTANDING) -> None:
        self.needs, self.outstanding = needs, outstanding
        self._images: dict[int, _Progress] = {}
        self._taken: dict[str, set[TakenTask]] = {}

    def begin(self, image: int) -> None:
        """Add the tasks of an image; numbers of images ascend."""
        self._images[image] = _Progress(set(range(len(self.needs))), set())

    def end(self, image: int) -> None:
        """Remove the tasks of an image, finished or not."""
        self._images.pop(image, None)
        for worker, taken in self._taken.items():
            self._taken[worker] = {one for one in taken if one.image != image}

    def due(self, workers: Collection[str]) -> list[TakenTask]:
        """Hand out tasks to these workers, as many as they may have now; return the new assignments."""
        given: list[TakenTask] = []
        for image, progress in sorted(self._images.items()):
            for task in sorted(progress.waiting):
                worker = min(workers, key=self._load, default=None)
                if worker is None or self._load(worker) >= self.outstanding:
                    return given
                if progress.finished.issuperset(self.needs[task]):
                    progress.waiting.remove(task)
                    given.append(TakenTask(image, task, worker))
                    self._taken.setdefault(worker, set()).add(given[-1])
        return given

    def finish(self, done: TakenTask) -> bool:
        """Mark a task as finished; return False if its worker does not have it."""
        taken = self._taken.get(done.worker, set())
        if done not in taken:
            return False
        taken.remove(done)
        self._images[done.image].finished.add(done.task)
        return True

    def give_up(self, lost: TakenTask) -> None:
        """Take a task from its worker, which has been lost, so that another one computes it."""
        taken = self._taken.get(lost.worker, set())
        if lost in taken:
            taken.remove(lost)
            self._images[lost.image].waiting.add(lost.task)

    def is_finished(self, image: int) -> bool:
        """Return whether all tasks of an image are finished."""
        return len(self._images[image].finished) == len(self.needs)

    def taken(self, image: int) -> list[TakenTask]:
        """Return the tasks of an image that workers have now."""
        return sorted(one for taken in self._taken.values() for one in taken if one.image == image)

    def _load(self, worker: str) -> int:
        return len(self._taken.get(worker, ()))
