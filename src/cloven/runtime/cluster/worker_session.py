"""The state of a worker in one run: the images in flight, and the links to the other parties."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from cloven.process_memory import resident
from cloven.runtime.bundle.engine import Array
from cloven.runtime.bundle.schedule import Job, Message, Schedule
from cloven.runtime.cluster.batches import Batches
from cloven.runtime.cluster.diagnosis import DONE
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.events import Event, FrameReceived, LinkChanged
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.image_task import ImageTask
from cloven.runtime.cluster.peer_connections import PeerConnection
from cloven.runtime.cluster.protocol import (
    KEPT,
    ImageFailure,
    ImageState,
    RunTerms,
    WorkerMessage,
    WorkerReport,
    WorkerStatus,
)
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

log = logging.getLogger("cloven.worker")

QUICK = 0.01
"""A segment that took fewer seconds the last time runs in the event loop: switching threads would cost more.

It does not while a message is sent, which would wait for the end of the segment.
"""

Engine = Callable[[Job, dict[str, Array]], Mapping[str, Array]]


class WorkerSession:
    """A run that this worker takes part in.

    Attributes:
        connections: the links to the parties that it receives from or sends to.
        schedules: what to do for an image; with several, its number, modulo how many they are, selects one.
        tasks: the images in flight, by number.
        outcomes: the numbers of images that were finished, failed or dropped, and of messages that came too late.
        outbox: the messages to the coordinator; None marks the end.
    """

    def __init__(
        self,
        terms: RunTerms,
        schedules: Sequence[Schedule],
        links: Mapping[str, LinkSpec],
        engine: Engine,
        computing: Executor,
        aside: Executor,
    ) -> None:
        self.terms, self.schedules, self.engine, self.computing = terms, schedules, engine, computing
        self.took: dict[int, float] = {}
        self.batches = Batches(self._compute, terms.batch)
        self.tasks: dict[int, tuple[ImageTask, asyncio.Task[None]]] = {}
        self.finished: set[int] = set()
        self.dropped: set[int] = set()
        self.oldest = 0
        self.outcomes: Counter[str] = Counter()
        self.seconds = 0.0
        self.times: deque[tuple[int, ImageTask]] = deque(maxlen=KEPT)
        self.changed = asyncio.Event()
        self.outbox: asyncio.Queue[WorkerMessage | None] = asyncio.Queue()
        self.connections = {
            name: PeerConnection(link, name, self._on_event, self.is_stale, aside) for name, link in links.items()
        }

    def dial(self, me: str, identity: Identity | None) -> None:
        """Connect to all parties for which this device is the dialer; the others connect to us."""
        for name, connection in self.connections.items():
            if connection.link.dialer == me:
                connection.dial(self.terms.addresses[name], identity)

    async def connected(self, patience: float) -> dict[str, str]:
        """Wait until all links are up or one has failed finally; return the links that are down, with the reasons.

        If any has failed finally, only such links are returned.
        """
        connections = self.connections.values()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._reasons() and not any(connection.final for connection in connections):
                    self.changed.clear()
                    await self.changed.wait()
        return {c.name: c.reason for c in connections if c.final} or self._reasons()

    def _on_event(self, event: Event) -> None:
        """Act on an event of a link."""
        match event:
            case FrameReceived(party, frame):
                self._take(party, frame)
            case LinkChanged(party, up, reason):
                log.info("link", extra={"party": party, "up": up, "reason": reason})
                self.changed.set()
                self.tell(WorkerMessage(status=self.status()))

    def tell(self, message: WorkerMessage) -> None:
        """Queue a message to the coordinator."""
        self.outbox.put_nowait(message)

    async def close(self) -> None:
        """Close all links and cancel all images."""
        await asyncio.gather(*(connection.close() for connection in self.connections.values()))
        running = [running for _, running in self.tasks.values()]
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # --- images -----------------------------------------------------------------------------------------------

    def is_stale(self, number: int) -> bool:
        """Return whether an image is no longer awaited."""
        return number < self.oldest or number in self.dropped

    def _take(self, party: str, frame: Opened) -> None:
        number = frame.input
        if self.is_stale(number) or number in self.finished:
            self.outcomes["late"] += 1
            return
        try:
            if number not in self.tasks:
                self._begin(number)
            self.tasks[number][0].accept(party, frame.ordinal, frame.payload)
        except FrameFailed as error:
            self._fail(number, error.reason, party)

    def _begin(self, number: int) -> None:
        if len(self.tasks) >= 2 * self.terms.window:
            raise FrameFailed(
                f"more than {2 * self.terms.window} images are in flight, twice the window of the run"
            )
        task = self._task(number)
        self.tasks[number] = (task, asyncio.create_task(self._run(number, task)))

    def _task(self, number: int) -> ImageTask:
        return ImageTask(self.schedules[number % len(self.schedules)])

    async def _run(self, number: int, task: ImageTask) -> None:
        def send(message: Message, data: Sequence[Data]) -> Awaitable[None]:
            party, ordinal = message
            return self.connections[party].send(number, ordinal, data)

        try:
            await task.run(self._compute if self.terms.batch == 1 else self.batches.run, send)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base class
            self._fail(number, f"{type(error).__name__}: {error}".splitlines()[0], None)
            return
        self._close(number, "finished")
        self.seconds += sum(task.seconds)
        self.times.append((number, task))

    async def _compute(self, job: Job, inputs: dict[str, Array]) -> tuple[Mapping[str, Array], float]:
        def timed() -> tuple[Mapping[str, Array], float]:
            start = time.perf_counter()
            made = self.engine(job, inputs)
            return made, time.perf_counter() - start

        await asyncio.sleep(0)  # the messages that are queued begin to be sent
        sending = any(connection.sending for connection in self.connections.values())
        if self.took.get(job.step, QUICK) < QUICK and not sending:
            made = timed()
        else:
            made = await asyncio.get_running_loop().run_in_executor(self.computing, timed)
        self.took[job.step] = made[1]
        return made

    def _fail(self, number: int, reason: str, party: str | None) -> None:
        self._close(number, "failed")
        self.tell(WorkerMessage(failed=ImageFailure(input=number, party=party, reason=reason)))

    def drop(self, numbers: Sequence[int]) -> None:
        """Drop images that are no longer awaited."""
        for number in numbers:
            if not self.is_stale(number) and number not in self.finished:
                self._close(number, "dropped" if number in self.tasks else "never seen")

    def _close(self, number: int, outcome: str) -> None:
        (self.finished if outcome == "finished" else self.dropped).add(number)
        self.outcomes[outcome] += 1
        _, running = self.tasks.pop(number, (None, None))
        if running is not None and running is not asyncio.current_task():
            running.cancel()

    def part(self, devices: Sequence[str]) -> None:
        """Close the links with devices that the coordinator has lost."""
        for name in devices:
            if name in self.connections:
                self.connections[name].give_up()

    def advance(self, oldest: int) -> None:
        """Drop the images below this number, which are no longer in flight, and those that are overdue."""
        self.oldest = max(self.oldest, oldest)
        late = time.monotonic() - self.terms.deadline - 1
        self.drop([n for n, (task, _) in self.tasks.items() if task.began < late])
        for number in [n for n in self.tasks if n < self.oldest]:
            self._close(number, "dropped")
        self.finished = {number for number in self.finished if number >= self.oldest}
        self.dropped = {number for number in self.dropped if number >= self.oldest}

    # --- reports to the coordinator ---------------------------------------------------------------------------

    def status(self, plan: str | None = None) -> WorkerStatus:
        """Return the links that are down, the current time, and the hash of the bundle for new runs."""
        return WorkerStatus(down=self._reasons(), time=time.time(), plan=plan)

    def state(self, number: int) -> ImageState:
        """Return the state of an image on this worker."""
        if number in self.tasks:
            return self.tasks[number][0].state
        return DONE if number in self.finished else self._task(number).state

    def _reasons(self) -> dict[str, str]:
        return {name: connection.reason for name, connection in self.connections.items() if not connection.up}

    def counts(self) -> Counter[tuple[str, ...]]:
        """Return the counters of this run, by name and labels; see `cloven.runtime.cluster.metrics`."""
        found: Counter[tuple[str, ...]] = Counter({("image", name): n for name, n in self.outcomes.items()})
        found["seconds",] = self.seconds  # type: ignore[assignment]
        for party, connection in self.connections.items():
            for direction, counted in (("sent", connection.sent), ("received", connection.received)):
                found.update({(what, party, direction): n for what, n in counted.items()})
            found.update({("refused", party, reason): n for reason, n in connection.refused.items()})
            found["losses", party] = connection.losses
        return found

    def report(self) -> WorkerReport:
        """Return the times of the last images and the counters of the links."""
        refused: dict[str, dict[str, int]] = {}
        clock: dict[str, dict[Literal["sealing", "opening"], float]] = {}
        for name, connection in self.connections.items():
            clock[name] = {"sealing": connection.clock["sealing"], "opening": connection.clock["opening"]}
            if connection.refused:
                refused[name] = {str(reason): n for reason, n in connection.refused.items()}
        return WorkerReport(
            steps=[job.step for job in self.schedules[0].jobs] if len(self.schedules) == 1 else [],
            images=[task.times(number) for number, task in self.times],
            refused=refused,
            bytes={name: c.sent["bytes"] for name, c in self.connections.items()},
            clock=clock,
            finished=self.outcomes["finished"],
            processor=time.process_time(),
            memory=peak_memory(),
        )


def peak_memory() -> int | None:
    """Return the most bytes of memory that this process has used so far; None if the system does not report it."""
    try:
        return resident().most
    except OSError:
        return None
