"""TCP segments as the bytes of each direction of a connection, in order, as soon as nothing before them is missing.

What is missing is waited for until `WINDOW` bytes have come after it; then it is told as lost, and the bytes go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from cloven.runtime.tap.packets import ACK, FIN, SYN, Segment

WINDOW = 2**24
"""Bytes: more than a sender may have under way with the receive buffers that systems come with."""
OVERHEAD = 512
"""What a waiting segment counts beside its bytes."""
FIRST = 16
"""A recording that begins in a connection's middle may begin with packets out of order: so many are sorted."""
FAR = 2**30
"""TCP's largest window: a segment that is further away belongs to another connection of the same ports."""


class Chunk(NamedTuple):
    """The next bytes of a direction, and how many were lost before them."""

    lost: int
    data: memoryview


EMPTY = Chunk(0, memoryview(b""))


class Stream:
    """One direction of a connection.

    Attributes:
        flow: source, target and their ports, as in packets.
        begun: whether the recording has its beginning.
        client: whether its source opened the connection; None where the recording does not tell.
        packets: how many packets went this way.
        bytes: how many bytes were found, each once.
        repeated: how many were sent again.
        gaps: how often bytes are missing.
        lost: how many are.
        latest: number of the last segment that brought bytes, counted over all streams.
    """

    def __init__(self, segment: Segment) -> None:
        """Begin with a direction's first segment."""
        opening = bool(segment.flags & SYN)
        self.flow = segment.flow
        self.begun = opening
        self.client = not segment.flags & ACK if opening else None
        self.packets = self.bytes = self.repeated = self.gaps = self.lost = self.latest = 0
        # Places count on beyond 2^32; what lies before the first byte stays positive.
        self._start = 2**32 + (segment.sequence + opening) % 2**32
        self._place = self._start
        self._sorting = 0 if opening else FIRST
        self._waiting: list[tuple[int, int, memoryview]] = []
        self._held = 0
        self._number = count()

    def continues(self, segment: Segment) -> bool:
        """Whether a segment of these ports belongs to this connection, not to the next one."""
        if segment.flags & SYN:
            return self.begun and self._start % 2**32 == (segment.sequence + 1) % 2**32
        return abs(self._where(segment.sequence) - self._place) <= FAR

    def add(self, segment: Segment) -> Sequence[Chunk]:
        """Take a segment; what can be told now, often just its bytes."""
        self.packets += 1
        data = segment.data
        place = self._where(segment.sequence + bool(segment.flags & SYN))
        if place == self._place and data and not self._waiting and not self._sorting:
            self._place += len(data)
            self.bytes += len(data)
            return (Chunk(0, data),)
        # The end of a connection, though empty, tells that the bytes before it were sent.
        if data or segment.flags & FIN:
            heappush(self._waiting, (place, next(self._number), data))
            self._held += len(data) + OVERHEAD
        if self._sorting and len(self._waiting) < self._sorting:
            return ()
        return self._told(WINDOW)

    def finish(self) -> Sequence[Chunk]:
        """What is left at the end."""
        return self._told(0)

    def _where(self, sequence: int) -> int:
        """The place of a sequence number: of those that it may mean, the one next to where we are."""
        return self._place + (sequence - self._place + 2**31) % 2**32 - 2**31

    def _told(self, most: int) -> list[Chunk]:
        """What is in order, and as much of the rest as has waited enough."""
        told: list[Chunk] = []
        if self._sorting and self._waiting:
            self._place, self._sorting = self._waiting[0][0], 0
        while self._waiting and (self._waiting[0][0] <= self._place or self._held > most):
            place, _, data = heappop(self._waiting)
            self._held -= len(data) + OVERHEAD
            known = self._place - place
            self.repeated += max(0, min(known, len(data)))
            if known < 0 or known < len(data):
                told.append(self._next(max(0, -known), data[max(0, known) :]))
        return told

    def _next(self, lost: int, data: memoryview) -> Chunk:
        self._place += lost + len(data)
        self.bytes += len(data)
        self.lost += lost
        self.gaps += lost > 0
        return Chunk(lost, data)


def reassemble(found: Iterable[Segment]) -> Iterator[tuple[Stream, Chunk]]:
    """The bytes of all directions; each new one is told by an empty chunk.

    Args:
        found: segments as recorded: out of order, repeated, overlapping, or missing.
    """
    streams: dict[bytes, Stream] = {}
    for number, segment in enumerate(found, 1):
        stream = streams.get(segment.flow)
        if stream is None or not stream.continues(segment):
            if stream is not None:
                yield from ((stream, chunk) for chunk in stream.finish())
            stream = streams[segment.flow] = Stream(segment)
            yield stream, EMPTY
        if segment.data:
            stream.latest = number
        for chunk in stream.add(segment):
            yield stream, chunk
    for stream in streams.values():
        yield from ((stream, chunk) for chunk in stream.finish())


def reverse(flow: bytes) -> bytes:
    """The other direction of a flow."""
    half = (len(flow) - 4) // 2
    return flow[half : 2 * half] + flow[:half] + flow[-2:] + flow[-4:-2]
