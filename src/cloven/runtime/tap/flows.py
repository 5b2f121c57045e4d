"""What is in a capture: for each direction of each link its bytes, frames and messages, as far as one can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cloven.runtime.tap.captures import Tally
from cloven.runtime.tap.links import Connection, Heard, Seen, ends, links, listen
from cloven.runtime.tap.streams import Stream

PLAIN, PROTECTED, BOTH, TLS, HTTP2, OTHER = "plain protected plain+protected TLS HTTP/2 TCP".split()
COLUMNS = ("source", "target", "kind", "packets", "bytes", "lost", "frames", "payload", "ordinals: bytes x frames")

Ports = bytes
"""A direction of a connection, as in packets."""


class Size(NamedTuple):
    """How many frames of an ordinal had a payload of so many bytes."""

    ordinal: int
    bytes: int
    frames: int


@dataclass(frozen=True)
class Flow:
    """One direction of a link.

    Attributes:
        source: "IP:PORT"; the client's port is "*" where several connections were joined.
        target: likewise.
        kind: plain, protected or both: our frames. TLS: nobody sees inside. HTTP/2, TCP: without our frames.
        connections: how many of TCP.
        packets: how many.
        bytes: of TCP's content, each once.
        repeated: bytes that were sent again.
        gaps: how often bytes are missing from the recording.
        lost: how many.
        late: how many are recorded so far behind those that follow them that they were left out.
        frames: of ours, found whole.
        cut: frames that begin in the recording and do not end in it.
        other: bytes of messages that are not ours, or cut.
        inputs: different numbers of images in the frames.
        payload: bytes of all payloads, without headers and tags.
        sessions: their ids, hexadecimal.
        sizes: the ordinals, and how large their payloads are.
        seen: the frames, in their order.
        flows: the directions of connections that were joined, as in packets.
    """

    source: str
    target: str
    kind: str
    connections: int
    packets: int
    bytes: int
    repeated: int
    gaps: int
    lost: int
    late: int
    frames: int
    cut: int
    other: int
    inputs: int
    payload: int
    sessions: tuple[str, ...]
    sizes: tuple[Size, ...]
    seen: Sequence[Seen] = field(repr=False)
    flows: frozenset[Ports] = field(repr=False)

    @property
    def name(self) -> str:
        """Both ends: "IP:PORT -> IP:PORT"."""
        return f"{self.source} -> {self.target}"

    def row(self) -> tuple[object, ...]:
        """For people, under `COLUMNS`."""
        sizes = ", ".join(f"{size.ordinal}: {size.bytes:,} x {size.frames:,}" for size in self.sizes)
        return (
            self.source,
            self.target,
            self.kind,
            self.packets,
            self.bytes,
            self.lost,
            self.frames,
            self.payload,
            sizes,
        )

    def json(self) -> dict[str, Any]:
        """For programs."""
        left_out = ("seen", "flows", "sizes")
        found = {name: value for name, value in vars(self).items() if name not in left_out}
        return {**found, "sizes": [size._asdict() for size in self.sizes]}


@dataclass(frozen=True)
class Survey:
    """A capture, looked through once.

    Attributes:
        path: the file.
        tally: its packets.
        flows: most payload first.
    """

    path: Path
    tally: Tally
    flows: tuple[Flow, ...]

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before believing the numbers."""
        gaps = [
            f"{flow.name}: {flow.lost:,} bytes are missing in {flow.gaps:,} gaps, {flow.cut:,} frames are not whole"
            for flow in self.flows
            if flow.gaps or flow.cut
        ]
        late = [
            f"{flow.name}: {flow.late:,} bytes are recorded too far behind those that follow them, and left out: "
            "sort the packets by time"
            for flow in self.flows
            if flow.late
        ]
        return self.tally.warnings() + gaps + late

    def json(self) -> dict[str, Any]:
        """For programs."""
        tally = self.tally
        counts = {
            "packets": tally.packets, "other": tally.other, "tunnels": dict(tally.tunnels), "dropped": tally.dropped
        }  # fmt: skip
        return {**counts, "warnings": self.warnings, "flows": [flow.json() for flow in self.flows]}


def survey(path: Path) -> Survey:
    """Look through a capture once; payloads are not kept.

    Raises:
        ClovenError: where the file cannot be read, is no capture, or holds packets of unknown links only.
    """
    tally, heard = Tally(), dict[Stream, Heard]()
    for stream, finder, frames in listen(path, tally):
        if stream not in heard:
            heard[stream] = Heard(stream, finder)
        heard[stream].note(frames)
    flows = [flow for connections in links(heard.values()) for flow in _directions(connections)]
    return Survey(path, tally, tuple(sorted(flows, key=lambda flow: (-flow.payload, -flow.bytes))))


def _directions(connections: Sequence[Connection]) -> Iterator[Flow]:
    """The flows of a link, there and back."""
    client, joined = connections[0].client, len(connections) > 1
    for back in (False, True):
        here = [
            h
            for connection in connections
            for h in connection.heard
            if (h.stream.flow != connection.client) == back
        ]
        if here:
            both = ends(client, joined)
            yield _flow(*(both[::-1] if back else both), here)


def _flow(source: str, target: str, heard: Sequence[Heard]) -> Flow:
    streams = [h.stream for h in heard]
    seen = [frame for h in heard for frame in h.seen]
    sizes = Counter((frame.ordinal, frame.length) for frame in seen)
    return Flow(
        source,
        target,
        _kind(heard, seen),
        len({stream.flow for stream in streams}),
        sum(stream.packets for stream in streams),
        sum(stream.bytes for stream in streams),
        sum(stream.repeated for stream in streams),
        sum(stream.gaps for stream in streams),
        sum(stream.lost for stream in streams),
        sum(stream.late for stream in streams),
        len(seen),
        sum(h.finder.cut for h in heard),
        sum(h.finder.other for h in heard),
        len({frame.input for frame in seen}),
        sum(frame.length for frame in seen),
        tuple(dict.fromkeys(session for h in heard for session in h.sessions)),
        tuple(Size(*size, frames) for size, frames in sorted(sizes.items())),
        seen,
        frozenset(stream.flow for stream in streams),
    )


def _kind(heard: Sequence[Heard], seen: Sequence[Seen]) -> str:
    protected = {frame.protected for frame in seen}
    if protected:
        return BOTH if len(protected) > 1 else PROTECTED if protected.pop() else PLAIN
    if any(h.finder.tls for h in heard):
        return TLS
    return HTTP2 if any(h.finder.http2 for h in heard) else OTHER
