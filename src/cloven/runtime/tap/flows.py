"""Survey a capture: the bytes, frames and messages of each direction of each link, as far as they are visible."""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, SkipValidation

from cloven.documents import Document
from cloven.runtime.tap.captures import Tally
from cloven.runtime.tap.frames import FrameFinder
from cloven.runtime.tap.links import DirectionRecord, FrameHeader, TcpConnection, ends, links, listen
from cloven.runtime.tap.streams import TcpStream

PLAIN, PROTECTED, BOTH, TLS, HTTP2, OTHER = "plain protected plain+protected TLS HTTP/2 TCP".split()
COLUMNS = ("source", "target", "kind", "packets", "bytes", "lost", "frames", "payload", "ordinals: bytes x frames")


class PayloadSize(Document):
    """The number of frames with this ordinal and payload size."""

    ordinal: int
    bytes: int
    frames: int


class Flow(Document):
    """One direction of a link.

    Attributes:
        source: "IP:PORT"; the client's port is "*" if several connections were joined.
        target: likewise.
        kind: plain, protected or plain+protected: with cloven frames. TLS: opaque. HTTP/2, TCP: without frames.
        connections: the number of TCP connections.
        packets: the number of packets.
        bytes: the TCP content, without retransmissions.
        repeated: retransmitted bytes.
        gaps: the number of gaps in the recording.
        lost: the number of missing bytes.
        late: bytes that were skipped because they were recorded too long after those that follow them.
        frames: the number of complete cloven frames.
        cut: frames that begin in the recording but do not end in it.
        other: bytes of other messages, or of incomplete frames.
        inputs: the number of different images in the frames.
        payload: bytes of all payloads, without headers and tags.
        sessions: their ids, hexadecimal.
        sizes: the sizes of the payloads, by ordinal.
        headers: the headers of the frames, in order; not in documents.
        ports: the directions of the joined connections, as in packets; not in documents.
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
    sizes: tuple[PayloadSize, ...]
    headers: SkipValidation[Sequence[FrameHeader]] = Field(repr=False, exclude=True)
    ports: SkipValidation[frozenset[builtins.bytes]] = Field(repr=False, exclude=True)

    @property
    def name(self) -> str:
        """Return both ends: "IP:PORT -> IP:PORT"."""
        return f"{self.source} -> {self.target}"

    def row(self) -> tuple[object, ...]:
        """Return a row of a table, under `COLUMNS`."""
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


class CaptureReport(Document):
    """The survey of a capture as a document: counts of packets, warnings, and the flows."""

    version: Literal[1] = 1
    packets: int
    other: int
    tunnels: dict[str, int]
    dropped: int
    warnings: tuple[str, ...]
    flows: tuple[Flow, ...]


@dataclass(frozen=True)
class Survey:
    """The survey of a capture.

    Attributes:
        path: the file.
        tally: the counts of its packets.
        flows: the flow with the most payload first.
    """

    path: Path
    tally: Tally
    flows: tuple[Flow, ...]

    @property
    def warnings(self) -> list[str]:
        """Return the reasons why the numbers may be incomplete."""
        gaps = [
            f"{flow.name}: {flow.lost:,} bytes are missing in {flow.gaps:,} gaps, {flow.cut:,} frames incomplete"
            for flow in self.flows
            if flow.gaps or flow.cut
        ]
        late = [
            f"{flow.name}: {flow.late:,} bytes were skipped because they were recorded too late: "
            "sort the packets by time"
            for flow in self.flows
            if flow.late
        ]
        return self.tally.warnings() + gaps + late

    def report(self) -> CaptureReport:
        """Return the survey as a document."""
        tally = self.tally
        return CaptureReport(
            packets=tally.packets,
            other=tally.other,
            tunnels=dict(tally.tunnels),
            dropped=tally.dropped,
            warnings=tuple(self.warnings),
            flows=self.flows,
        )


def survey(path: Path) -> Survey:
    """Survey a capture; payloads are not kept.

    Raises:
        ClovenError: if the file cannot be read, is not a capture, or contains only packets of unknown link types.
    """
    tally, records = Tally(), dict[TcpStream, DirectionRecord]()
    for stream, finder, frames in listen(path, tally):
        if stream not in records:
            records[stream] = DirectionRecord(stream, finder)
        records[stream].note(frames)
    flows: list[Flow] = []
    for connections in links(records.values()):
        flows += _directions(connections)
    return Survey(path, tally, tuple(sorted(flows, key=lambda flow: (-flow.payload, -flow.bytes))))


def _directions(connections: Sequence[TcpConnection]) -> Iterator[Flow]:
    """Yield the flows of a link, one per direction."""
    client, joined = connections[0].client, len(connections) > 1
    there: list[DirectionRecord] = []
    back: list[DirectionRecord] = []
    for connection in connections:
        for record in connection.directions:
            (there if record.stream.flow == connection.client else back).append(record)
    source, target = ends(client, joined)
    if there:
        yield _flow(source, target, there)
    if back:
        yield _flow(target, source, back)


def _flow(source: str, target: str, records: Sequence[DirectionRecord]) -> Flow:
    streams, finders = [record.stream for record in records], [record.finder for record in records]
    headers: list[FrameHeader] = []
    sessions: dict[str, None] = {}
    for record in records:
        headers += record.headers
        sessions |= record.sessions
    sizes = Counter((frame.ordinal, frame.length) for frame in headers)
    return Flow(
        source=source,
        target=target,
        kind=_kind(finders, headers),
        connections=len({stream.flow for stream in streams}),
        packets=sum(stream.packets for stream in streams),
        bytes=sum(stream.bytes for stream in streams),
        repeated=sum(stream.repeated for stream in streams),
        gaps=sum(stream.gaps for stream in streams),
        lost=sum(stream.lost for stream in streams),
        late=sum(stream.late for stream in streams),
        frames=len(headers),
        cut=sum(finder.cut for finder in finders),
        other=sum(finder.other for finder in finders),
        inputs=len({frame.input for frame in headers}),
        payload=sum(frame.length for frame in headers),
        sessions=tuple(sessions),
        sizes=tuple(PayloadSize(ordinal=k, bytes=b, frames=n) for (k, b), n in sorted(sizes.items())),
        headers=headers,
        ports=frozenset(stream.flow for stream in streams),
    )


def _kind(finders: Sequence[FrameFinder], headers: Sequence[FrameHeader]) -> str:
    protected = {frame.protected for frame in headers}
    if protected:
        return BOTH if len(protected) > 1 else PROTECTED if protected.pop() else PLAIN
    if any(finder.tls for finder in finders):
        return TLS
    return HTTP2 if any(finder.http2 for finder in finders) else OTHER
