"""Jobs of several images at once: a worker computes those that wait for the same segment as one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cloven.runtime.bundle.engine import Array
from cloven.runtime.bundle.schedule import Job

Computed = tuple[Mapping[str, Array], float]
"""The outputs of a job by name, ``(n, ...)`` for n images, and the seconds that it took."""


@dataclass(frozen=True, eq=False)
class WaitingJob:
    """A job of one image, its inputs ``(1, ...)`` by name, and the future of its outputs."""

    job: Job
    inputs: dict[str, Array]
    computed: asyncio.Future[Computed]


class Batches:
    """Computes the jobs that wait, one batch after another: the oldest job, and those of other images like it.

    An image never waits for others to arrive: a batch has the jobs that wait when the one before has ended.

    Attributes:
        compute: computes a job for any number of images.
        largest: the maximum number of images of a batch.
    """

    def __init__(self, compute: Callable[[Job, dict[str, Array]], Awaitable[Computed]], largest: int) -> None:
        self.compute, self.largest = compute, largest
        self._waiting: deque[WaitingJob] = deque()
        self._running: asyncio.Task[None] | None = None

    async def run(self, job: Job, inputs: dict[str, Array]) -> Computed:
        """Return the outputs of a job of one image, and its share of the seconds of the batch."""
        mine = WaitingJob(job, inputs, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run_all())
        return await mine.computed

    async def _run_all(self) -> None:
        while batch := self._next():
            try:
                outputs, seconds = await self.compute(batch[0].job, _joined([one.inputs for one in batch]))
            except Exception as error:  # onnxruntime's errors have no common base class
                for one in batch:
                    if not one.computed.done():
                        one.computed.set_exception(error)
                continue
            for i, one in enumerate(batch):
                if not one.computed.done():
                    mine = {name: array[i : i + 1] for name, array in outputs.items()}
                    one.computed.set_result((mine, seconds / len(batch)))

    def _next(self) -> list[WaitingJob]:
        """Remove the next batch from the queue, and return it; jobs of images that were dropped are removed too."""
        wanted = [one for one in self._waiting if not one.computed.done()]
        batch = [one for one in wanted if one.job.step == wanted[0].job.step][: self.largest]
        self._waiting = deque(one for one in wanted if one not in batch)
        return batch


def _joined(inputs: Sequence[dict[str, Array]]) -> dict[str, Array]:
    if len(inputs) == 1:
        return inputs[0]
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
