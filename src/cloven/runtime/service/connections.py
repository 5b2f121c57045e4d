"""HTTP connections with limits on number and duration; at a limit, some are closed for new ones."""

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
"""The length of the system's queue of connections, and how many are accepted in one turn of the event loop.

A new connection needs up to three turns to send its request: until then, newer ones must not displace it.
"""
PAUSE = 0.1
"""Seconds for which no connection is accepted after the system ran out of files or memory."""
PARTING = 5.0
"""Seconds that a request has to arrive completely when the service stops."""
SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""The errors after which accepting may succeed later."""

log = logging.getLogger("cloven.service")


@dataclass(frozen=True)
class ClientLimits:
    """The limits for clients of the service.

    Attributes:
        connections: the maximum number of open connections.
        per_address: the maximum number per IPv4 address or IPv6 /64 network.
        head: the seconds for the head of a request, from the connection or from the previous response.
        request: the seconds from the head of a request until its response is sent.
    """

    connections: int = 96
    per_address: int = 48
    head: float = 10.0
    request: float = 35.0


@dataclass(eq=False)
class OpenConnection:
    """An open connection: ``drop`` closes it; ``waiting`` is set unless a complete request is being answered."""

    address: str
    drop: Callable[[], None]
    waiting: bool = True


class ConnectionTable:
    """The open connections. At a limit, a new one replaces the oldest one that waits for its client.

    If all connections are in use, the address with the most waiting connections loses one. An address at its own
    limit loses one of its own. Connections whose request is being answered are never dropped.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._open: dict[OpenConnection, None] = {}  # the longest waiting first

    def enter(self, address: str, drop: Callable[[], None]) -> OpenConnection | None:
        """Return the entry of a new connection; None if it is refused."""
        mine = [place for place in self._open if place.address == address]
        if len(mine) >= self._limits.per_address and not self.drop(mine):
            return None
        if len(self._open) >= self._limits.connections and not self.drop(self._open):
            return None
        place = OpenConnection(address, drop)
        self._open[place] = None
        return place

    def drop(self, among: Iterable[OpenConnection] | None = None) -> bool:
        """Drop a waiting connection, if there is one; return whether there was."""
        waiting = [place for place in (self._open if among is None else among) if place.waiting]
        count = Counter(place.address for place in waiting)
        place = max(waiting, key=lambda place: count[place.address], default=None)
        if place is None:
            return False
        self.leave(place)
        place.drop()
        return True

    def wait(self, place: OpenConnection) -> None:
        """Record that a connection waits for its client's next request."""
        if place in self._open:
            self.leave(place)
            self._open[place] = None
        place.waiting = True

    def leave(self, place: OpenConnection) -> None:
        """Record that a connection is closed."""
        self._open.pop(place, None)


class HttpConnection(H11Protocol):
    """A connection of uvicorn with timeouts for the head, the rest of a request, and the reading of the response.

    A timer always runs while the connection is open, so that it cannot stay in any state for ever.
    """

    def __init__(
        self, places: ConnectionTable, place: OpenConnection, limits: ClientLimits, **of_uvicorn: Any
    ) -> None:
        super().__init__(**of_uvicorn)
        self._places, self._place, self._limits = places, place, limits
        self._timer: asyncio.TimerHandle | None = None
        self._begun: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first head; see `asyncio.Protocol`."""
        super().connection_made(transport)
        self._place.drop = self._drop
        self._within(self._limits.head)

    def handle_events(self) -> None:
        """Process received data; once the body of a request is complete, the connection is no longer dropped."""
        super().handle_events()
        if self.cycle is None or self.cycle.response_complete:
            return
        if self.cycle is not self._begun:
            self._begun = self.cycle
            self._within(self._limits.request)
        self._place.waiting = self.cycle.more_body

    def on_response_complete(self) -> None:
        """Wait for the next request; the rest of this one's body counts towards the timeout of the next head.

        If the client has already sent its next request, close the connection: answering thousands of pipelined
        requests in a row would delay other clients.
        """
        self._places.wait(self._place)
        self._within(self._limits.head)
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            self.transport.close()
        super().on_response_complete()

    def shutdown(self) -> None:
        """Close the connection after the response to a request that has arrived, or arrives soon."""
        super().shutdown()
        self.loop.call_later(PARTING, self._part)

    def _part(self) -> None:
        if self._place.waiting:
            self._drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection and its timer; see `asyncio.Protocol`."""
        super().connection_lost(exc)
        self._places.leave(self._place)
        if self._timer is not None:
            self._timer.cancel()

    def _within(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # an incomplete head
            self.transport.write(answer(408, "the head of the request took too long; send it again"))
        self.transport.abort()  # unlike close(), it does not wait until the client has read everything


class Entrance:
    """Accepts connections within the limits; has the methods of `asyncio.Server` that uvicorn calls.

    asyncio's server has no limits: it accepts connections until the process runs out of files, and then logs an
    error for each of them every second. It also does not report a connection before the TLS handshake is done.
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
        """Stop accepting connections."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listener)
        for place in list(self._arriving.values()):
            place.drop()

    async def wait_closed(self) -> None:
        """Wait until no connection is being set up."""
        await asyncio.gather(*self._arriving)

    def _go_on(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Accept a few connections; the event loop calls again while there are more."""
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
        """Close a connection to make room; if none can be closed, stop accepting for a while."""
        log.warning("cannot accept a connection: %s", error.strerror)
        if not self._places.drop():
            self._loop.remove_reader(self._listener)
            self._paused = self._loop.call_later(PAUSE, self._go_on)

    def _welcome(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        connection.setblocking(False)
        place = self._places.enter(network(address[0]), lambda: _hang_up(connection))
        if place is None:
            log.warning("a connection from %s was refused: all connections that it may have are busy", address[0])
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
        except OSError:  # the client disconnected, or the TLS handshake failed
            self._places.leave(place)


def _hang_up(connection: socket.socket) -> None:
    """Shut down a connection that asyncio already owns, so that it reads the end of the stream."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def network(address: str) -> str:
    """Return the identifier of a client: an IPv4 address, or the /64 network of an IPv6 address."""
    found = ip_address(address.partition("%")[0])
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))


def answer(status: int, error: str) -> bytes:
    """Return an error response as bytes, for use before the application; the connection is closed after it."""
    content = json.dumps({"error": error}).encode()
    retry = "Retry-After: 1\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n{retry}Connection: close\r\n\r\n"
    ).encode() + content
