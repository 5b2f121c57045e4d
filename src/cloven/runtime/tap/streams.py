"""Reassemble TCP segments, recorded in any order, into the byte stream of each direction of a connection.

Bytes are returned as soon as all bytes before them are. Bytes after a gap wait until `HELD` bytes wait in all
directions together, or the recording ends; then the gap is reported as lost, and the stream continues. The order is
that of the TCP sequence numbers; timestamps are ignored.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain
from typing import NamedTuple

from cloven.runtime.tap.packets import ACK, FIN, SYN, TcpSegment

HELD = 2**28
"""The limit of bytes that wait for earlier ones, in all directions together."""
OVERHEAD = 512
"""The size that a waiting segment adds to its bytes."""
FAR = 2**30
"""TCP's largest window: a segment further away belongs to another connection of the same ports."""
BEFORE = 2**24
"""How far a connection's SYN may precede the first recorded bytes if it is recorded after them, in bytes."""
ALIKE = 8
"""The number of consecutive connections of the same ports that can still receive segments."""


class Chunk(NamedTuple):
    """The next bytes of a direction, the number of bytes lost before them, and the number of their segment."""

    lost: int
    data: memoryview
    number: int = 0


EMPTY = Chunk(0, memoryview(b""))


class TcpStream:
    """One direction of a connection.

    Attributes:
        flow: source, target and their ports, as in packets.
        begun: whether the recording contains its beginning.
        client: whether its source opened the connection; None if the recording does not show it.
        packets: the number of its packets.
        bytes: the number of returned bytes.
        repeated: the number of retransmitted bytes.
        lost: the number of missing bytes.
        late: the number of bytes that were skipped because later ones had already been returned.
        latest: the number of the last segment with returned bytes, counted over all streams.
        held: the number of waiting bytes, including `OVERHEAD` for each segment.
    """

    def __init__(self, segment: TcpSegment) -> None:
        """Create a stream for a direction's first segment, which must still be added."""
        self.flow = segment.flow
        self.begun = False
        self.client: bool | None = None
        self.packets = self.bytes = self.repeated = self.lost = self.late = self.latest = self.held = 0
        # Places continue beyond 2^32; those before the first byte stay positive.
        self._place = self._lowest = 2**32 + segment.sequence
        self._going = False
        self._waiting: list[tuple[int, int, memoryview]] = []
        # The beginning and end of each gap, in order.
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def gaps(self) -> int:
        """Return the number of gaps."""
        return len(self._starts)

    def continues(self, segment: TcpSegment) -> bool:
        """Return whether a segment of these ports belongs to this connection rather than to another one."""
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
        """Add a segment with its number; return the bytes that are now in order, usually just its own."""
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
        # A FIN, even if empty, shows that the bytes before it were sent.
        if data or segment.flags & FIN:
            self._lowest = min(self._lowest, place)
            heappush(self._waiting, (place, number, data))
            self.held += len(data) + OVERHEAD
        return self._in_order(self.held) if self._going else ()

    def release(self, most: int = 0) -> Sequence[Chunk]:
        """Return waiting bytes in order, and count gaps as lost, until at most ``most`` bytes wait."""
        if not self._going and self._waiting:
            self._start = self._place = self._waiting[0][0]
            self._going = True
        return self._in_order(most)

    def _where(self, sequence: int) -> int:
        """Return the place of a sequence number: the nearest of the possible ones."""
        return self._place + (sequence - self._place + 2**31) % 2**32 - 2**31

    def _in_order(self, most: int) -> list[Chunk]:
        """Return the chunks that are in order, and of the rest as many as exceed ``most`` bytes."""
        chunks: list[Chunk] = []
        while self._waiting and (self._waiting[0][0] <= self._place or self.held > most):
            place, number, data = heappop(self._waiting)
            self.held -= len(data) + OVERHEAD
            known = max(0, min(self._place - place, len(data)))
            self._again(place, place + known)
            if place > self._place or known < len(data):
                chunks.append(self._next(max(0, place - self._place), data[known:], number))
        return chunks

    def _next(self, lost: int, data: memoryview, number: int) -> Chunk:
        if lost:
            self._starts.append(self._place)
            self._ends.append(self._place + lost)
        self._place += lost + len(data)
        self.bytes += len(data)
        self.lost += lost
        return Chunk(lost, data, number)

    def _again(self, start: int, end: int) -> None:
        """Count bytes that precede the returned ones: they are late if they fill a gap, else repeated."""
        # Bytes before the start of a recording that begins in the middle were never returned either.
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
    """Yield the bytes of all directions in order; a direction without bytes yields one empty chunk.

    Args:
        found: segments as recorded; they may be out of order, repeated, overlapping, or missing.
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
