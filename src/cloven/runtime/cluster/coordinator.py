"""The coordinator: joins the workers of a plan to a run, sends images, collects outputs, and says what went wrong.

Every image is answered once, or fails with the device or link and the reason. An attempt has its own number, so
that an answer that comes after all is nobody's.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cloven.partition.plan import Plan
from cloven.partition.protection import COORDINATOR
from cloven.runtime.bundle.engine import Array
from cloven.runtime.cluster.blame import culprit
from cloven.runtime.cluster.crew import Crew, Trouble
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.file import Cluster
from cloven.runtime.cluster.member import SILENT, Flight
from cloven.runtime.cluster.messages import KEPT, Failed
from cloven.runtime.cluster.work import NUMBERS
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from types import TracebackType

    from cloven.runtime.link.identity import Identity

REPORTING = 15.0
"""Seconds in which workers report a run; a machine with too many processes takes its time."""

HUNG = 1.0
"""Seconds of silence that make a worker the reason of an image that is overdue."""

LATE = 0.5
"""Seconds after which workers are asked what they do about an image."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The output ``(classes,)`` for an image, and the seconds from sending to answer; ``number`` is the input's."""

    number: int
    output: Array
    seconds: float


@dataclass(frozen=True)
class Manner:
    """How images are sent.

    Attributes:
        window: most images in flight.
        deadline: seconds after which an image fails.
        retry: seconds for which an image is sent again when a device or link was lost; 0 for not at all.
    """

    window: int = 8
    deadline: float = 30.0
    retry: float = 0.0


@dataclass(frozen=True, eq=False)
class Attempt:
    """An image in flight: its output to come, and since when (monotonic clock)."""

    output: asyncio.Future[Array]
    began: float


class Coordinator:
    """A run: ``async with Coordinator(...) as run`` joins the workers, and leaves them at the end.

    Attributes:
        shape: of one image, (C, H, W).
        crew: the workers.
    """

    def __init__(self, plan: Plan, cluster: Cluster, identity: Identity | None, manner: Manner) -> None:
        self.manner = manner
        self.shape: tuple[int, int, int] = plan.model.input
        self.crew = Crew(plan, cluster, identity, self)
        self.flying: dict[int, Attempt] = {}
        self.next = 0
        self.times: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.window = asyncio.Semaphore(manner.window)
        self.ill: float | None = None

    async def __aenter__(self) -> Coordinator:
        """Join the workers.

        Raises:
            ClovenError: with all that is wrong with them.
        """
        try:
            await self.crew.join(self.manner.window, self.manner.deadline, self.manner.retry)
        except BaseException:
            await self.crew.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self.crew.close()

    # --- images -----------------------------------------------------------------------------------------------

    async def submit(self, image: Array) -> Answer:
        """The answer for an image ``(C, H, W)`` in [0, 1], float32.

        Raises:
            FrameFailed: with device or link and the reason.
        """
        if image.shape != self.shape:
            raise FrameFailed(f"the image has shape {image.shape}; expected {self.shape}", device=COORDINATOR)
        data = np.ascontiguousarray(image, NUMBERS)
        async with self.window:
            until = time.monotonic() + self.manner.retry
            while True:
                await self._ready(until)
                try:
                    return await self._attempt(data)
                except FrameFailed as failed:
                    if not failed.lost or time.monotonic() >= until:
                        raise

    async def answers(self, images: Iterable[Array]) -> AsyncIterator[Answer | FrameFailed]:
        """Return the answers for images, in their order; the window is kept full.

        Images are taken in the event loop. One that is longer than 8 s in coming stops it for so long that workers
        take us for hung; they are joined again.
        """
        waiting: deque[asyncio.Task[Answer]] = deque()

        async def outcome(task: asyncio.Task[Answer]) -> Answer | FrameFailed:
            try:
                return await task
            except FrameFailed as failed:
                return failed

        try:
            for image in images:
                waiting.append(asyncio.create_task(self.submit(image)))
                if len(waiting) >= 2 * self.manner.window:
                    yield await outcome(waiting.popleft())
            while waiting:
                yield await outcome(waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()

    async def _ready(self, until: float) -> None:
        """Wait until all is up: no longer than an image may be sent again, nor than an outage may last.

        A worker that has been silent for less than a deadline may only be slow to be reached: images wait for it.
        """
        while troubles := self.crew.troubles(max(SILENT, self.manner.deadline - HUNG)):
            now = time.monotonic()
            self.ill = now if self.ill is None else self.ill
            if now >= min(until, self.ill + self.manner.retry):
                raise _failure(troubles[0])
            await self.crew.wait()
        self.ill = None

    async def _attempt(self, data: Array) -> Answer:
        number, self.next = self.next, self.next + 1
        future: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        self.flying[number] = Attempt(future, time.monotonic())
        start, sent = time.perf_counter(), time.time()
        try:
            async with asyncio.timeout(self.manner.deadline):
                await self.crew.peers[self.crew.source].send(number, 0, [data])
                output = await future
        except TimeoutError:
            raise _failure(self._overdue(number)) from None
        finally:
            del self.flying[number]
            if not future.done() or future.cancelled() or future.exception() is not None:
                future.cancel()
                for member in self.crew.members.values():
                    member.drop(number)
        ends = {"sent": [[self.crew.source, 0, sent]], "came": [[self.crew.sink, 0, time.time()]]}
        self.times.append({"input": number, "seconds": [], **ends})
        return Answer(number, output, time.perf_counter() - start)

    def _fail(self, number: int, failed: FrameFailed) -> None:
        attempt = self.flying.get(number)
        if attempt is not None and not attempt.output.done():
            attempt.output.set_exception(failed)

    def _overdue(self, number: int) -> Trouble:
        """Whom an image that is overdue waits for, by what the workers said last."""
        members = self.crew.members
        late = f"no answer within {self.manner.deadline:g} s"
        worst = max(members.values(), key=lambda member: member.silent)
        if worst.silent > HUNG:
            return Trouble((worst.device,), f"{late}; it has said nothing for {worst.silent:.1f} s")
        states = {name: member.states[number] for name, member in members.items() if number in member.states}
        found = culprit(states, self.crew.sink)
        what = "it is still computing" if len(found) == 1 else f"{found[1]} waits for {found[0]}"
        return Trouble(found, f"{late}; {what}")

    # --- what the crew tells, see `cloven.runtime.cluster.crew.Images` -----------------------------------------

    def flight(self) -> Flight:
        """What is in flight."""
        late = time.monotonic() - min(LATE, self.manner.deadline / 2)
        late_ones = [number for number, attempt in self.flying.items() if attempt.began < late]
        return Flight(list(self.flying), min(self.flying, default=self.next), late_ones)

    def came(self, party: str, opened: Opened) -> None:
        """Take an output."""
        attempt, numbers = self.flying.get(opened.input), self.crew.numbers
        if attempt is None or attempt.output.done():
            return
        if opened.ordinal != 0 or opened.payload.nbytes != NUMBERS.itemsize * numbers:
            got = f"message {opened.ordinal} of {opened.payload.nbytes} bytes"
            expected = f"message 0 of {NUMBERS.itemsize * numbers}"
            reason = f"answered nonsense: {got}; expected {expected}"
            self._fail(opened.input, FrameFailed(reason, link=(party, COORDINATOR)))
        else:
            attempt.output.set_result(np.frombuffer(opened.payload, NUMBERS).astype(np.float32))

    def failed(self, device: str, said: Failed) -> None:
        """A device has given an image up."""
        link = None if said.party is None else (said.party, device)
        self._fail(said.input, FrameFailed(said.reason, device=None if link else device, link=link))

    def lost(self, numbers: Sequence[int], trouble: Trouble) -> None:
        """Images are lost, those that are still in flight."""
        for number in numbers:
            self._fail(number, _failure(trouble))

    # --- what is known ----------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Whether images can be answered now, and the state of each device."""
        devices = [
            {"device": n, "state": "down" if why else "up", "reason": why or "", "links": dict(m.down)}
            for n, m in self.crew.members.items()
            for why in [m.trouble()]
        ]
        return {"ready": not self.crew.troubles(), "devices": devices, "in_flight": len(self.flying)}

    async def reports(self) -> dict[str, dict[str, Any]]:
        """What each party says of the last images; nothing from a worker that does not answer.

        See `cloven.runtime.cluster.joined.Joined.report`; ``offset`` is how far its clock is ahead of ours, in
        seconds, and ``uncertainty`` how far off that can be.
        """
        mine = {"steps": [], "images": list(self.times), "refused": {}, "offset": 0.0, "uncertainty": 0.0}
        mine["bytes"] = {name: peer.sent["bytes"] for name, peer in self.crew.peers.items()}
        asked = {name: member.ask_report() for name, member in self.crew.members.items() if member.joined}
        if asked:
            await asyncio.wait(asked.values(), timeout=REPORTING)
        done = {name: said.result() for name, said in asked.items() if said.done()}
        clocks = {n: {"offset": m.offset, "uncertainty": m.rtt / 2} for n, m in self.crew.members.items()}
        return {COORDINATOR: mine} | {name: said | clocks[name] for name, said in done.items()}


def _failure(trouble: Trouble) -> FrameFailed:
    device, *other = trouble.where
    if other:
        return FrameFailed(trouble.why, link=(device, other[0]), lost=True)
    return FrameFailed(trouble.why, device=device, lost=True)
