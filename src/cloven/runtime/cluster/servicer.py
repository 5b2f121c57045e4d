"""The gRPC service of a worker: it answers a coordinator, one at a time, and the other devices."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cloven.errors import ClovenError
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.channels import CONTROL, DESCRIBE, HEALTH, LINK, SERVING, MessageStream
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.loaded_part import LoadedPart
from cloven.runtime.cluster.protocol import Hello, JoinRequest, RunTerms, StatusRequest, WorkerMessage, read
from cloven.runtime.cluster.worker_session import WorkerSession
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.handshake import FirstMessages

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven.worker")

WINDOW = 256
"""Most images in flight that a coordinator may ask for."""

JOINING = 20.0
"""Seconds in which the links of a run must come up."""

SILENT, TICK = 8.0, 0.5
"""Seconds of silence after which a coordinator counts as hung, and the seconds between two looks."""

STRANGERS = 256
"""The most streams that wait for their first message."""

GOODBYE = 0.5
"""Seconds in which a coordinator is told the last of a run."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[Any, Context], Awaitable[None]]


class WorkerServicer:
    """Answers a coordinator and the other devices.

    Attributes:
        session: the run that it takes part in, if any.
        past: the counters of earlier runs.
        firsts: the first messages of the handshakes that were answered, in any run.
        leaving: the tasks that still end earlier runs.
    """

    def __init__(self, part: LoadedPart, identity: Identity | None, *, tls: bool) -> None:
        self.part, self.identity = part, identity
        self.tls = identity if tls else None
        self.session: WorkerSession | None = None
        self.runs = 0
        self.past: Counter[tuple[str, ...]] = Counter()
        self.leaving: set[asyncio.Task[None]] = set()
        self.firsts, self.strangers = FirstMessages(), HalfOpen(STRANGERS, frame_stream.HANDSHAKE)
        self.stopping = asyncio.Event()
        # One thread computes; what else takes long (ciphers) has its own, so that both can go on.
        self.computing, self.aside = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def counts(self) -> Counter[tuple[str, ...]]:
        """Return the counters of this run and of those before."""
        return self.past + (self.session.counts() if self.session else Counter())

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the server's methods."""
        methods: dict[str, Any] = {
            DESCRIBE: grpc.unary_unary_rpc_method_handler(self.describe),
            HEALTH: grpc.unary_unary_rpc_method_handler(self.health),
            CONTROL: grpc.stream_stream_rpc_method_handler(_quietly(self.control)),
            LINK: grpc.stream_stream_rpc_method_handler(_quietly(self.link)),
        }

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return methods.get(str(call.method))

        return Handlers()

    async def describe(self, _: bytes, _context: Context) -> bytes:
        """Answer with the description of the part."""
        return self.part.description(self.session.terms.run if self.session else None).encode()

    async def health(self, _: bytes, _context: Context) -> bytes:
        """Answer as grpc.health.v1: serving."""
        return SERVING

    # --- a coordinator ----------------------------------------------------------------------------------------

    async def control(self, _: Any, context: Context) -> None:
        """Take part in a run, for as long as its coordinator stays."""
        stream = MessageStream(COORDINATOR, context)
        try:
            # To one who is still writing, gRPC does not always say why he is refused.
            message = await self._first(stream)
            await self._must_be(COORDINATOR, context)
            session = self._join(read(JoinRequest, message, COORDINATOR).join)
        except ClovenError as error:
            self._refused("control", str(error), context)
            await frame_stream.refuse(stream, str(error))
            return
        self.session, self.runs = session, self.runs + 1
        log.info("joined", extra={"run": session.terms.run})
        telling = asyncio.create_task(_tell(session, stream))
        joining = asyncio.create_task(_tell_when_connected(session))
        heard = asyncio.Event()
        listening = asyncio.create_task(self._listen(session, stream, heard, context))
        hanging = asyncio.create_task(_hangs(heard))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            session.dial(self.part.device, self.tls)
            ends = {listening, telling, stopping, hanging}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if hanging.done():
                log.info("lost", extra={"party": COORDINATOR, "reason": f"has said nothing for {SILENT:g} s"})
            if self.stopping.is_set():
                session.tell(WorkerMessage(stopping=True))
        finally:
            self.session = None
            for task in (joining, listening, stopping, hanging):
                task.cancel()
            self.past += session.counts()
            # A coordinator that has gone cancels us, but what is left to do is done to its end.
            leaving = asyncio.create_task(_leave(session, telling))
            self.leaving.add(leaving)
            leaving.add_done_callback(self.leaving.discard)
            await asyncio.shield(leaving)

    async def _first(self, stream: MessageStream) -> bytes | None:
        """Return the first message of a peer that we do not know yet.

        Raises:
            LinkError: if none comes in time, or too many wait.
        """
        try:
            async with self.strangers.place():
                return await stream.read()
        except TimeoutError:
            raise LinkError(
                f"no first message came within {frame_stream.HANDSHAKE:g} s, or too many waited"
            ) from None

    def _join(self, terms: RunTerms) -> WorkerSession:
        problems = []
        if terms.plan != self.part.plan:
            problems.append(f"the bundle is another plan's: {self.part.plan[:12]}, not {terms.plan[:12]}")
        if self.session is not None:
            problems.append(f"is busy with run {self.session.terms.run}; one coordinator at a time")
        if not 1 <= terms.window <= WINDOW:
            problems.append(f"window must be between 1 and {WINDOW}, got {terms.window}")
        links = {party: self.part.link(terms.run, party, self.identity) for party in self.part.schedule.parties}
        dialled = [party for party, link in links.items() if link.dialer == self.part.device]
        unknown = sorted(set(dialled) - terms.addresses.keys())
        if unknown:
            problems.append(f"no address was given of {', '.join(unknown)}")
        if problems:
            raise ClovenError(problems)
        return WorkerSession(terms, self.part.schedule, links, self.part.engine, self.computing, self.aside)

    async def _listen(
        self, session: WorkerSession, stream: MessageStream, heard: asyncio.Event, context: Context
    ) -> None:
        """Do what the coordinator asks, until it goes or sends a malformed message."""
        try:
            while (message := await stream.read()) is not None:
                heard.set()
                asked = read(StatusRequest, message, COORDINATOR)
                session.advance(asked.oldest)
                session.drop(asked.drop)
                session.part(asked.lost)
                states = {number: session.state(number) for number in asked.late}
                session.tell(WorkerMessage(status=session.status(), ping=asked.ping, states=states))
                if asked.report:
                    session.tell(WorkerMessage(report=session.report()))
        except PartyError as error:
            log.info("lost", extra={"party": COORDINATOR, "reason": error.reason})
        except LinkError as error:
            self._refused("control", str(error), context)

    # --- the other parties ------------------------------------------------------------------------------------

    async def link(self, _: Any, context: Context) -> None:
        """Carry a stream that another party has dialled."""
        stream = MessageStream("the dialer", context)
        try:
            hello = read(Hello, await self._first(stream), "the dialer")
        except ClovenError as error:
            self._refused("handshake", str(error), context)
            await frame_stream.refuse(stream, str(error))
            return
        party, session = hello.dialer, self.session
        await self._must_be(party, context)
        if session is None or hello.run != session.terms.run:
            await frame_stream.refuse(stream, f"{self.part.device} is not in this run (yet)", again=True)
            return
        connection = session.connections.get(party)
        if connection is None or connection.link.dialer != party or hello.other != self.part.device:
            reason = f"{party} has no link to dial to {self.part.device} in this plan"
            self._refused("handshake", reason, context)
            await frame_stream.refuse(stream, reason)
            return
        try:
            await connection.accept(MessageStream(party, context), hello, self.firsts)
        except ClovenError as error:
            log.warning("refused", extra={"reason": str(error), "peer": context.peer(), "party": party})

    async def _must_be(self, party: str, context: Context) -> None:
        """Abort the call if the TLS certificate is not the party's; without TLS nothing is known of it."""
        if self.tls is None:
            return
        from cloven.runtime.link.identity import peer_name

        name = peer_name(context)
        if name != party:
            reason = f"the certificate is {name}'s, not {party}'s"
            self._refused("certificate", reason, context)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)

    def _refused(self, what: str, reason: str, context: Context) -> None:
        """Count and log a refusal; the name of a peer that was refused is not believed."""
        self.past["refused", "unknown", what] += 1
        log.warning("refused", extra={"reason": reason, "peer": context.peer()})


def _quietly(answer: Handler) -> Handler:
    """Return a handler that ends quietly when the peer has gone."""

    async def handler(request: Any, context: Context) -> None:
        try:
            await answer(request, context)
        except PartyError as error:
            log.info("gone", extra={"reason": str(error), "peer": context.peer()})
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("an error of cloven's own")
            raise

    return handler


async def _tell(session: WorkerSession, stream: MessageStream) -> None:
    """Send the session's messages, until there are no more or the coordinator has gone."""
    with suppress(PartyError):
        while (message := await session.outbox.get()) is not None:
            await stream.write(message.encode())


async def _leave(session: WorkerSession, telling: asyncio.Task[None]) -> None:
    """Send the last messages, and end the links."""
    session.outbox.put_nowait(None)
    # A handler that ends while its last message is being written never tells that it has ended.
    await asyncio.wait({telling}, timeout=GOODBYE)
    telling.cancel()
    await session.close()
    log.info("left", extra={"run": session.terms.run, "outcomes": dict(session.outcomes)})


async def _hangs(heard: asyncio.Event) -> None:
    """Wait until nothing is heard for a time in which we ourselves were running."""
    ticks = 0
    while ticks * TICK < SILENT:
        await asyncio.sleep(TICK)
        ticks = 0 if heard.is_set() else ticks + 1
        heard.clear()


async def _tell_when_connected(session: WorkerSession) -> None:
    down = await session.connected(JOINING)
    session.tell(WorkerMessage(joined=not down, down=down))
