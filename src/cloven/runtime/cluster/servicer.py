"""The gRPC service of a worker: it serves one coordinator at a time, and the other devices of its runs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio

from cloven.errors import ClovenError, tried
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import frame_stream, link_echo
from cloven.runtime.cluster.channels import (
    ACTIVATE,
    CONTROL,
    DESCRIBE,
    ECHO,
    HEALTH,
    LINK,
    MEASURE,
    SERVING,
    UPGRADE,
    MessageStream,
)
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.loaded_part import LoadedBundle, LoadedPart
from cloven.runtime.cluster.protocol import (
    VERSION,
    ActivateReply,
    ActivateRequest,
    DescribeRequest,
    EchoRequest,
    Hello,
    JoinRequest,
    MeasureReply,
    MeasureRequest,
    RunTerms,
    StatusRequest,
    UpgradeOffer,
    UpgradeReply,
    WorkerMessage,
    read,
)
from cloven.runtime.cluster.worker_session import Engine, WorkerSession
from cloven.runtime.cluster.worker_upgrades import WorkerUpgrades
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.handshake import FirstMessages

if TYPE_CHECKING:
    from cloven.runtime.bundle.schedule import Schedule
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven.worker")

RUNS = 4
"""The maximum number of runs that a worker takes part in at a time, all of one coordinator."""

WINDOW = 256
"""The maximum number of images in flight that a coordinator may request."""

JOINING = 20.0
"""Seconds within which the links of a run must come up."""

SILENT, TICK = 8.0, 0.5
"""Seconds without a message after which a coordinator counts as hung, and the interval between checks."""

STRANGERS = 256
"""The maximum number of streams that wait for their first message."""

NO_UPGRADES = "does not accept upgrades: start it with --upgrades FOLDER"
"""The refusal of an upgrade."""

GOODBYE = 0.5
"""Seconds within which the last messages of a run must be sent."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[Any, Context], Awaitable[None]]


class RunWork(NamedTuple):
    """The work of a worker in a run: schedules as `WorkerSession` selects them, its links, and its engine."""

    schedules: Sequence[Schedule]
    links: Mapping[str, LinkSpec]
    engine: Engine


class WorkerServicer:
    """The handlers of a worker's gRPC methods, and their state.

    Attributes:
        name: the worker's own name.
        bundles: the loaded bundles, by the hash of the manifest.
        current: the bundle that is described by default.
        others: the hashes of the further bundles that the worker was started with; they are always kept.
        sessions: the runs that the worker takes part in, by their identifiers.
        past: the counters of earlier runs.
        measuring: whether a link is measured now, from here or from the other end.
        firsts: the first messages of all handshakes that were answered, in any run.
        leaving: the tasks that are still ending earlier runs.
        upgrades: the upgrades of the worker; None if it does not accept any.
    """

    def __init__(
        self,
        name: str,
        bundles: Sequence[LoadedBundle],
        identity: Identity | None,
        upgrades: WorkerUpgrades | None = None,
        *,
        tls: bool,
    ) -> None:
        self.name, self.identity, self.upgrades = name, identity, upgrades
        self.bundles: dict[str, LoadedBundle] = upgrades.bundles if upgrades is not None else {}
        self.bundles |= {bundle.plan: bundle for bundle in bundles}
        self.current, self.others = bundles[0], tuple(bundle.plan for bundle in bundles[1:])
        self.tls = identity if tls else None
        self.sessions: dict[str, WorkerSession] = {}
        self.runs, self.measuring = 0, False
        self.past: Counter[tuple[str, ...]] = Counter()
        self.leaving: set[asyncio.Task[None]] = set()
        self.firsts, self.strangers = FirstMessages(), HalfOpen(STRANGERS, frame_stream.HANDSHAKE)
        self.stopping = asyncio.Event()
        # One thread computes, another one runs the ciphers, so that neither blocks the other.
        self.computing, self.aside = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def counts(self) -> Counter[tuple[str, ...]]:
        """Return the counters of the current runs and of all earlier ones."""
        return sum((session.counts() for session in self.sessions.values()), self.past)

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the server's methods."""
        methods: dict[str, Any] = {
            DESCRIBE: grpc.unary_unary_rpc_method_handler(self.describe),
            HEALTH: grpc.unary_unary_rpc_method_handler(self.health),
            CONTROL: grpc.stream_stream_rpc_method_handler(_quietly(self.control)),
            LINK: grpc.stream_stream_rpc_method_handler(_quietly(self.link)),
            MEASURE: grpc.unary_unary_rpc_method_handler(self.measure),
            ECHO: grpc.stream_stream_rpc_method_handler(_quietly(self.echo)),
            UPGRADE: grpc.stream_stream_rpc_method_handler(_quietly(self.upgrade)),
            ACTIVATE: grpc.unary_unary_rpc_method_handler(self.activate),
        }

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return methods.get(str(call.method))

        return Handlers()

    async def describe(self, message: bytes, _context: Context) -> bytes:
        """Return the description of the requested part; if it is not loaded, that of the current one."""
        part, tasks = self.part(), None
        with suppress(ClovenError):
            asked = read(DescribeRequest, message, "the peer")
            part = self.part(asked.plan, asked.device)
            tasks = self.bundles[part.plan].tasks if asked.tasks else None
        described = part.description(next(iter(self.sessions), None))
        if self.upgrades is not None and self.upgrades.previous is not None:
            described = described.model_copy(update={"previous": self.upgrades.previous})
        if others := [plan for plan in self.others if plan != self.current.plan]:
            described = described.model_copy(update={"others": others})
        return (described if tasks is None else tasks.description(self.name, described)).encode()

    def part(self, plan: str | None = None, device: str | None = None) -> LoadedPart:
        """Return a device's part of a plan; default: that of this name, or the first, in the current plan.

        Raises:
            ClovenError: if it is not loaded.
        """
        bundle = self._bundle(plan or self.current.plan)
        return bundle.part(device or (self.name if self.name in bundle.parts else next(iter(bundle.parts))))

    def _bundle(self, plan: str) -> LoadedBundle:
        if (bundle := self.bundles.get(plan)) is None:
            raise ClovenError(f"the bundle belongs to plan {self.current.plan[:12]}; expected {plan[:12]}")
        return bundle

    async def health(self, _: bytes, _context: Context) -> bytes:
        """Return the response of grpc.health.v1: serving."""
        return SERVING

    # --- a coordinator ----------------------------------------------------------------------------------------

    async def control(self, _: Any, context: Context) -> None:
        """Take part in a run until its coordinator leaves."""
        stream = MessageStream(COORDINATOR, context)
        try:
            # Read first: gRPC does not always deliver the reason of a refusal to a client that is still writing.
            message = await self._first(stream)
            await self._must_be(COORDINATOR, context)
            session = self._join(read(JoinRequest, message, COORDINATOR).join)
        except ClovenError as error:
            self._refused("control", str(error), context)
            await frame_stream.refuse(stream, str(error))
            return
        run = session.terms.run
        self.sessions[run], self.runs = session, self.runs + 1
        log.info("joined", extra={"run": run})
        telling = asyncio.create_task(_tell(session, stream))
        joining = asyncio.create_task(_tell_when_connected(session))
        heard = asyncio.Event()
        listening = asyncio.create_task(self._listen(session, stream, heard, context))
        hanging = asyncio.create_task(_hangs(heard))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            session.dial(self.name, self.tls)
            ends = {listening, telling, stopping, hanging}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if hanging.done():
                log.info("lost", extra={"party": COORDINATOR, "reason": f"sent no message for {SILENT:g} s"})
            if self.stopping.is_set():
                session.tell(WorkerMessage(stopping=True))
        finally:
            del self.sessions[run]
            for task in (joining, listening, stopping, hanging):
                task.cancel()
            self.past += session.counts()
            self._prune()
            # A coordinator that disconnects cancels this handler, but the run must still be ended properly.
            leaving = asyncio.create_task(_leave(session, telling))
            self.leaving.add(leaving)
            leaving.add_done_callback(self.leaving.discard)
            await asyncio.shield(leaving)

    async def _first(self, stream: MessageStream) -> bytes | None:
        """Return the first message of a peer that has not been identified yet.

        Raises:
            LinkError: if it does not arrive in time, or too many streams wait.
        """
        try:
            async with self.strangers.place():
                return await stream.read()
        except TimeoutError:
            raise LinkError(
                f"no first message arrived within {frame_stream.HANDSHAKE:g} s, or too many streams waited"
            ) from None

    def _join(self, terms: RunTerms) -> WorkerSession:
        problems: list[str] = []
        work = tried(lambda: self._work(terms), problems)
        if foreign := [run for run in self.sessions if run not in terms.beside]:
            problems.append(f"is busy with run {foreign[0]}; one coordinator at a time")
        elif len(self.sessions) >= RUNS:
            problems.append(
                f"takes part in {len(self.sessions)} runs of this coordinator; expected less than {RUNS}"
            )
        if not 1 <= terms.window <= WINDOW:
            problems.append(f"window must be between 1 and {WINDOW}, got {terms.window}")
        links = work.links if work is not None else {}
        dialled = [party for party, link in links.items() if link.dialer == self.name]
        unknown = sorted(set(dialled) - terms.addresses.keys())
        if unknown:
            problems.append(f"the address of {', '.join(unknown)} is missing")
        if problems or work is None:
            raise ClovenError(problems)
        return WorkerSession(terms, work.schedules, links, work.engine, self.computing, self.aside)

    def _work(self, terms: RunTerms) -> RunWork:
        """Return what the worker does in a run: a device's part, or any task.

        Raises:
            ClovenError: if it has not loaded what that needs, or has no keys for it.
        """
        if terms.tasks:
            if (tasks := self._bundle(terms.plan).tasks) is None:
                raise ClovenError("has not loaded all parts of the bundle: start it on the bundle's folder")
            link = tasks.link(terms.run, self.name, self.identity)
            return RunWork(tasks.graph.schedules, {COORDINATOR: link}, tasks.engine)
        devices = {worker: device for device, worker in terms.names.items()}
        part = self.part(terms.plan, devices.get(self.name, self.name)).replaced(terms.names)
        return RunWork([part.schedule], part.links(terms.run, self.identity), part.engine)

    async def _listen(
        self, session: WorkerSession, stream: MessageStream, heard: asyncio.Event, context: Context
    ) -> None:
        """Handle the coordinator's requests, until it leaves or sends a malformed message."""
        try:
            while (message := await stream.read()) is not None:
                heard.set()
                asked = read(StatusRequest, message, COORDINATOR)
                session.advance(asked.oldest)
                session.drop(asked.drop)
                session.part(asked.lost)
                states = {number: session.state(number) for number in asked.late}
                status = session.status(self.current.plan)
                session.tell(WorkerMessage(status=status, ping=asked.ping, states=states))
                if asked.report:
                    session.tell(WorkerMessage(report=session.report()))
        except PartyError as error:
            log.info("lost", extra={"party": COORDINATOR, "reason": error.reason})
        except LinkError as error:
            self._refused("control", str(error), context)

    # --- the other parties ------------------------------------------------------------------------------------

    async def link(self, _: Any, context: Context) -> None:
        """Serve a stream that another party has opened."""
        stream = MessageStream("the dialer", context)
        try:
            hello = read(Hello, await self._first(stream), "the dialer")
        except ClovenError as error:
            self._refused("handshake", str(error), context)
            await frame_stream.refuse(stream, str(error))
            return
        party, session = hello.dialer, self.sessions.get(hello.run)
        await self._must_be(party, context)
        if session is None:
            await frame_stream.refuse(stream, f"{self.name} has not joined this run", again=True)
            return
        connection = session.connections.get(party)
        if connection is None or connection.link.dialer != party or hello.other != self.name:
            reason = f"in this plan, {party} does not connect to {self.name}"
            self._refused("handshake", reason, context)
            await frame_stream.refuse(stream, reason)
            return
        try:
            await connection.accept(MessageStream(party, context), hello, self.firsts)
        except ClovenError as error:
            log.warning("refused", extra={"reason": str(error), "peer": context.peer(), "party": party})

    # --- upgrades ---------------------------------------------------------------------------------------------

    async def upgrade(self, _: Any, context: Context) -> None:
        """Receive a bundle of the coordinator and load it, without using it yet."""
        stream = MessageStream(COORDINATOR, context)
        try:
            offer = read(UpgradeOffer, await self._first(stream), COORDINATOR)
            await self._must_be(COORDINATOR, context)
            if self.upgrades is None:
                raise LinkError(NO_UPGRADES)
            await self.upgrades.receive(stream, offer)
        except ClovenError as error:
            self._refused("upgrade", str(error), context)
            with suppress(PartyError):
                await stream.write(UpgradeReply(cloven=VERSION, refused=str(error)).encode())
        self._prune()

    async def activate(self, message: bytes, context: Context) -> bytes:
        """Use a loaded bundle for new runs; return which one is used, and which one was used before."""
        await self._must_be(COORDINATOR, context)
        try:
            asked = read(ActivateRequest, message, COORDINATOR)
            if self.upgrades is None:
                raise LinkError(NO_UPGRADES)
            if asked.plan is not None:
                self.current = self.upgrades.activate(asked.plan, self.current)
                self._prune()
        except ClovenError as error:
            self._refused("upgrade", str(error), context)
            return ActivateReply(cloven=VERSION, refused=str(error)).encode()
        return self.upgrades.state(self.current.plan).encode()

    def _prune(self) -> None:
        """Drop the bundles that are no longer needed."""
        if self.upgrades is not None:
            used = {session.terms.plan for session in self.sessions.values()}
            self.upgrades.prune(self.current.plan, used.union(self.others))

    # --- measuring links --------------------------------------------------------------------------------------

    async def measure(self, message: bytes, context: Context) -> bytes:
        """Measure the link with another party for the coordinator; return the times, or why there are none."""
        await self._must_be(COORDINATOR, context)
        try:
            asked = read(MeasureRequest, message, COORDINATOR)
            self._check_link(asked.party, self.name)
            with self._measuring():
                ends = self.name, asked.party
                found = await link_echo.measured(ends, asked.address, self.tls, self._check_idle)
        except ClovenError as error:
            if not isinstance(error, PartyError):
                self._refused("measurement", str(error), context)
            return MeasureReply(cloven=VERSION, refused=str(error)).encode()
        return MeasureReply(cloven=VERSION, link=found).encode()

    async def echo(self, _: Any, context: Context) -> None:
        """Answer the exchanges of another party of the plan that measures its link with this device."""
        stream = MessageStream("the dialer", context)
        try:
            request = read(EchoRequest, await self._first(stream), "the dialer")
            await self._must_be(request.dialer, context)
            self._check_link(request.dialer, request.other)
            with self._measuring():
                await link_echo.answer(stream, request, self._check_idle)
        except PartyError:
            raise
        except ClovenError as error:
            self._refused("measurement", str(error), context)
            await frame_stream.refuse(stream, str(error))

    def _check_link(self, party: str, device: str) -> None:
        """Raise LinkError unless the device is this one, and the party is another one of the plan."""
        parties = {COORDINATOR, *(device.name for device in self.current.manifest.devices)} - {self.name}
        if party not in parties or device != self.name:
            raise LinkError(f"in this plan, {party} does not measure a link with {self.name}")

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Mark the device as measuring a link.

        Raises:
            LinkError: if it takes part in a run, or measures a link already.
        """
        self._check_idle()
        if self.measuring:
            raise LinkError(f"{self.name} is measuring another link; try again in a minute")
        self.measuring = True
        try:
            yield
        finally:
            self.measuring = False

    def _check_idle(self) -> None:
        """Raise LinkError if the device takes part in a run, which a measurement would slow down."""
        if self.sessions:
            raise LinkError(f"{self.name} is busy with run {next(iter(self.sessions))}")

    async def _must_be(self, party: str, context: Context) -> None:
        """Abort the call if the TLS certificate is not the party's; without TLS, do not check."""
        if self.tls is None:
            return
        from cloven.runtime.link.identity import peer_name

        name = peer_name(context)
        if name != party:
            reason = f"the certificate is of {name}; expected {party}"
            self._refused("certificate", reason, context)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, reason)

    def _refused(self, what: str, reason: str, context: Context) -> None:
        """Count and log a refusal; the name that the refused peer claims is not recorded, as it is not verified."""
        self.past["refused", "unknown", what] += 1
        log.warning("refused", extra={"reason": reason, "peer": context.peer()})


def _quietly(answer: Handler) -> Handler:
    """Return a handler that ends without an error when the peer disconnects."""

    async def handler(request: Any, context: Context) -> None:
        try:
            await answer(request, context)
        except PartyError as error:
            log.info("gone", extra={"reason": str(error), "peer": context.peer()})
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("internal error")
            raise

    return handler


async def _tell(session: WorkerSession, stream: MessageStream) -> None:
    """Send the session's messages, until there are no more or the coordinator has disconnected."""
    with suppress(PartyError):
        while (message := await session.outbox.get()) is not None:
            await stream.write(message.encode())


async def _leave(session: WorkerSession, telling: asyncio.Task[None]) -> None:
    """Send the last messages, and end the links."""
    session.outbox.put_nowait(None)
    # A handler that ends during a write never closes its stream.
    await asyncio.wait({telling}, timeout=GOODBYE)
    telling.cancel()
    await session.close()
    log.info("left", extra={"run": session.terms.run, "outcomes": dict(session.outcomes)})


async def _hangs(heard: asyncio.Event) -> None:
    """Wait until no message arrives for ``SILENT`` seconds, counting only time in which our process runs."""
    ticks = 0
    while ticks * TICK < SILENT:
        await asyncio.sleep(TICK)
        ticks = 0 if heard.is_set() else ticks + 1
        heard.clear()


async def _tell_when_connected(session: WorkerSession) -> None:
    down = await session.connected(JOINING)
    session.tell(WorkerMessage(joined=not down, down=down))
