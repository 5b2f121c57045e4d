"""Group captured directions into connections, and connections into links.

A link is one TCP connection at a time. After a reconnect, the client port differs, and the connections are joined;
connections that carry frames at the same time are different links.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from cloven.runtime.tap.captures import Tally
from cloven.runtime.tap.frames import FrameFinder
from cloven.runtime.tap.grpc_messages import Frame
from cloven.runtime.tap.packets import segments
from cloven.runtime.tap.streams import TcpStream, reassemble, reverse


class FrameHeader(NamedTuple):
    """The header of a frame."""

    input: int
    ordinal: int
    length: int
    protected: bool


@dataclass
class DirectionRecord:
    """One direction of a connection, with its frames.

    Attributes:
        stream: its bytes.
        finder: the finder of its frames.
        headers: the headers of its frames.
        sessions: their ids, in order.
        first: the number of the segment that completed the first frame; 0 without frames.
        last: the number of the segment that completed the last frame.
    """

    stream: TcpStream
    finder: FrameFinder
    headers: list[FrameHeader] = field(default_factory=list)
    sessions: dict[str, None] = field(default_factory=dict)
    first: int = 0
    last: int = 0

    def note(self, frames: Iterable[Frame]) -> None:
        """Record the frames that the latest segment completed."""
        for frame in frames:
            self.headers.append(FrameHeader(frame.input, frame.ordinal, frame.length, frame.protected))
            self.sessions[frame.session.hex()] = None
            self.last = self.stream.latest
            self.first = self.first or self.last


def listen(
    path: Path, tally: Tally, only: Container[bytes] | None = None
) -> Iterator[tuple[TcpStream, FrameFinder, list[Frame]]]:
    """Yield the frames of a capture as they complete; every direction occurs at least once.

    Args:
        path: a pcap or pcapng file.
        tally: updated with the counts of packets.
        only: the directions to select, as in packets; all by default.

    Raises:
        ClovenError: if the file cannot be read, is not a capture, or contains only packets of unknown link types.
    """
    finders: dict[TcpStream, FrameFinder] = {}
    for stream, chunk in reassemble(segments(path, tally, only)):
        finder = finders.get(stream) or finders.setdefault(stream, FrameFinder(stream.begun))
        yield stream, finder, finder.add(chunk)
    for stream, finder in finders.items():
        yield stream, finder, finder.finish()


class TcpConnection(NamedTuple):
    """A connection: the flow from client to server, as in packets, and both directions."""

    client: bytes
    directions: tuple[DirectionRecord, ...]

    @property
    def framed(self) -> tuple[int, int] | None:
        """Return the numbers of the first and the last segment that completed a frame; None without frames."""
        spans = [(record.first, record.last) for record in self.directions if record.headers]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def links(records: Iterable[DirectionRecord]) -> Iterator[list[TcpConnection]]:
    """Yield the connections of each link."""
    pairs: dict[bytes, list[DirectionRecord]] = defaultdict(list)
    for record in records:
        flow = record.stream.flow
        pairs[min(flow, reverse(flow))].append(record)
    groups: dict[tuple[bytes, bool], list[TcpConnection]] = defaultdict(list)
    for both in pairs.values():
        connection = TcpConnection(client_of(both), tuple(both))
        # All but the client's port, which precedes the server's.
        ends = connection.client[:-4] + connection.client[-2:]
        groups[ends, connection.framed is not None].append(connection)
    for connections in groups.values():
        spans = sorted(connection.framed for connection in connections if connection.framed)
        if any(last >= first for (_, last), (first, _) in pairwise(spans)):
            yield from ([connection] for connection in connections)
        else:
            yield connections


def client_of(both: Sequence[DirectionRecord]) -> bytes:
    """Return the flow from client to server, determined by the SYN, the HTTP/2 preface, or the ports."""
    for record in both:
        flow, opened = record.stream.flow, record.stream.client
        if opened is not None:
            return flow if opened else reverse(flow)
        if record.finder.preface:
            return flow
    flow = both[0].stream.flow
    return max(flow, reverse(flow), key=lambda flow: flow[-4:-2])


def ends(client: bytes, joined: bool) -> tuple[str, str]:
    """Return the addresses of client and server as text."""
    half = (len(client) - 4) // 2
    hosts = [ip_address(client[:half]), ip_address(client[half : 2 * half])]
    source, target = (f"[{host}]" if host.version == 6 else str(host) for host in hosts)
    ports = [int.from_bytes(client[-4:-2]), int.from_bytes(client[-2:])]
    return f"{source}:{'*' if joined else ports[0]}", f"{target}:{ports[1]}"
