"""The processing of one image on one device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import count, extent
from cloven.runtime.bundle.engine import Array, paste
from cloven.runtime.bundle.schedule import Job, Message, Outgoing, Read, Schedule
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.protocol import Activity, ImageState, ImageTimes
from cloven.runtime.unit_images import unit
from cloven.runtime.wire_format import decode, encode, size

if TYPE_CHECKING:
    from cloven.runtime.link.octets import Data

NUMBERS = np.dtype("<f4")

Compute = Callable[[Job, dict[str, Array]], Awaitable[tuple[Mapping[str, Array], float]]]
"""Runs a segment outside the event loop; returns its outputs and the seconds that it took."""

Send = Callable[[Message, Sequence["Data"]], Awaitable[None]]
"""Queues a message for a party; waits while the queue is full."""


class ImageTask:
    """The work of a device on one image: the pieces that it holds, and its progress.

    Attributes:
        began: the time of its first message, by the monotonic clock.
        doing: the current activity.
        sent, came: the time at which each message was queued or had arrived, by the wall clock, in seconds.
        seconds: the duration of each job, in order.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.pieces: dict[int, Array] = {}
        self.made: set[int] = set()
        self.uses = dict(schedule.uses)
        self.missing = dict(schedule.incoming)
        self.unsent = list(schedule.outgoing)
        self.jobs_done = 0
        self.news = asyncio.Event()
        self.doing: Activity = "waits"
        self.began = time.monotonic()
        self.sent: dict[Message, float] = {}
        self.came: dict[Message, float] = {}
        self.seconds: list[float] = []

    def accept(self, party: str, ordinal: int, payload: memoryview) -> None:
        """Store a message of a party.

        Raises:
            FrameFailed: for a message that is not expected, or of another size.
        """
        message = (party, ordinal)
        expected = self.missing.pop(message, None)
        if expected is None:
            raise FrameFailed(f"message {ordinal} arrived twice, or is not in the plan")
        if payload.nbytes != expected.bytes:
            raise FrameFailed(f"message {ordinal} has {payload.nbytes} bytes; expected {expected.bytes}")
        rows, at = np.frombuffer(payload, np.uint8)[None], 0
        for piece, box, kind in expected.pieces:
            pixels, shape = expected.dtype == "uint8", extent(box)
            end = at + (count(box) if pixels else size(kind, count(box)))
            data, at = rows[:, at:end], end
            self._put(piece, unit(data.reshape(1, *shape)) if pixels else decode(kind, data, shape))
        self.came[message] = time.time()
        self.news.set()

    @property
    def state(self) -> ImageState:
        """Return the current activity, and the parties whose messages have not all arrived."""
        return ImageState(doing=self.doing, parties=sorted({party for party, _ in self.missing}))

    @property
    def finished(self) -> bool:
        """Return whether all is computed and sent."""
        return self.jobs_done == len(self.schedule.jobs) and not self.unsent

    def times(self, number: int) -> ImageTimes:
        """Return the times of the image with this number."""
        return ImageTimes(
            input=number,
            seconds=[round(seconds, 7) for seconds in self.seconds],
            sent=[(*message, at) for message, at in self.sent.items()],
            came=[(*message, at) for message, at in self.came.items()],
        )

    async def run(self, compute: Compute, send: Send) -> None:
        """Compute and send everything, as the inputs arrive."""
        while True:
            for out, data in list(self._ready()):
                self.doing = "sends"
                await send(out.message, data)
                self.sent[out.message] = time.time()
            job = self._next_job()
            if job is not None:
                self.doing = "computes"
                made, seconds = await compute(job, {name: self._read(read) for name, read in job.inputs})
                self.seconds.append(seconds)
                for name, piece in job.outputs:
                    self._put(piece, made[name])
                self.jobs_done += 1
            elif self.finished:
                return
            else:
                self.doing = "waits"
                await self.news.wait()
                self.news.clear()

    def _put(self, piece: int, array: Array) -> None:
        self.made.add(piece)
        if self.uses.get(piece):
            self.pieces[piece] = array

    def _has(self, read: Read) -> bool:
        return all(number in self.made for number, _ in read.pieces)

    def _read(self, read: Read) -> Array:
        array = paste([(box, self.pieces[number]) for number, box in read.pieces], read.box)
        for number, _ in read.pieces:
            self.uses[number] -= 1
            if not self.uses[number]:
                del self.pieces[number]
        return array

    def _ready(self) -> Iterator[tuple[Outgoing, list[NDArray[np.uint8]]]]:
        for out in [out for out in self.unsent if all(self._has(read) for read, _ in out.reads)]:
            self.unsent.remove(out)
            yield out, [encode(kind, self._read(read)) for read, kind in out.reads]

    def _next_job(self) -> Job | None:
        if self.jobs_done == len(self.schedule.jobs):
            return None
        job = self.schedule.jobs[self.jobs_done]
        return job if all(self._has(read) for _, read in job.inputs) else None
