"""Measure the link with another party: exchanges of several sizes on one gRPC stream.

    dialer                                            other side
    request: bytes up, bytes down, then the bytes ──▶  reads them all
    reads the reply and the bytes                ◀───  reply, then the bytes down

Exchanges without bytes give the round-trip time. The difference between large ones and a quarter of their size
gives the time of a byte in each direction; single messages show what each costs besides. The bytes are zeros, in
messages of 32 KiB.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import grpc.aio

from cloven.runtime.cluster.channels import CLOSED, ECHO, MessageStream, channel
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.protocol import (
    LARGEST_EXCHANGE,
    VERSION,
    EchoReply,
    EchoRequest,
    LinkMeasurement,
    TransferTimes,
    read,
)
from cloven.runtime.link.errors import LinkError

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

CHUNK = 2**15
"""The size in bytes of the messages that carry an exchange; every server accepts this size."""

PAYLOAD = 2**14
"""The size in bytes of one message whose time shows what each message costs."""

SMALLEST = 2**16
"""The minimum size of a large exchange in bytes."""

ENOUGH = 0.05
"""Seconds that a large exchange takes, if `LARGEST_EXCHANGE` allows it."""

ROUNDS, REPETITIONS = 50, 7
"""The numbers of round trips and of large exchanges; the results are medians."""

ENDING = 1.5
"""Seconds after which no further exchange of one kind begins."""

WARM_UP = 5
"""Round trips that are not counted."""

LONGEST = 30.0
"""The timeout of one link in seconds."""

Exchange = Callable[[int], Awaitable[float]]
"""Exchanges a number of bytes in one direction; returns the seconds that it took."""


async def measured(
    ends: tuple[str, str], address: str, identity: Identity | None, check_idle: Callable[[], None]
) -> LinkMeasurement:
    """Return the times of exchanges with another party.

    Args:
        ends: our name, and the other party's.
        address: the other party's address.
        identity: our keys, for mutual TLS; None without it.
        check_idle: called before each exchange; raises an error if a run has begun here.

    Raises:
        PartyError: if the party cannot be reached, refuses, or the link is too slow.
        LinkError: if an answer is malformed, or whatever ``check_idle`` raises.
    """
    me, party = ends
    async with channel(party, address, identity, CHUNK) as to:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(ECHO)()
        dialer = EchoDialer(MessageStream(party, call, address), me, check_idle)
        try:
            async with asyncio.timeout(LONGEST):
                return await dialer.measured()
        except TimeoutError:
            raise PartyError(party, f"its link is too slow to be measured within {LONGEST:g} s") from None
        finally:
            dialer.stream.cancel()


class EchoDialer:
    """The dialer's end of a measurement.

    Attributes:
        processor: the processor's seconds of the other party, as of its last reply.
    """

    def __init__(self, stream: MessageStream, me: str, check_idle: Callable[[], None]) -> None:
        self.stream, self.me, self.check_idle = stream, me, check_idle
        self.processor = 0.0

    async def measured(self) -> LinkMeasurement:
        """Return the times of round trips, and of large exchanges in each direction."""
        await _repeated(self.round_trip, WARM_UP)
        theirs, ours = self.processor, time.process_time()
        trips = await _repeated(self.round_trip, ROUNDS)
        worked = (self.processor - theirs) + (time.process_time() - ours)
        return LinkMeasurement(
            round_trip=median(trips),
            processor=max(0.0, worked / len(trips)),
            payload=PAYLOAD,
            loaded_trip=median(await _repeated(partial(self.send, PAYLOAD), ROUNDS)),
            forth=await _transfers(self.send),
            back=await _transfers(self.receive),
        )

    async def round_trip(self) -> float:
        """Exchange no bytes."""
        return await self._exchange(0, 0)

    async def send(self, size: int) -> float:
        """Send this number of bytes."""
        return await self._exchange(size, 0)

    async def receive(self, size: int) -> float:
        """Receive this number of bytes."""
        return await self._exchange(0, size)

    async def _exchange(self, up: int, down: int) -> float:
        self.check_idle()
        party = self.stream.party
        request = EchoRequest(cloven=VERSION, dialer=self.me, other=party, up=up, down=down).encode()
        start = time.perf_counter()
        await self.stream.write(request)
        await _send(self.stream, up)
        message = await self.stream.read()
        if message is None:
            raise PartyError(party, CLOSED, again=True)
        reply = read(EchoReply, message, party)
        if reply.refused is not None:
            raise PartyError(party, reply.refused, again=reply.again)
        await _receive(self.stream, down)
        seconds = time.perf_counter() - start
        self.processor = reply.processor
        return seconds


async def answer(stream: MessageStream, request: EchoRequest, check_idle: Callable[[], None]) -> None:
    """Answer exchanges, from the first request on, until the dialer has finished or the time is up.

    Raises:
        LinkError: if a message is malformed, the time is up, or whatever ``check_idle`` raises.
        PartyError: if the stream breaks.
    """
    try:
        async with asyncio.timeout(LONGEST):
            while True:
                await _receive(stream, request.up)
                check_idle()
                await stream.write(EchoReply(cloven=VERSION, processor=time.process_time()).encode())
                await _send(stream, request.down)
                message = await stream.read()
                if message is None:
                    return
                request = read(EchoRequest, message, stream.party)
    except TimeoutError:
        raise LinkError(f"the measurement took more than {LONGEST:g} s") from None


async def _repeated(exchange: Callable[[], Awaitable[float]], times: int) -> list[float]:
    """Return the seconds of exchanges; fewer than ``times`` if they take long."""
    found: list[float] = []
    until = time.monotonic() + ENDING
    while len(found) < times and (not found or time.monotonic() < until):
        found.append(await exchange())
    return found


async def _transfers(exchange: Exchange) -> TransferTimes:
    """Return the times of a large exchange that takes long enough, and of a quarter of it."""
    size = SMALLEST
    while await exchange(size) < ENOUGH and size < LARGEST_EXCHANGE:
        size *= 2
    small: list[float] = []
    large: list[float] = []
    until = time.monotonic() + ENDING
    while len(large) < REPETITIONS and (not large or time.monotonic() < until):
        small.append(await exchange(size // 4))
        large.append(await exchange(size))
    return TransferTimes(bytes=size, seconds=median(large), quarter_seconds=median(small))


def _chunks(size: int) -> Iterator[int]:
    while size > 0:
        yield min(CHUNK, size)
        size -= CHUNK


async def _send(stream: MessageStream, size: int) -> None:
    for length in _chunks(size):
        await stream.write(bytes(length))


async def _receive(stream: MessageStream, size: int) -> None:
    for length in _chunks(size):
        message = await stream.read()
        if message is None:
            raise PartyError(stream.party, CLOSED, again=True)
        if len(message) != length:
            raise LinkError(f"{stream.party} sent {len(message)} bytes of an exchange; expected {length}")
