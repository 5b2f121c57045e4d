"""The links of one party: to each other party a queue, and a stream that is dialled again whenever it is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio

from cloven.errors import ClovenError
from cloven.runtime.cluster import wire
from cloven.runtime.cluster.channels import CLOSED, LINK, Stream, channel
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.messages import Hello
from cloven.runtime.cluster.wire import Connection, Line
from cloven.runtime.link.errors import FrameRefused, HandshakeRepeated, LinkError, SessionExhausted
from cloven.runtime.link.handshake import FirstMessages
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

QUEUE = 8
"""How many messages may wait to be sent to one party; whoever has more waits."""

SOONEST, LATEST = 0.05, 1.0
"""Seconds between two attempts to dial."""

LEAVING = 10.0
"""Seconds that a stream has for what is under way once it has a successor, also between busy machines."""

WRITTEN = 0.5
"""Seconds that a message has that is being written when its run ends."""


@dataclass(frozen=True)
class Listener:
    """Whom a peer tells what has come and that its state has changed, and asks which inputs are of no use."""

    came: Callable[[str, Opened], None]
    changed: Callable[[Peer], None]
    stale: Callable[[int], bool]


class Peer:
    """What we send to one other party and hear from it.

    Attributes:
        up: whether a stream carries frames now.
        reason: why not.
        final: whether dialling again is of no use, by all that is known.
        losses: how often a stream was lost that had no successor.
        refused: how many frames were refused, by reason; ``sent`` and ``received`` count frames and payload bytes,
            ``clock`` the seconds of sealing and opening them.
    """

    def __init__(self, name: str, line: Line, listener: Listener, aside: Executor) -> None:
        self.name, self.line, self.listener, self.aside = name, line, listener, aside
        self.up, self.reason, self.final = False, "not connected yet", False
        self.losses = 0
        self.refused: Counter[str] = Counter()
        self.sent, self.received, self.clock = Counter[str](), Counter[str](), Counter[str]()
        self.queue: asyncio.Queue[tuple[int, int, Sequence[Data]]] = asyncio.Queue(QUEUE)
        self.available = asyncio.Event()
        self.connection: Connection | None = None
        self.unproved = HalfOpen(1, wire.HANDSHAKE)
        self.closed = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._begin(self._send_all())

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def send(self, number: int, ordinal: int, pieces: Sequence[Data]) -> None:
        """Put a message in the queue; waits while that is full."""
        await self.queue.put((number, ordinal, pieces))

    async def close(self) -> None:
        """End all that goes on for this peer."""
        self.closed = True
        tasks = list(self.tasks)
        # A handler that ends while it is writing never tells the other side that it has ended.
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITTEN), self.connection.lock if self.connection else nullcontext():
                pass
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- streams ----------------------------------------------------------------------------------------------

    def dial(self, address: str, identity: Identity | None) -> None:
        """Keep a stream to the party open from now on."""
        self._begin(self._dial(address, identity))

    async def _dial(self, address: str, identity: Identity | None) -> None:
        pause = SOONEST
        async with channel(self.name, address, identity, self.line.limits.length) as to:
            while True:
                call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(LINK)()
                stream = Stream(self.name, call, address)
                try:
                    connection = await wire.greet(stream, self.line, self.aside)
                except ClovenError as error:
                    stream.cancel()
                    self._down(error)
                    pause = min(2 * pause, LATEST)
                else:
                    await self._lasts(self.carry(connection), connection)
                    pause = SOONEST
                await asyncio.sleep(pause)

    async def _lasts(self, hearing: asyncio.Task[None], connection: Connection) -> None:
        """Wait until a stream has ended, or needs a successor."""
        worn = asyncio.create_task(connection.worn.wait())
        try:
            await asyncio.wait({hearing, worn}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            worn.cancel()

    def carry(self, connection: Connection) -> asyncio.Task[None]:
        """Send by a new stream from now on, and hear what comes on it: a task for as long as it lasts."""
        before, self.connection = self.connection, connection
        connection.clock = self.clock
        hearing = connection.hearing = self._begin(self._hear(connection))
        self.up, self.reason, self.final = True, "", False
        self.available.set()
        self.listener.changed(self)
        if before is not None:
            self._begin(self._retire(before))
        return hearing

    async def _hear(self, connection: Connection) -> None:
        reason: ClovenError = PartyError(self.name, CLOSED, again=True)
        try:
            async for opened in connection.frames():
                self.received.update(frames=1, bytes=opened.payload.nbytes)
                self.listener.came(self.name, opened)
        except FrameRefused as error:
            self.refused[error.reason] += 1
            reason = error
        except PartyError as error:
            reason = error
        finally:
            connection.stream.cancel()
            self._lose(connection, reason)

    async def _retire(self, connection: Connection) -> None:
        """Say that nothing more comes on a stream that has a successor; what is under way still arrives."""
        with suppress(TimeoutError, PartyError):
            async with asyncio.timeout(LEAVING):
                async with connection.lock:
                    await connection.stream.finish()
                await asyncio.wait({connection.hearing})
        connection.hearing.cancel()

    def give_up(self) -> None:
        """End the stream that there is: the party has been lost, by what others know."""
        if self.connection is not None:
            self.connection.hearing.cancel()

    def _lose(self, connection: Connection, reason: ClovenError) -> None:
        """Give a stream up, unless it has a successor; what waits to be sent goes with it."""
        if self.connection is not connection:
            return
        self.connection = None
        self.losses += 1
        self.available.clear()
        while not self.queue.empty():
            self.queue.get_nowait()
        self._down(reason)

    def _down(self, error: ClovenError) -> None:
        """Say why there is no stream; an attempt that failed says nothing of one that is there."""
        if self.connection is not None:
            return
        reason = error.reason if isinstance(error, PartyError) else str(error)
        final = not error.again if isinstance(error, PartyError) else not isinstance(error, FrameRefused)
        changed = (self.up, self.reason, self.final) != (False, reason, final)
        self.up, self.reason, self.final = False, reason, final
        if changed and not self.closed:
            self.listener.changed(self)

    async def _send_all(self) -> None:
        while True:
            message = await self.queue.get()
            while not await self._is_sent(*message):
                continue

    async def _is_sent(self, number: int, ordinal: int, pieces: Sequence[Data]) -> bool:
        """Send a message, or lose it with its stream; False where the key is used up, and its successor due."""
        await self.available.wait()
        connection = self.connection
        if connection is None or self.listener.stale(number):
            return True
        try:
            await connection.write(number, ordinal, pieces, self.sent)
        except SessionExhausted:
            if self.connection is connection:
                self.available.clear()
            return False
        except (PartyError, LinkError) as error:
            self._lose(connection, error)
        return True


async def accepted(stream: Stream, hello: Hello, peer: Peer, firsts: FirstMessages) -> None:
    """Carry a stream that the other side has dialled, once it has proved itself, for as long as it lasts.

    Raises:
        LinkError: where the dialer holds another key, or proves nothing in time.
        PartyError: where it has gone.
    """
    try:
        guard = wire.Guard(firsts, peer.unproved)
        connection = await wire.welcome(stream, hello, peer.line, peer.aside, guard)
    except LinkError as error:
        peer.refused["repeated handshake" if isinstance(error, HandshakeRepeated) else "handshake"] += 1
        raise
    if peer.closed:
        return
    async with connection.lock:  # before any frame
        hearing = peer.carry(connection)
        try:
            await wire.prove(connection)
        except BaseException:
            hearing.cancel()
            raise
    try:
        await asyncio.wait({hearing})
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING), connection.lock:  # what is being written is written
                pass
    finally:
        hearing.cancel()
