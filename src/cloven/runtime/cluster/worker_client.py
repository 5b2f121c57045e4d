"""The coordinator's client of one worker: its description, its membership in a run, and its last reported state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc.aio

from cloven.files import TOML_BYTES
from cloven.partition.plan import Plan, check
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.channels import (
    CLOSED,
    CONTROL,
    DESCRIBE,
    MEASURE,
    ROOM,
    MessageStream,
    channel,
    in_words,
)
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.events import Emit, ImageGivenUp, WorkerChanged, WorkerLinkLost
from cloven.runtime.cluster.in_flight import InFlight
from cloven.runtime.cluster.protocol import (
    USUAL_BYTES,
    VERSION,
    DescribeRequest,
    ImageState,
    JoinRequest,
    LinkMeasurement,
    MeasureReply,
    MeasureRequest,
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
"""The timeout of a request for a worker's description in seconds."""

MEASURING = 60.0
"""The timeout of a request to measure a link in seconds: more than a worker takes at most."""

LEAVING = 1.0
"""Seconds that a worker has to leave a run."""

LARGEST = 2**26
"""The size in bytes of the largest control message: the report of a run, sent only on request."""

LARGEST_DESCRIPTION = 6 * TOML_BYTES
"""The size in bytes of the longest description: it contains a plan, and perhaps tasks, whose quotes are escaped."""


async def describe(
    worker: str,
    address: str,
    identity: Identity | None,
    plan: str | None = None,
    device: str | None = None,
    *,
    tasks: bool = False,
) -> WorkerDescription:
    """Request the description of a part of a worker.

    Args:
        worker: the name of the worker.
        address: its address.
        identity: our keys, for TLS.
        plan: the hash of the plan's bundle; default: the worker's current one.
        device: the device of that plan; default: the one that the worker is.
        tasks: request the tasks of all parts instead.

    Raises:
        PartyError: if the request fails.
        LinkError: if the worker uses another version of the protocol, or its answer is malformed.
    """
    wanted = DescribeRequest(cloven=VERSION, plan=plan, device=device, tasks=tasks)
    answer = await ask(worker, address, identity, DESCRIBE, wanted.encode(), ANSWER)
    return read(WorkerDescription, answer, worker, most=LARGEST_DESCRIPTION)


async def describe_part(
    worker: str, address: str, identity: Identity | None, plan: Plan, device: str
) -> WorkerDescription:
    """Request the description of a device's part in a plan; if the worker has not loaded it, of another part.

    Args:
        worker: the name of the worker.
        address: its address.
        identity: our keys, for TLS.
        plan: the plan, whose bundle may be the current one of the worker or another one.
        device: the device.

    Raises:
        PartyError: if a request fails.
        LinkError: as `describe`.
    """
    current = found = await describe(worker, address, identity, device=device)
    for other in current.others:
        if check(found.plan_text)[0] == plan:
            return found
        found = await describe(worker, address, identity, other, device)
    return found if check(found.plan_text)[0] == plan else current


async def measure(device: str, address: str, identity: Identity | None, link: MeasureRequest) -> LinkMeasurement:
    """Request that a worker measures its link with another party.

    Raises:
        PartyError: if the request fails, or the worker cannot measure the link.
        LinkError: as `describe`.
    """
    answer = await ask(device, address, identity, MEASURE, link.encode(), MEASURING)
    reply = read(MeasureReply, answer, device)
    if reply.link is None:
        raise PartyError(device, reply.refused or "did not measure the link")
    return reply.link


async def ask(
    device: str, address: str, identity: Identity | None, method: str, question: bytes, timeout: float
) -> bytes:
    """Return a worker's answer to one request, within ``timeout`` seconds.

    Raises:
        PartyError: if the request fails.
    """
    async with channel(device, address, identity, LARGEST - ROOM, quick=True) as to:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = to.unary_unary(method)
        with in_words(device, address):
            return await call(question, timeout=timeout)


class WorkerClient:
    """One worker of a run.

    Emits `WorkerChanged`, `WorkerLinkLost` and `ImageGivenUp`.

    Attributes:
        joined: whether the worker takes part in the run; all its links have been up at least once.
        reason, final: why it does not take part, and whether trying again is known to be useless.
        down: its links that are down now, with the reasons.
        states: the worker's state of each late image.
        current: the hash of the bundle that the worker uses for new runs, as it last reported it.
        offset: seconds that the worker's clock is ahead of ours; ``rtt`` is the shortest round trip so far.
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
        self.current: str | None = None
        self.stream: MessageStream | None = None
        self.dropped: list[int] = []
        self.parted: list[str] = []
        self.report: asyncio.Future[WorkerReport] | None = None
        self.news, self.apart = asyncio.Event(), asyncio.Event()

    @property
    def silent(self) -> float:
        """Return the seconds between its last message and our last request."""
        return max(0.0, self.asked - self.heard)

    def trouble(self, silence: float = SILENT) -> str | None:
        """Return why the worker cannot be used now; one that is silent for ``silence`` seconds counts as hung."""
        if not self.joined:
            return self.reason
        return f"has not answered for {self.silent:.1f} s" if self.silent > silence else None

    async def take_part(self, request: JoinRequest) -> None:
        """Let the worker join the run, and receive its messages until the connection ends.

        Raises:
            PartyError: always: with the reason why it did not join, or why it was lost.
        """
        async with channel(self.device, self.address, self.identity, LARGEST - ROOM, quick=True) as to:
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
        """Record why the worker no longer takes part."""
        self.joined, self.reason, self.final = False, error.reason, not error.again
        self.current = None

    async def leave(self) -> None:
        """Leave the worker, and wait until it has left the run, so that it is free for the next one."""
        if self.stream is not None and not self.apart.is_set():
            with suppress(PartyError, TimeoutError):
                async with asyncio.timeout(LEAVING):
                    await self.stream.finish()
                    await self.apart.wait()

    def drop(self, number: int) -> None:
        """Tell the worker to drop an image that is no longer awaited."""
        if self.joined:
            self.dropped.append(number)
            self.news.set()

    def part(self, device: str) -> None:
        """Tell the worker to close its link with a device that has left the run."""
        if self.joined:
            self.parted.append(device)
            self.news.set()

    def ask_report(self) -> asyncio.Future[WorkerReport]:
        """Request the worker's report; if the worker is lost, the future never completes."""
        self.report = asyncio.get_running_loop().create_future()
        self.news.set()
        return self.report

    async def _tell(self, stream: MessageStream, request: JoinRequest) -> None:
        """Send the requests; the reader of the stream notices when it ends."""
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
                # If this took longer than PING, our own process was busy: do not count that time as the worker's.
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
        """Return whether a report was requested and has not arrived."""
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
            self.current = said.status.plan or self.current
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
        """Estimate the clock offset from the shortest round trip, as in NTP."""
        now = time.time()
        rtt = now - ping
        if 0 <= rtt < self.rtt:
            self.rtt, self.offset = rtt, theirs - (now - rtt / 2)
