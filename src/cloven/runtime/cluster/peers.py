"""The links of one party: to each other party a queue, and a stream that is dialled again whenever it is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from cloven.runtime.cluster import wire
from cloven.runtime.cluster.channels import LINK, channel, lost
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.wire import Connection, Line, Stream
from cloven.runtime.link.errors import FrameRefused, LinkError, SessionExhausted
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity
    from cloven.runtime.link.octets import Data

QUEUE = 8
"""How many messages may wait to be sent to one party; whoever has more waits."""

SOONEST, LATEST = 0.05, 1.0
"""Seconds between two attempts to dial."""


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
        refused: how many frames were refused, by reason; ``sent`` and ``received`` count frames and payload bytes.
    """

    def __init__(self, name: str, line: Line, listener: Listener, aside: Executor) -> None:
        self.name, self.line, self.listener, self.aside = name, line, listener, aside
        self.up, self.reason, self.final = False, "not connected yet", False
        self.refused: Counter[str] = Counter()
        self.sent, self.received = Counter[str](), Counter[str]()
        self.queue: asyncio.Queue[tuple[int, int, Sequence[Data]]] = asyncio.Queue(QUEUE)
        self.available = asyncio.Event()
        self.connection: Connection | None = None
        self.tasks = {asyncio.create_task(self._send_all())}

    async def send(self, number: int, ordinal: int, pieces: Sequence[Data]) -> None:
        """Put a message in the queue; waits while that is full."""
        await self.queue.put((number, ordinal, pieces))

    async def close(self) -> None:
        """End all that goes on for this peer."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # --- streams ----------------------------------------------------------------------------------------------

    def dial(self, address: str, identity: Identity | None) -> None:
        """Keep a stream to the party open from now on."""
        self.tasks.add(asyncio.create_task(self._dial(address, identity)))

    async def _dial(self, address: str, identity: Identity | None) -> None:
        pause = SOONEST
        async with channel(self.name, address, identity, self.line.largest) as to:
            while True:
                call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(LINK)()
                try:
                    connection = await wire.greet(call, self.line, self.aside)
                except (LinkError, PartyError, grpc.RpcError) as error:
                    call.cancel()
                    self._down(lost(self.name, address, error) if isinstance(error, grpc.RpcError) else error)
                else:
                    reading = asyncio.create_task(self.carry(connection))
                    self.tasks.add(reading)
                    reading.add_done_callback(self.tasks.discard)
                    await asyncio.sleep(SOONEST)
                    pause = SOONEST if not reading.done() else pause
                    while not reading.done() and not connection.worn:
                        await asyncio.wait({reading}, timeout=LATEST)
                    if not reading.done():
                        continue
                await asyncio.sleep(pause)
                pause = min(2 * pause, LATEST)

    async def carry(self, connection: Connection) -> None:
        """Hear what comes on a new stream until it ends; from now on it also carries what we send."""
        before, self.connection = self.connection, connection
        self.up, self.reason, self.final = True, "", False
        self.available.set()
        self.listener.changed(self)
        if before is not None:
            await self._finish(before)
        reason: PartyError | LinkError = PartyError(self.name, "closed the connection", again=True)
        try:
            async for opened in connection.frames():
                self.received.update(frames=1, bytes=opened.payload.nbytes)
                self.listener.came(self.name, opened)
        except FrameRefused as error:
            self.refused[error.reason] += 1
            reason = error
        except grpc.RpcError as error:
            reason = lost(self.name, "its address", error)
        finally:
            if isinstance(connection.stream, grpc.aio.StreamStreamCall):
                connection.stream.cancel()
            self._lose(connection, reason)

    async def _finish(self, connection: Connection) -> None:
        """Say that nothing more comes on a stream that has a successor; what is under way still arrives."""
        if isinstance(connection.stream, grpc.aio.StreamStreamCall):
            async with connection.lock:
                await connection.stream.done_writing()

    def _lose(self, connection: Connection, reason: PartyError | LinkError) -> None:
        if self.connection is not connection:
            return
        self.connection = None
        self.available.clear()
        while not self.queue.empty():
            self.queue.get_nowait()
        self._down(reason)

    def _down(self, error: PartyError | LinkError) -> None:
        reason = error.reason if isinstance(error, PartyError) else str(error)
        final = not error.again if isinstance(error, PartyError) else not isinstance(error, FrameRefused)
        changed = (self.up, self.reason, self.final) != (False, reason, final)
        self.up, self.reason, self.final = False, reason, final
        if changed:
            self.listener.changed(self)

    async def _send_all(self) -> None:
        while True:
            number, ordinal, pieces = await self.queue.get()
            await self.available.wait()
            connection = self.connection
            if connection is None or self.listener.stale(number):
                continue
            try:
                size = await connection.write(number, ordinal, pieces)
            except grpc.RpcError as error:
                self._lose(connection, lost(self.name, "its address", error))
            except (asyncio.InvalidStateError, SessionExhausted) as error:
                self._lose(connection, PartyError(self.name, str(error), again=True))
            else:
                self.sent.update(frames=1, bytes=size)


async def accepted(stream: Stream, hello: dict[str, object], peer: Peer) -> None:
    """Carry a stream that the other side has dialled, for as long as it lasts.

    Raises:
        LinkError: where the dialer holds another key.
    """
    try:
        connection = await wire.welcome(stream, dict(hello), peer.line, peer.aside)
    except LinkError as error:
        peer.refused["handshake"] += 1
        peer._down(error)
        raise
    await peer.carry(connection)
    async with connection.lock:  # what is being written is written
        pass
