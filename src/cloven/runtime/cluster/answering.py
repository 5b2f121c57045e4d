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
from cloven.runtime.cluster.held import Held
from cloven.runtime.cluster.joined import Joined, Terms
from cloven.runtime.cluster.peers import accepted

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven.worker")

WINDOW = 256
"""Most images in flight that a coordinator may ask for."""

JOINING = 20.0
"""Seconds in which the links of a run must come up."""

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
        leaving: what still ends earlier runs.
    """

    def __init__(self, held: Held, identity: Identity | None, *, tls: bool) -> None:
        self.held, self.identity = held, identity
        self.tls = identity if tls else None
        self.joined: Joined | None = None
        self.runs = 0
        self.past: Counter[tuple[str, ...]] = Counter()
        self.leaving: set[asyncio.Task[None]] = set()
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
            message = await stream.read()  # to one who is still writing, gRPC does not always say why he is refused
            await self._must_be(COORDINATOR, context)
            joined = self._join(message, told)
        except ClovenError as error:
            self._refused("control", str(error), context)
            await stream.write(json.dumps({"cloven": wire.VERSION, "refused": str(error)}).encode())
            return
        self.joined, self.runs = joined, self.runs + 1
        log.info("joined", extra={"run": joined.terms.run})
        telling = asyncio.create_task(_tell_all(told, stream))
        joining = asyncio.create_task(_tell_when_connected(joined))
        listening = asyncio.create_task(self._listen(joined, stream, context))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            joined.dial(self.held.device, self.tls)
            await asyncio.wait({listening, telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping.is_set():
                joined.tell({"stopping": True})
        finally:
            self.joined = None
            for task in (joining, listening, stopping):
                task.cancel()
            self.past += joined.counts()
            # A coordinator that has gone cancels us, but what is left to do is done to its end.
            leaving = asyncio.create_task(_leave(joined, told, telling))
            self.leaving.add(leaving)
            leaving.add_done_callback(self.leaving.discard)
            await asyncio.shield(leaving)

    def _join(self, message: Any, told: Told) -> Joined:
        try:
            asked = wire.document(message, COORDINATOR)
            join = asked["join"]
            terms = Terms(str(join["run"]), dict(join["addresses"]), int(join["window"]), float(join["deadline"]))
            plan, version = join["plan"], asked["cloven"]
        except (ValueError, TypeError, KeyError) as error:
            raise ClovenError("the coordinator does not speak cloven's protocol") from error
        problems = []
        if version != wire.VERSION:
            problems.append(
                f"the coordinator speaks version {version!r} of the protocol, this worker {wire.VERSION}"
            )
        if plan != self.held.plan:
            problems.append(f"the bundle is another plan's: {self.held.plan[:12]}, not {str(plan)[:12]}")
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

    async def _listen(self, joined: Joined, stream: Stream, context: Context) -> None:
        """Do what the coordinator says, until it goes or talks nonsense."""
        try:
            while (message := await stream.read()) is not None:
                asked = wire.document(message, COORDINATOR)
                if "oldest" in asked:
                    joined.advance(int(asked["oldest"]))
                if "drop" in asked:
                    joined.drop([int(number) for number in asked["drop"]])
                if "ping" in asked:
                    states = joined.states([int(number) for number in asked.get("late", ())])
                    joined.tell(joined.status() | {"ping": asked["ping"], "states": states})
                if "report" in asked:
                    joined.tell(joined.report())
        except PartyError as error:
            log.info("lost", extra={"party": COORDINATOR, "reason": error.reason})
        except (ValueError, TypeError, KeyError) as error:
            self._refused("control", f"the coordinator talks nonsense: {error}", context)

    # --- the other parties ------------------------------------------------------------------------------------

    async def link(self, _: Any, context: Context) -> None:
        """A stream that another party has dialled."""
        stream = Stream("the dialer", context)
        try:
            hello = await wire.hello(stream)
        except ClovenError as error:
            self._refused("handshake", str(error), context)
            await wire.refuse(stream, str(error))
            return
        party, joined = str(hello.get("from")), self.joined
        await self._must_be(party, context)
        if joined is None or hello.get("run") != joined.terms.run:
            await wire.refuse(stream, f"{self.held.device} is not in this run (yet)", again=True)
            return
        peer = joined.peers.get(party)
        if peer is None or peer.line.dialer != party or hello.get("to") != self.held.device:
            reason = f"{party} has no link to dial to {self.held.device} in this plan"
            self._refused("handshake", reason, context)
            await wire.refuse(stream, reason)
            return
        try:
            await accepted(Stream(party, context), hello, peer)
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


async def _tell_when_connected(joined: Joined) -> None:
    down = await joined.connected(JOINING)
    joined.tell({"joined": not down, "down": down})
