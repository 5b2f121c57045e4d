"""The coordinator's client of one worker: whether it takes part in the run, and what it last reported."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc.aio

from cloven.files import TOML_BYTES
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.channels import CLOSED, CONTROL, DESCRIBE, ROOM, MessageStream, channel, in_words
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.events import Emit, ImageGivenUp, WorkerChanged, WorkerLinkLost
from cloven.runtime.cluster.in_flight import InFlight
from cloven.runtime.cluster.protocol import (
    USUAL_BYTES,
    ImageState,
    JoinRequest,
    StatusRequest,
    WorkerDescription,
    WorkerMessage,
    WorkerReport,
    read,
)
from cloven.runtime.link.errors import LinkError

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

PING = 0.25
"""Seconds between two status requests."""

SILENT = 3.0
"""Seconds without an answer after which a worker counts as hung."""

ANSWER = 5.0
"""Seconds in which a worker that is there describes itself."""

LEAVING = 1.0
"""Seconds that a worker has to let go of a run."""

LARGEST = 2**26
"""Bytes of the largest control message: the report of a run, which we have asked for."""

LARGEST_DESCRIPTION = 3 * TOML_BYTES
"""Bytes of the longest description: it holds a plan, whose quotes are escaped."""


class WorkerClient:
    """One worker of a run.

    Emits `WorkerChanged`, `WorkerLinkLost` and `ImageGivenUp`.

    Attributes:
        joined: whether it takes part, with all its links up at least once.
        reason, final: why not, and whether that is for good, by all that is known.
        down: its links that are down now, and why.
        states: what the worker does about images that are late.
        offset: seconds that the worker's clock is ahead of ours; ``rtt`` is the shortest round trip seen.
    """

    def __init__(
        self,
        device: str,
        addresses: Mapping[str, str],
        identity: Identity | None,
        in_flight: InFlight,
        emit: Emit,
    ) -> None:
        self.device, self.address, self.identity = device, addresses[device], identity
        self._in_flight, self._emit = in_flight, emit
        self.parties = frozenset({COORDINATOR, *addresses})
        self.joined, self.reason, self.final = False, "not connected yet", False
        self.down: dict[str, str] = {}
        self.states: dict[int, ImageState] = {}
        self.heard = self.asked = time.monotonic()
        self.offset, self.rtt = 0.0, float("inf")
        self.stream: MessageStream | None = None
        self.dropped: list[int] = []
        self.parted: list[str] = []
        self.report: asyncio.Future[WorkerReport] | None = None
        self.news, self.apart = asyncio.Event(), asyncio.Event()

    @property
    def silent(self) -> float:
        """Return the seconds in which nothing was heard of it, up to our last request."""
        return max(0.0, self.asked - self.heard)

    def trouble(self, silence: float = SILENT) -> str | None:
        """Return why it cannot be used now; a worker that has been silent for longer counts as hung."""
        if not self.joined:
            return self.reason
        return f"has not answered for {self.silent:.1f} s" if self.silent > silence else None

    def _channel(self) -> grpc.aio.Channel:
        return channel(self.device, self.address, self.identity, LARGEST - ROOM, quick=True)

    async def describe(self) -> WorkerDescription:
        """Ask what the worker has loaded.

        Raises:
            PartyError: if it cannot be asked.
            LinkError: if it does not speak our protocol.
        """
        async with self._channel() as to:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = to.unary_unary(DESCRIBE)
            with in_words(self.device, self.address):
                answer = await ask(b"", timeout=ANSWER)
        return read(WorkerDescription, answer, self.device, most=LARGEST_DESCRIPTION)

    async def take_part(self, request: JoinRequest) -> None:
        """Join the run and stay until the connection ends; then it is lost.

        Raises:
            PartyError: with why it did not join, or why it was lost.
        """
        async with self._channel() as to:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(CONTROL)()
            self.stream = stream = MessageStream(self.device, call, self.address)
            self.dropped, self.parted, self.down, self.states = [], [], {}, {}
            self.apart.clear()
            telling = asyncio.create_task(self._tell(stream, request))
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

    def lose(self, error: PartyError) -> None:
        """Note why it takes part no more."""
        self.joined, self.reason, self.final = False, error.reason, not error.again

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

    def ask_report(self) -> asyncio.Future[WorkerReport]:
        """Ask for the worker's report; the future is never done if the worker is lost."""
        self.report = asyncio.get_running_loop().create_future()
        self.news.set()
        return self.report

    async def _tell(self, stream: MessageStream, request: JoinRequest) -> None:
        """Send the requests; the reader notices when the stream ends."""
        with suppress(PartyError):
            await stream.write(request.encode())
            self.heard = self.asked = time.monotonic()
            while True:
                before = time.monotonic()
                with suppress(TimeoutError):
                    async with asyncio.timeout(PING):
                        await self.news.wait()
                self.news.clear()
                self.asked = time.monotonic()
                # If that took longer, our own process was busy: the silence was not the worker's.
                self.heard += max(0.0, self.asked - before - PING)
                question = StatusRequest(
                    oldest=self._in_flight.oldest,
                    late=self._in_flight.late,
                    drop=self.dropped,
                    lost=self.parted,
                    ping=time.time(),
                    report=self.reporting,
                )
                self.dropped, self.parted = [], []
                await stream.write(question.encode())

    @property
    def reporting(self) -> bool:
        """Return whether a report is due."""
        return self.report is not None and not self.report.done()

    def _take(self, message: bytes) -> None:
        most = LARGEST if self.reporting else USUAL_BYTES
        said = read(WorkerMessage, message, self.device, self.parties, most)
        self.heard = time.monotonic()
        if said.refused is not None:
            raise PartyError(self.device, said.refused, again=said.again)
        if said.stopping:
            raise PartyError(self.device, "was stopped", again=True)
        if said.joined is not None:
            if not said.joined:
                links = [f"no link with {party}: {reason}" for party, reason in said.down.items()]
                raise PartyError(self.device, "; ".join(links))
            self.joined, self.reason, self.final, self.down = True, "", False, {}
            self._emit(WorkerChanged(self.device))
        if said.status is not None:
            before, self.down = self.down, said.status.down
            if said.ping is not None:
                self._compare_clocks(said.ping, said.status.time)
            for party in self.down.keys() - before.keys() if self.joined else ():
                self._emit(WorkerLinkLost(self.device, party, self.down[party]))
            self._emit(WorkerChanged(self.device))
        if said.states is not None:
            self.states = said.states
        if said.failed is not None:
            self._emit(ImageGivenUp(self.device, said.failed))
        if said.report is not None and self.report is not None and self.reporting:
            self.report.set_result(said.report)

    def _compare_clocks(self, ping: float, theirs: float) -> None:
        """Estimate the clock's offset by the shortest round trip, as NTP does."""
        now = time.time()
        rtt = now - ping
        if 0 <= rtt < self.rtt:
            self.rtt, self.offset = rtt, theirs - (now - rtt / 2)
