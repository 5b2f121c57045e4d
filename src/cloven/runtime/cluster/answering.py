"""What a worker answers: a coordinator, one at a time, and the other devices."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from cloven.errors import ClovenError
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import wire
from cloven.runtime.cluster.channels import CONTROL, DESCRIBE, HEALTH, LINK, SERVING, Stream
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.held import Held
from cloven.runtime.cluster.joined import Joined
from cloven.runtime.cluster.messages import Hello, Join, Question, read
from cloven.runtime.cluster.peers import accepted
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
"""Seconds of silence after which a coordinator counts as hung, and how often we look."""

STRANGERS = 256
"""How many streams may wait for their first message."""

GOODBYE = 0.5
"""Seconds in which a coordinator is told the last of a run."""

Told = asyncio.Queue[Mapping[str, Any] | None]
"""What a coordinator is to be told; None ends it."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[Any, Context], Awaitable[None]]


class Worker:
    """Answers a coordinator and the other devices.

    Attributes:
        joined: the run that it takes part in, if any.
        past: what earlier runs counted.
        firsts: the first messages of the handshakes that were answered, in any run.
        leaving: what still ends earlier runs.
    """

    def __init__(self, held: Held, identity: Identity | None, *, tls: bool) -> None:
        self.held, self.identity = held, identity
        self.tls = identity if tls else None
        self.joined: Joined | None = None
        self.runs = 0
        self.past: Counter[tuple[str, ...]] = Counter()
        self.leaving: set[asyncio.Task[None]] = set()
        self.firsts, self.strangers = FirstMessages(), HalfOpen(STRANGERS, wire.HANDSHAKE)
        self.stopping = asyncio.Event()
        # One thread computes; what else takes long (ciphers) has its own, so that both can go on.
        self.computing, self.aside = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def counts(self) -> Counter[tuple[str, ...]]:
        """All that was counted, in this run and before."""
        return self.past + (self.joined.counts() if self.joined else Counter())

    def handlers(self) -> grpc.GenericRpcHandler:
        """What the server answers."""
        methods: dict[str, Any] = {
            DESCRIBE: grpc.unary_unary_rpc_method_handler(self.describe),
            HEALTH: grpc.unary_unary_rpc_method_handler(self.health),
            CONTROL: grpc.stream_stream_rpc_method_handler(_while_there(self.control)),
            LINK: grpc.stream_stream_rpc_method_handler(_while_there(self.link)),
        }

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return methods.get(str(call.method))

        return Handlers()

    async def describe(self, _: bytes, _context: Context) -> bytes:
        """What the worker holds."""
        busy = self.joined.terms.run if self.joined else None
        return json.dumps(self.held.described() | {"run": busy}).encode()

    async def health(self, _: bytes, _context: Context) -> bytes:
        """As grpc.health.v1: serving."""
        return SERVING

    # --- a coordinator ----------------------------------------------------------------------------------------

    async def control(self, _: Any, context: Context) -> None:
        """A run, for as long as its coordinator stays."""
        stream, told = Stream(COORDINATOR, context), Told()
        try:
            # To one who is still writing, gRPC does not always say why he is refused.
            message = await self._first(stream)
            await self._must_be(COORDINATOR, context)
            joined = self._join(read(Join, message, COORDINATOR), told)
        except ClovenError as error:
            self._refused("control", str(error), context)
            await wire.refuse(stream, str(error))
            return
        self.joined, self.runs = joined, self.runs + 1
        log.info("joined", extra={"run": joined.terms.run})
        telling = asyncio.create_task(_tell_all(told, stream))
        joining = asyncio.create_task(_tell_when_connected(joined))
        heard = asyncio.Event()
        listening = asyncio.create_task(self._listen(joined, stream, heard, context))
        hanging = asyncio.create_task(_hangs(heard))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            joined.dial(self.held.device, self.tls)
            ends = {listening, telling, stopping, hanging}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if hanging.done():
                log.info("lost", extra={"party": COORDINATOR, "reason": f"has said nothing for {SILENT:g} s"})
            if self.stopping.is_set():
                joined.tell({"stopping": True})
        finally:
            self.joined = None
            for task in (joining, listening, stopping, hanging):
                task.cancel()
            self.past += joined.counts()
            # A coordinator that has gone cancels us, but what is left to do is done to its end.
            leaving = asyncio.create_task(_leave(joined, told, telling))
            self.leaving.add(leaving)
            leaving.add_done_callback(self.leaving.discard)
            await asyncio.shield(leaving)

    async def _first(self, stream: Stream) -> bytes | None:
        """Return the first message of somebody whom we do not know yet.

        Raises:
            LinkError: where none comes in time, or too many wait.
        """
        try:
            async with self.strangers.place():
                return await stream.read()
        except TimeoutError:
            raise LinkError(f"no first message came within {wire.HANDSHAKE:g} s, or too many waited") from None

    def _join(self, asked: Join, told: Told) -> Joined:
        terms = asked.join
        problems = []
        if terms.plan != self.held.plan:
            problems.append(f"the bundle is another plan's: {self.held.plan[:12]}, not {terms.plan[:12]}")
        if self.joined is not None:
            problems.append(f"is busy with run {self.joined.terms.run}; one coordinator at a time")
        if not 1 <= terms.window <= WINDOW:
            problems.append(f"{terms.window} images in flight were asked for; 1 to {WINDOW} can be had")
        parties = self.held.schedule.parties
        lines = {party: self.held.line(terms.run, party, self.identity) for party in parties}
        unknown = sorted(
            p for p, line in lines.items() if line.dialer == self.held.device and p not in terms.addresses
        )
        if unknown:
            problems.append(f"no address was given of {', '.join(unknown)}")
        if problems:
            raise ClovenError(problems)
        return Joined(
            terms, self.held.schedule, lines, self.held.engine, told.put_nowait, self.computing, self.aside
        )

    async def _listen(self, joined: Joined, stream: Stream, heard: asyncio.Event, context: Context) -> None:
        """Do what the coordinator says, until it goes or talks nonsense."""
        try:
            while (message := await stream.read()) is not None:
                heard.set()
                asked = read(Question, message, COORDINATOR)
                joined.advance(asked.oldest)
                joined.drop(asked.drop)
                joined.part(asked.lost)
                joined.tell(joined.status() | {"ping": asked.ping, "states": joined.states(asked.late)})
                if asked.report:
                    joined.tell(joined.report())
        except PartyError as error:
            log.info("lost", extra={"party": COORDINATOR, "reason": error.reason})
        except LinkError as error:
            self._refused("control", str(error), context)

    # --- the other parties ------------------------------------------------------------------------------------

    async def link(self, _: Any, context: Context) -> None:
        """A stream that another party has dialled."""
        stream = Stream("the dialer", context)
        try:
            hello = read(Hello, await self._first(stream), "the dialer")
        except ClovenError as error:
            self._refused("handshake", str(error), context)
            await wire.refuse(stream, str(error))
            return
        party, joined = hello.dialer, self.joined
        await self._must_be(party, context)
        if joined is None or hello.run != joined.terms.run:
            await wire.refuse(stream, f"{self.held.device} is not in this run (yet)", again=True)
            return
        peer = joined.peers.get(party)
        if peer is None or peer.line.dialer != party or hello.other != self.held.device:
            reason = f"{party} has no link to dial to {self.held.device} in this plan"
            self._refused("handshake", reason, context)
            await wire.refuse(stream, reason)
            return
        try:
            await accepted(Stream(party, context), hello, peer, self.firsts)
        except ClovenError as error:
            log.warning("refused", extra={"reason": str(error), "peer": context.peer(), "party": party})

    async def _must_be(self, party: str, context: Context) -> None:
        """Over TLS a party must be who it says; else nothing is known of it."""
        if self.tls is None:
            return
        from cloven.runtime.link.identity import peer_name

        name = peer_name(context)
        if name != party:
            reason = f"the certificate is {name}'s, not {party}'s"
            self._refused("certificate", reason, context)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)

    def _refused(self, what: str, reason: str, context: Context) -> None:
        """Count and log what somebody wanted and did not get; whoever it was, its name is not believed."""
        self.past["refused", "unknown", what] += 1
        log.warning("refused", extra={"reason": reason, "peer": context.peer()})


def _while_there(answer: Handler) -> Handler:
    """A handler that ends quietly when whoever asked has gone."""

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


async def _tell_all(told: Told, stream: Stream) -> None:
    """Write what there is to tell, until there is no more or nobody is there."""
    with suppress(PartyError):
        while (message := await told.get()) is not None:
            await stream.write(json.dumps(message).encode())


async def _leave(joined: Joined, told: Told, telling: asyncio.Task[None]) -> None:
    """Tell the last, and end the links."""
    told.put_nowait(None)
    # A handler that ends while its last message is being written never tells that it has ended.
    await asyncio.wait({telling}, timeout=GOODBYE)
    telling.cancel()
    await joined.close()
    log.info("left", extra={"run": joined.terms.run, "outcomes": dict(joined.outcomes)})


async def _hangs(heard: asyncio.Event) -> None:
    """Wait until nothing is heard for a time in which we ourselves were running."""
    ticks = 0
    while ticks * TICK < SILENT:
        await asyncio.sleep(TICK)
        ticks = 0 if heard.is_set() else ticks + 1
        heard.clear()


async def _tell_when_connected(joined: Joined) -> None:
    down = await joined.connected(JOINING)
    joined.tell({"joined": not down, "down": down})
