"""Whose bytes belong together: directions of connections, connections of links.

A link is one connection of TCP at a time. Reconnected ones have other ports on the client's side and are joined;
connections that carry frames at the same time are different links and are not.
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
from cloven.runtime.tap.frames import Finder
from cloven.runtime.tap.messages import Frame
from cloven.runtime.tap.packets import segments
from cloven.runtime.tap.streams import Stream, reassemble, reverse


class Seen(NamedTuple):
    """A frame without its content."""

    input: int
    ordinal: int
    length: int
    protected: bool


@dataclass
class Heard:
    """What one direction of one connection said.

    Attributes:
        stream: the direction.
        finder: what was found in it.
        seen: its frames.
        sessions: their ids, in order.
        first: number of the segment that completed the first frame; 0 without frames.
        last: of the last one.
    """

    stream: Stream
    finder: Finder
    seen: list[Seen] = field(default_factory=list)
    sessions: dict[str, None] = field(default_factory=dict)
    first: int = 0
    last: int = 0

    def note(self, frames: Iterable[Frame]) -> None:
        """Note the frames that the latest segment completed."""
        for frame in frames:
            self.seen.append(Seen(frame.input, frame.ordinal, frame.length, frame.protected))
            self.sessions[frame.session.hex()] = None
            self.last = self.stream.latest
            self.first = self.first or self.last


def listen(
    path: Path, tally: Tally, only: Container[bytes] | None = None
) -> Iterator[tuple[Stream, Finder, list[Frame]]]:
    """The frames of a capture, as soon as they are complete; every direction at least once, though without frames.

    Args:
        path: a pcap or pcapng file.
        tally: gets the counts of packets.
        only: the directions of connections that are wanted, as in packets; all by default.

    Raises:
        ClovenError: where the file cannot be read, is no capture, or holds packets of unknown links only.
    """
    finders: dict[Stream, Finder] = {}
    for stream, chunk in reassemble(segments(path, tally, only)):
        finder = finders.get(stream) or finders.setdefault(stream, Finder(stream.begun))
        yield stream, finder, finder.add(chunk)
    for stream, finder in finders.items():
        yield stream, finder, finder.finish()


class Connection(NamedTuple):
    """A connection: the flow from its client to its server, as in packets, and both directions as heard."""

    client: bytes
    heard: tuple[Heard, ...]

    @property
    def framed(self) -> tuple[int, int] | None:
        """The numbers of the segments between which it carried frames."""
        spans = [(h.first, h.last) for h in self.heard if h.seen]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def links(heard: Iterable[Heard]) -> Iterator[list[Connection]]:
    """The connections of each link."""
    pairs: dict[bytes, list[Heard]] = defaultdict(list)
    for direction in heard:
        flow = direction.stream.flow
        pairs[min(flow, reverse(flow))].append(direction)
    groups: dict[tuple[bytes, bool], list[Connection]] = defaultdict(list)
    for both in pairs.values():
        connection = Connection(client_of(both), tuple(both))
        # All but the client's port, which precedes the server's.
        ends = connection.client[:-4] + connection.client[-2:]
        groups[ends, connection.framed is not None].append(connection)
    for connections in groups.values():
        spans = sorted(connection.framed for connection in connections if connection.framed)
        if any(last >= first for (_, last), (first, _) in pairwise(spans)):
            yield from ([connection] for connection in connections)
        else:
            yield connections


def client_of(both: Sequence[Heard]) -> bytes:
    """The flow from client to server: by who opened the connection, else by its first words, else by its ports."""
    for heard in both:
        flow, opened = heard.stream.flow, heard.stream.client
        if opened is not None:
            return flow if opened else reverse(flow)
        if heard.finder.preface:
            return flow
    flow = both[0].stream.flow
    return max(flow, reverse(flow), key=lambda flow: flow[-4:-2])


def ends(client: bytes, joined: bool) -> tuple[str, str]:
    """Client and server, for people."""
    half = (len(client) - 4) // 2
    hosts = [ip_address(client[:half]), ip_address(client[half : 2 * half])]
    source, target = (f"[{host}]" if host.version == 6 else str(host) for host in hosts)
    ports = [int.from_bytes(client[-4:-2]), int.from_bytes(client[-2:])]
    return f"{source}:{'*' if joined else ports[0]}", f"{target}:{ports[1]}"
