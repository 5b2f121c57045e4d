"""Connections: how many are open, how long a client may take, and which one makes room for another."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Network, ip_address
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

BACKLOG, AT_ONCE = 2048, 8
"""Connections that the system holds until they are accepted, and how many are before those inside have their turn.

A new one has sent its request after three turns: it must not be dropped for newer ones of its address before.
"""
PAUSE = 0.1
"""Seconds without accepting after the system had no file or memory for a connection."""
PARTING = 5.0
"""Seconds that a request has to be all here when the service ends."""
SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Why a connection cannot be accepted now, but later."""

log = logging.getLogger("cloven.service")


@dataclass(frozen=True)
class ClientLimits:
    """The most that clients may take of the service.

    Attributes:
        connections: open connections.
        per_address: open connections of one address; of IPv6 addresses, of one /64 network.
        head: seconds for a request's head, from the connection or from the answer to the request before it.
        request: seconds from a request's head until its answer is sent.
    """

    connections: int = 96
    per_address: int = 48
    head: float = 10.0
    request: float = 35.0


@dataclass(eq=False)
class OpenConnection:
    """An open connection: ``drop`` closes it, and ``waiting`` says that no complete request is being answered."""

    address: str
    drop: Callable[[], None]
    waiting: bool = True


class ConnectionTable:
    """The open connections. A new one is admitted at the cost of the oldest one that waits for its client.

    Where all connections are taken, the address that has most waiting ones loses one. An address that has
    all of its own loses one of these. Connections whose request is being answered are never dropped.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._open: dict[OpenConnection, None] = {}  # those that have waited longest first

    def enter(self, address: str, drop: Callable[[], None]) -> OpenConnection | None:
        """Return a place for a connection; None if there is none."""
        mine = [place for place in self._open if place.address == address]
        if len(mine) >= self._limits.per_address and not self.drop(mine):
            return None
        if len(self._open) >= self._limits.connections and not self.drop(self._open):
            return None
        place = OpenConnection(address, drop)
        self._open[place] = None
        return place

    def drop(self, among: Iterable[OpenConnection] | None = None) -> bool:
        """Drop a waiting connection; return whether there was one."""
        waiting = [place for place in (self._open if among is None else among) if place.waiting]
        count = Counter(place.address for place in waiting)
        place = max(waiting, key=lambda place: count[place.address], default=None)
        if place is None:
            return False
        self.leave(place)
        place.drop()
        return True

    def wait(self, place: OpenConnection) -> None:
        """Note that a connection waits for its client's next request."""
        if place in self._open:
            self.leave(place)
            self._open[place] = None
        place.waiting = True

    def leave(self, place: OpenConnection) -> None:
        """Note that a connection is closed."""
        self._open.pop(place, None)


class HttpConnection(H11Protocol):
    """uvicorn's connection, closed if a head, the rest of a request or the reading of an answer takes too long.

    One timer runs as long as the connection is open, so that no state of it can last.
    """

    def __init__(
        self, places: ConnectionTable, place: OpenConnection, limits: ClientLimits, **of_uvicorn: Any
    ) -> None:
        super().__init__(**of_uvicorn)
        self._places, self._place, self._limits = places, place, limits
        self._timer: asyncio.TimerHandle | None = None
        self._begun: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._place.drop = self._drop
        self._within(self._limits.head)

    def handle_events(self) -> None:
        """Read what has arrived; a request whose body is complete is no longer dropped for another client."""
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            return
        if self.cycle is not self._begun:
            self._begun = self.cycle
            self._within(self._limits.request)
        self._place.waiting = self.cycle.more_body

    def on_response_complete(self) -> None:
        """Wait for the next request; what is left of this one's body counts towards the time for the next head.

        A client that has sent its next request already is left: answering thousands at a stretch delays the others.
        """
        self._places.wait(self._place)
        self._within(self._limits.head)
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            self.transport.close()
        super().on_response_complete()

    def shutdown(self) -> None:
        """End after the answer to a request that is all here by then, or soon after."""
        super().shutdown()
        self.loop.call_later(PARTING, self._part)

    def _part(self) -> None:
        if self._place.waiting:
            self._drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        super().connection_lost(exc)
        self._places.leave(self._place)
        if self._timer is not None:
            self._timer.cancel()

    def _within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # a part of a head
            self.transport.write(answer(408, "the request's head took too long; send it again"))
        self.transport.abort()  # not close(): that waits until the client has read everything


class Entrance:
    """Accepts connections within the limits; has what uvicorn asks of an `asyncio.Server`.

    asyncio's own server has no limits: it accepts until the process has no files left, and then logs every second
    for each of them. It also tells nobody of a connection until TLS is agreed.
    """

    def __init__(
        self,
        listener: socket.socket,
        made: Callable[[ConnectionTable, OpenConnection, ClientLimits], HttpConnection],
        limits: ClientLimits,
        context: ssl.SSLContext | None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener, self._made, self._limits, self._context = listener, made, limits, context
        self._places = ConnectionTable(limits)
        self._arriving: dict[asyncio.Task[None], OpenConnection] = {}
        self._paused: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._go_on()

    def close(self) -> None:
        """Accept no more connections."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listener)
        for place in list(self._arriving.values()):
            place.drop()

    async def wait_closed(self) -> None:
        """Wait until no connection is being made."""
        await asyncio.gather(*self._arriving)

    def _go_on(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Accept some connections; the event loop calls again while there are more."""
        with suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            for _ in range(AT_ONCE):
                try:
                    self._welcome(*self._listener.accept())
                except OSError as error:
                    if error.errno not in SHORT:
                        raise
                    self._short(error)
                    return

    def _short(self, error: OSError) -> None:
        """Close a connection for those that come; if none can be closed, accept nothing for a while."""
        log.warning("cannot accept a connection: %s", error.strerror)
        if not self._places.drop():
            self._loop.remove_reader(self._listener)
            self._paused = self._loop.call_later(PAUSE, self._go_on)

    def _welcome(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        connection.setblocking(False)
        place = self._places.enter(network(address[0]), lambda: _hang_up(connection))
        if place is None:
            log.warning("a connection of %s was refused: all that it may have are busy", address[0])
            with suppress(OSError), connection:
                if self._context is None:
                    connection.send(answer(503, "all connections are busy; try again in a second"))
            return
        task = self._loop.create_task(self._connect(connection, place))
        self._arriving[task] = place
        task.add_done_callback(self._arriving.pop)

    async def _connect(self, connection: socket.socket, place: OpenConnection) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._made(self._places, place, self._limits),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.head if self._context is not None else None,
            )
        except OSError:  # the client went away, or TLS was not agreed
            self._places.leave(place)


def _hang_up(connection: socket.socket) -> None:
    """End a connection that asyncio owns already: it is told that there is no more to read."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    found = ip_address(address.partition("%")[0])
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))


def answer(status: int, error: str) -> bytes:
    """Return a response without an application, after which the connection is closed."""
    content = json.dumps({"error": error}).encode()
    retry = "Retry-After: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n{retry}Connection: close\r\n\r\n"
    ).encode() + content
