"""The coordinator's view of one worker: joined to the run or not, and what it last said of itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc.aio

from cloven.files import TOML_BYTES
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.blame import State
from cloven.runtime.cluster.channels import CLOSED, CONTROL, DESCRIBE, ROOM, Stream, channel, in_words
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.messages import USUAL_BYTES, VERSION, Description, Failed, Status, Told, read
from cloven.runtime.link.errors import LinkError

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

PING = 0.25
"""Seconds between two questions to a worker."""

SILENT = 3.0
"""Seconds without an answer after which a worker counts as hung."""

ANSWER = 5.0
"""Seconds in which a worker that is there says what it holds."""

LEAVING = 1.0
"""Seconds that a worker has to let go of a run."""

LARGEST = 2**26
"""Bytes of the largest control message: the report of a run, which we have asked for."""

LARGEST_DESCRIPTION = 3 * TOML_BYTES
"""Bytes of the longest description: it holds a plan, whose quotes are escaped."""


@dataclass(frozen=True)
class Hears:
    """Whom a member tells: that one of its links was lost, that something changed, what a worker gave up."""

    link: Callable[[str, str, str], None]
    changed: Callable[[], None]
    failed: Callable[[str, Failed], None]


class Flight(NamedTuple):
    """The images in flight, the first that may be, and those that are late."""

    numbers: list[int]
    oldest: int
    late: list[int]


class Member:
    """One worker of a run.

    Attributes:
        joined: whether it takes part, with all its links up at least once.
        reason, final: why not, and whether that is for good, by all that is known.
        down: which of its links are down now, and why.
        states: what the worker does about images that are late.
        offset: seconds that the worker's clock is ahead of ours, and ``rtt`` the shortest round trip seen.
    """

    def __init__(self, device: str, addresses: Mapping[str, str], identity: Identity | None, hears: Hears) -> None:
        self.device, self.address, self.identity, self.hears = device, addresses[device], identity, hears
        self.parties = frozenset({COORDINATOR, *addresses})
        self.joined, self.reason, self.final = False, "not connected yet", False
        self.down: dict[str, str] = {}
        self.states: dict[int, State] = {}
        self.heard = self.asked = time.monotonic()
        self.offset, self.rtt = 0.0, float("inf")
        self.stream: Stream | None = None
        self.dropped: list[int] = []
        self.parted: list[str] = []
        self.report: asyncio.Future[dict[str, Any]] | None = None
        self.news, self.apart = asyncio.Event(), asyncio.Event()

    @property
    def silent(self) -> float:
        """For how many seconds nothing was heard of it, up to our last question."""
        return max(0.0, self.asked - self.heard)

    def trouble(self, silence: float = SILENT) -> str | None:
        """Why it cannot be used now; a worker that has been silent for longer counts as hung."""
        if not self.joined:
            return self.reason
        return f"has not answered for {self.silent:.1f} s" if self.silent > silence else None

    def channel(self) -> grpc.aio.Channel:
        """A channel to the worker."""
        return channel(self.device, self.address, self.identity, LARGEST - ROOM, quick=True)

    async def describe(self) -> Description:
        """What the worker holds.

        Raises:
            PartyError: where it cannot be asked.
            LinkError: where it does not speak our protocol.
        """
        async with self.channel() as to:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = to.unary_unary(DESCRIBE)
            with in_words(self.device, self.address):
                said = await ask(b"", timeout=ANSWER)
        return read(Description, said, self.device, most=LARGEST_DESCRIPTION)

    async def take_part(self, join: Mapping[str, Any], flight: Callable[[], Flight]) -> None:
        """Join the run and stay until the connection ends; then it is lost.

        Raises:
            PartyError: with why it did not join, or why it was lost.
        """
        async with self.channel() as to:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(CONTROL)()
            self.stream = stream = Stream(self.device, call, self.address)
            self.dropped, self.parted, self.down, self.states = [], [], {}, {}
            self.apart.clear()
            telling = asyncio.create_task(self._tell(stream, {"cloven": VERSION, "join": dict(join)}, flight))
            try:
                while (message := await stream.read()) is not None:
                    self._take(message)
                raise PartyError(self.device, CLOSED, again=True)
            except LinkError as error:
                raise PartyError(self.device, str(error)) from error
            finally:
                telling.cancel()
                stream.cancel()
                self.apart.set()

    async def leave(self) -> None:
        """Say that we go, and wait until the worker has let go of the run, so that it is free for the next."""
        if self.stream is not None and not self.apart.is_set():
            with suppress(PartyError, TimeoutError):
                async with asyncio.timeout(LEAVING):
                    await self.stream.finish()
                    await self.apart.wait()

    def drop(self, number: int) -> None:
        """Let the worker forget an image that nobody waits for any more."""
        if self.joined:
            self.dropped.append(number)
            self.news.set()

    def part(self, device: str) -> None:
        """Let the worker give up its link with a device that has left the run."""
        if self.joined:
            self.parted.append(device)
            self.news.set()

    def ask_report(self) -> asyncio.Future[dict[str, Any]]:
        """What the worker says of the run so far; for ever undone where it is lost."""
        self.report = asyncio.get_running_loop().create_future()
        self.news.set()
        return self.report

    async def _tell(self, stream: Stream, join: Mapping[str, Any], flight: Callable[[], Flight]) -> None:
        """What we have to say, and a question every so often; the reader notices when the stream ends."""
        with suppress(PartyError):
            await stream.write(json.dumps(join).encode())
            self.heard = self.asked = time.monotonic()
            while True:
                before = time.monotonic()
                with suppress(TimeoutError):
                    async with asyncio.timeout(PING):
                        await self.news.wait()
                self.news.clear()
                self.asked = time.monotonic()
                # Where that took longer, our own process was busy: the silence was not the worker's.
                self.heard += max(0.0, self.asked - before - PING)
                now = flight()
                message = {"oldest": now.oldest, "late": now.late, "drop": self.dropped, "lost": self.parted}
                self.dropped, self.parted = [], []
                clock = {"ping": time.time(), "report": self.reporting}
                await stream.write(json.dumps(message | clock).encode())

    @property
    def reporting(self) -> bool:
        """Return whether a report is due."""
        return self.report is not None and not self.report.done()

    def _take(self, message: bytes) -> None:
        most = LARGEST if self.reporting else USUAL_BYTES
        said = read(Told, message, self.device, self.parties, most)
        self.heard = time.monotonic()
        if said.refused is not None:
            raise PartyError(self.device, said.refused, again=said.again)
        if said.stopping:
            raise PartyError(self.device, "was stopped", again=True)
        if said.joined is not None:
            self._take_joined(said)
        if said.status is not None:
            before, self.down = self.down, said.status.down
            self._take_clock(said, said.status)
            for party in self.down.keys() - before.keys() if self.joined else ():
                self.hears.link(party, self.device, self.down[party])
            self.hears.changed()
        if said.states is not None:
            self.states = {n: State(state.doing, tuple(state.parties)) for n, state in said.states.items()}
        if said.failed is not None:
            self.hears.failed(self.device, said.failed)
        if said.report is not None and self.report is not None and self.reporting:
            self.report.set_result(said.report.model_dump())

    def _take_joined(self, said: Told) -> None:
        if not said.joined:
            links = [f"no link with {party}: {reason}" for party, reason in said.down.items()]
            raise PartyError(self.device, "; ".join(links))
        self.joined, self.reason, self.final, self.down = True, "", False, {}
        self.hears.changed()

    def _take_clock(self, said: Told, status: Status) -> None:
        """The clock's offset, by the shortest round trip: as NTP does it."""
        if said.ping is None:
            return
        now = time.time()
        rtt = now - said.ping
        if 0 <= rtt < self.rtt:
            self.rtt, self.offset = rtt, status.time - (now - rtt / 2)
