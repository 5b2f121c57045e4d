"""TCP segments as the bytes of each direction of a connection, in order, whatever order they were recorded in.

Bytes are told as soon as nothing before them is missing. What is missing is waited for until `HELD` bytes wait in
all directions together, or the recording ends; then it is told as lost, and the bytes go on. The order is that of
TCP's sequence numbers; the packets' times are not looked at.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain
from typing import NamedTuple

from cloven.runtime.tap.packets import ACK, FIN, SYN, TcpSegment

HELD = 2**28
"""Bytes that may wait for those before them, in all directions together."""
OVERHEAD = 512
"""What a waiting segment counts beside its bytes."""
FAR = 2**30
"""TCP's largest window: a segment that is further away belongs to another connection of the same ports."""
BEFORE = 2**24
"""How far before the first recorded bytes of a connection its beginning may lie that is recorded after them."""
ALIKE = 8
"""How many connections of the same ports, one after another, may still get segments."""


class Chunk(NamedTuple):
    """The next bytes of a direction, how many were lost before them, and the number of the segment they came in."""

    lost: int
    data: memoryview
    number: int = 0


EMPTY = Chunk(0, memoryview(b""))


class TcpStream:
    """One direction of a connection.

    Attributes:
        flow: source, target and their ports, as in packets.
        begun: whether the recording has its beginning.
        client: whether its source opened the connection; None if the recording does not tell.
        packets: how many packets went this way.
        bytes: how many bytes were told, each once.
        repeated: how many were sent again.
        lost: how many are missing.
        late: how many came when those behind them had been told already, and were left out.
        latest: number of the last segment whose bytes were told, counted over all streams.
        held: bytes that wait, with `OVERHEAD` for each segment.
    """

    def __init__(self, segment: TcpSegment) -> None:
        """Begin with a direction's first segment, which is still to be added."""
        self.flow = segment.flow
        self.begun = False
        self.client: bool | None = None
        self.packets = self.bytes = self.repeated = self.lost = self.late = self.latest = self.held = 0
        # Places count on beyond 2^32; what lies before the first byte stays positive.
        self._place = self._lowest = 2**32 + segment.sequence
        self._going = False
        self._waiting: list[tuple[int, int, memoryview]] = []
        # Where each gap begins and ends, in order.
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def gaps(self) -> int:
        """Return how often bytes are missing."""
        return len(self._starts)

    def continues(self, segment: TcpSegment) -> bool:
        """Return whether a segment of these ports belongs to this connection, not to another one."""
        place = self._where(segment.sequence)
        if not segment.flags & SYN:
            return abs(place - self._place) <= FAR
        if self.begun:
            return place + 1 == self._start
        return not self._going and 0 <= self._lowest - place - 1 <= BEFORE

    def distance(self, segment: TcpSegment) -> int:
        """Return the distance of a segment from the stream's place, in bytes."""
        return abs(self._where(segment.sequence) - self._place)

    def add(self, segment: TcpSegment, number: int = 0) -> Sequence[Chunk]:
        """Take a segment and its number; return what can be told now, often just its bytes."""
        self.packets += 1
        data = segment.data
        place = self._where(segment.sequence)
        if segment.flags & SYN:
            place += 1
            if not self.begun:
                self.begun, self.client = True, not segment.flags & ACK
                self._start = self._place = place
                self._going = True
        if self._going and place == self._place and data and not self._waiting:
            self._place += len(data)
            self.bytes += len(data)
            return (Chunk(0, data, number),)
        # The end of a connection, though empty, tells that the bytes before it were sent.
        if data or segment.flags & FIN:
            self._lowest = min(self._lowest, place)
            heappush(self._waiting, (place, number, data))
            self.held += len(data) + OVERHEAD
        return self._told(self.held) if self._going else ()

    def release(self, most: int = 0) -> Sequence[Chunk]:
        """Tell what waits, in order, with what is missing as lost, until no more than so many bytes wait."""
        if not self._going and self._waiting:
            self._start = self._place = self._waiting[0][0]
            self._going = True
        return self._told(most)

    def _where(self, sequence: int) -> int:
        """Return the place of a sequence number: of those that it may mean, the nearest."""
        return self._place + (sequence - self._place + 2**31) % 2**32 - 2**31

    def _told(self, most: int) -> list[Chunk]:
        """Return what is in order, and as much of the rest as is over `most`."""
        told: list[Chunk] = []
        while self._waiting and (self._waiting[0][0] <= self._place or self.held > most):
            place, number, data = heappop(self._waiting)
            self.held -= len(data) + OVERHEAD
            known = max(0, min(self._place - place, len(data)))
            self._again(place, place + known)
            if place > self._place or known < len(data):
                told.append(self._next(max(0, place - self._place), data[known:], number))
        return told

    def _next(self, lost: int, data: memoryview, number: int) -> Chunk:
        if lost:
            self._starts.append(self._place)
            self._ends.append(self._place + lost)
        self._place += lost + len(data)
        self.bytes += len(data)
        self.lost += lost
        return Chunk(lost, data, number)

    def _again(self, start: int, end: int) -> None:
        """Count bytes behind which others were told already: those of a gap are late, all others came before."""
        # What lies before a recording that begins in the middle was never told either.
        late = 0 if self.begun else max(0, min(end, self._start) - start)
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first < last:
            gaps = list(zip(self._starts[first:last], self._ends[first:last], strict=True))
            filled = sum(min(b, end) - max(a, start) for a, b in gaps)
            left = [(a, b) for a, b in ((gaps[0][0], start), (end, gaps[-1][1])) if a < b]
            self._starts[first:last] = [a for a, _ in left]
            self._ends[first:last] = [b for _, b in left]
            self.lost -= filled
            late += filled
        self.late += late
        self.repeated += end - start - late


def reassemble(found: Iterable[TcpSegment]) -> Iterator[tuple[TcpStream, Chunk]]:
    """Return the bytes of all directions; one without any is told by an empty chunk.

    Args:
        found: segments as recorded: out of order, repeated, overlapping, or missing.
    """
    flows: dict[bytes, list[TcpStream]] = {}
    held = 0
    for number, segment in enumerate(found, 1):
        alike = flows.setdefault(segment.flow, [])
        fitting = [stream for stream in alike if stream.continues(segment)]
        if fitting:
            stream = min(fitting, key=lambda one: one.distance(segment)) if len(fitting) > 1 else fitting[0]
        else:
            stream = TcpStream(segment)
            alike.append(stream)
        before = stream.held
        yield from _noted(stream, stream.add(segment, number))
        held += stream.held - before
        if len(alike) > ALIKE:
            held -= alike[0].held
            yield from _ended(alike.pop(0))
        if held > HELD:
            for largest in sorted(chain.from_iterable(flows.values()), key=lambda one: -one.held):
                before = largest.held
                yield from _noted(largest, largest.release(before // 2))
                held -= before - largest.held
                if held <= HELD // 2:
                    break
    for stream in chain.from_iterable(flows.values()):
        yield from _ended(stream)


def _noted(stream: TcpStream, chunks: Sequence[Chunk]) -> Iterator[tuple[TcpStream, Chunk]]:
    for chunk in chunks:
        stream.latest = max(stream.latest, chunk.number)
        yield stream, chunk


def _ended(stream: TcpStream) -> Iterator[tuple[TcpStream, Chunk]]:
    yield from _noted(stream, stream.release())
    if not stream.latest:
        yield stream, EMPTY


def reverse(flow: bytes) -> bytes:
    """Return the other direction of a flow."""
    half = (len(flow) - 4) // 2
    return flow[half : 2 * half] + flow[:half] + flow[-2:] + flow[-4:-2]
