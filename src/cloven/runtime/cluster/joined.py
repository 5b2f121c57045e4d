"""A worker's side of one run: the images in flight, and the links to the other parties."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cloven.runtime.bundle.engine import Array
from cloven.runtime.bundle.schedule import Job, Message, Schedule
from cloven.runtime.cluster.blame import State
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.messages import KEPT, Terms
from cloven.runtime.cluster.peers import Listener, Peer
from cloven.runtime.cluster.wire import Line
from cloven.runtime.cluster.work import Work
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

log = logging.getLogger("cloven.worker")

QUICK = 0.01
"""A segment that took fewer seconds the last time runs in the event loop: a thread's turn would cost more."""

Engine = Callable[[Job, dict[str, Array]], Mapping[str, Array]]
Tell = Callable[[Mapping[str, Any]], None]
"""Takes a message to the coordinator."""


class Joined:
    """A run that this worker takes part in.

    Attributes:
        peers: the parties that it hears from or sends to.
        works: the images in flight, by their numbers.
        outcomes: how many images were finished, failed or dropped, and how many messages came for such.
    """

    def __init__(
        self, terms: Terms, schedule: Schedule, lines: Mapping[str, Line], engine: Engine, tell: Tell,
        computing: Executor, aside: Executor,
    ) -> None:  # fmt: skip
        self.terms, self.schedule, self.engine, self.tell = terms, schedule, engine, tell
        self.computing = computing
        self.took: dict[int, float] = {}
        self.works: dict[int, tuple[Work, asyncio.Task[None]]] = {}
        self.finished: set[int] = set()
        self.dropped: set[int] = set()
        self.oldest = 0
        self.outcomes: Counter[str] = Counter()
        self.seconds = 0.0
        self.times: deque[tuple[int, Work]] = deque(maxlen=KEPT)
        self.changed = asyncio.Event()
        listener = Listener(self.came, self._changed, self.stale)
        self.peers = {name: Peer(name, line, listener, aside) for name, line in lines.items()}

    def dial(self, me: str, identity: Identity | None) -> None:
        """Connect to all parties that we dial; the others dial us."""
        for name, peer in self.peers.items():
            if peer.line.dialer == me:
                peer.dial(self.terms.addresses[name], identity)

    async def connected(self, patience: float) -> dict[str, str]:
        """Wait until all links are up, or one of them never will be: the reasons of those that are not.

        Those that never will be come alone.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._reasons() and not any(peer.final for peer in self.peers.values()):
                    self.changed.clear()
                    await self.changed.wait()
        return {name: peer.reason for name, peer in self.peers.items() if peer.final} or self._reasons()

    def _changed(self, peer: Peer) -> None:
        log.info("link", extra={"party": peer.name, "up": peer.up, "reason": peer.reason})
        self.changed.set()
        self.tell(self.status())

    async def close(self) -> None:
        """Give everything up."""
        await asyncio.gather(*(peer.close() for peer in self.peers.values()))
        tasks = [task for _, task in self.works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- images -----------------------------------------------------------------------------------------------

    def stale(self, number: int) -> bool:
        """Whether nobody waits for an image any more."""
        return number < self.oldest or number in self.dropped

    def came(self, party: str, opened: Opened) -> None:
        """Take in a frame."""
        number = opened.input
        if self.stale(number) or number in self.finished:
            self.outcomes["late"] += 1
            return
        try:
            if number not in self.works:
                self._begin(number)
            self.works[number][0].accept(party, opened.ordinal, opened.payload)
        except FrameFailed as error:
            self._fail(number, error.reason, party)

    def _begin(self, number: int) -> None:
        if len(self.works) >= 2 * self.terms.window:
            raise FrameFailed(f"more than {2 * self.terms.window} images are in flight; the run asked for fewer")
        work = Work(self.schedule)
        self.works[number] = (work, asyncio.create_task(self._through(number, work)))

    async def _through(self, number: int, work: Work) -> None:
        try:
            await work.through(self._compute, lambda message, data: self._send(number, message, data))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # onnxruntime's errors have no class of their own
            self._fail(number, f"{type(error).__name__}: {error}".splitlines()[0], None)
            return
        self._close(number, "finished")
        self.seconds += sum(work.seconds)
        self.times.append((number, work))

    async def _compute(self, job: Job, inputs: dict[str, Array]) -> tuple[Mapping[str, Array], float]:
        if self.took.get(job.step, QUICK) < QUICK:
            made = self._timed(job, inputs)
        else:
            made = await asyncio.get_running_loop().run_in_executor(self.computing, self._timed, job, inputs)
        self.took[job.step] = made[1]
        return made

    def _timed(self, job: Job, inputs: dict[str, Array]) -> tuple[Mapping[str, Array], float]:
        start = time.perf_counter()
        made = self.engine(job, inputs)
        return made, time.perf_counter() - start

    def _send(self, number: int, message: Message, data: Sequence[Data]) -> Awaitable[None]:
        party, ordinal = message
        return self.peers[party].send(number, ordinal, data)

    def _fail(self, number: int, reason: str, party: str | None) -> None:
        self._close(number, "failed")
        self.tell({"failed": {"input": number, "from": party, "reason": reason}})

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget images that nobody waits for any more."""
        for number in numbers:
            if not self.stale(number) and number not in self.finished:
                self._close(number, "dropped" if number in self.works else "never seen")

    def _close(self, number: int, outcome: str) -> None:
        (self.finished if outcome == "finished" else self.dropped).add(number)
        self.outcomes[outcome] += 1
        _, task = self.works.pop(number, (None, None))
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def part(self, devices: Sequence[str]) -> None:
        """Give up the links with devices that the coordinator has lost."""
        for name in devices:
            if name in self.peers:
                self.peers[name].give_up()

    def advance(self, oldest: int) -> None:
        """Nothing below this number is in flight any more; what is overdue is forgotten too."""
        self.oldest = max(self.oldest, oldest)
        late = time.monotonic() - self.terms.deadline - 1
        self.drop([n for n, (work, _) in self.works.items() if work.began < late])
        for number in [n for n in self.works if n < self.oldest]:
            self._close(number, "dropped")
        self.finished = {number for number in self.finished if number >= self.oldest}
        self.dropped = {number for number in self.dropped if number >= self.oldest}

    # --- what the coordinator is told -------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Which links are down, and the time."""
        return {"status": {"down": self._reasons(), "time": time.time()}}

    def states(self, numbers: Sequence[int]) -> dict[str, Any]:
        """What we do about some images: a word, and the parties that we wait for."""
        return {str(number): asdict(self._state(number)) for number in numbers}

    def _state(self, number: int) -> State:
        if number in self.works:
            return self.works[number][0].state
        return State("done") if number in self.finished else Work(self.schedule).state

    def _reasons(self) -> dict[str, str]:
        return {name: peer.reason for name, peer in self.peers.items() if not peer.up}

    def counts(self) -> Counter[tuple[str, ...]]:
        """What was counted in this run: a name and labels each; see `cloven.runtime.cluster.metrics`."""
        found: Counter[tuple[str, ...]] = Counter({("image", name): n for name, n in self.outcomes.items()})
        found["seconds",] = self.seconds  # type: ignore[assignment]
        for party, peer in self.peers.items():
            for direction, counted in (("sent", peer.sent), ("received", peer.received)):
                found.update({(what, party, direction): n for what, n in counted.items()})
            found.update({("refused", party, reason): n for reason, n in peer.refused.items()})
            found["losses", party] = peer.losses
        return found

    def report(self) -> dict[str, Any]:
        """The times of the last images: each job's seconds, and when each message was sent and came."""
        jobs = [job.step for job in self.schedule.jobs]
        images = [
            {
                "input": number,
                "seconds": [round(s, 7) for s in work.seconds],
                "sent": [[party, k, at] for (party, k), at in work.sent.items()],
                "came": [[party, k, at] for (party, k), at in work.came.items()],
            }
            for number, work in self.times
        ]
        refused = {name: dict(peer.refused) for name, peer in self.peers.items() if peer.refused}
        sent = {name: peer.sent["bytes"] for name, peer in self.peers.items()}
        clock = {name: dict(peer.clock) for name, peer in self.peers.items()}
        done = self.outcomes["finished"]
        facts = {"refused": refused, "bytes": sent, "clock": clock, "finished": done}
        return {"report": {"steps": jobs, "images": images, **facts}}
