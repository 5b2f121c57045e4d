"""Find cloven frames in one direction of a connection: in gRPC messages, in DATA frames of HTTP/2.

If the beginning or a piece is missing, the next frame is searched for: our magic number, in a header whose size
agrees with that of the gRPC message around it, right after the header of a DATA frame. TLS is only recognised.
"""

from __future__ import annotations

import re
from contextlib import suppress

from cloven.errors import require
from cloven.runtime.link.session import HEADER, MAGIC
from cloven.runtime.tap.grpc_messages import GRPC, Frame, GrpcMessages, message_size
from cloven.runtime.tap.streams import Chunk

try:
    from hyperframe import frame as http2
    from hyperframe.exceptions import HyperframeError, InvalidFrameError
except ImportError as error:
    raise require("tap", error) from error

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of a client; a server begins with SETTINGS."""
SETTINGS = re.compile(rb"\0..\x04\0\0\0\0\0", re.DOTALL)
HEAD = 9
"""The size of an HTTP/2 frame header, in bytes."""
LARGEST = 2**14
"""The largest frame other than DATA, in bytes: peers do not negotiate more, so a larger size means lost sync."""
BEFORE = HEAD + 1 + GRPC
"""How far before our magic number a DATA frame's header may begin; it includes the byte for the padding length."""
HELLO = re.compile(rb"\x16\x03[\x00-\x04]..[\x01\x02]", re.DOTALL)
RECORD = re.compile(rb"[\x14-\x17]\x03[\x01-\x04]")
LARGEST_RECORD = 2**14 + 2**11
SAMPLE = 2**17
"""Bytes in which TLS is looked for if a recording begins in the middle: seven of the largest records."""


class FrameFinder:
    """Finds the frames of one direction of a connection.

    Attributes:
        preface: whether it begins with the preface of an HTTP/2 client.
        http2: whether it is HTTP/2.
        tls: whether it is TLS.
        other: bytes in DATA frames that are neither in our frames nor in the 5-byte gRPC prefix of one.
        cut: the number of our frames whose beginning was recorded, but not their end.
    """

    def __init__(self, begun: bool) -> None:
        """Create a finder; ``begun`` says whether the first byte is the first of the connection."""
        self.preface = self.http2 = self.tls = False
        self.other = self.cut = 0
        self._held = bytearray()
        self._opening = begun
        self._sample = bytearray()
        self._sampling = not begun
        self._synced = False
        self._need = 0
        self._aligned = begun
        self._streams: dict[int, GrpcMessages] = {}

    def add(self, chunk: Chunk) -> list[Frame]:
        """Take the next bytes; return the frames that they complete."""
        frames = self.finish() if chunk.lost else []
        self._held += chunk.data
        if self._sampling:
            self._sample += chunk.data
            self._look(SAMPLE)
        self._open(len(PREFACE))
        self._go(frames)
        return frames

    def finish(self) -> list[Frame]:
        """Return the remaining frames, at the end or before a gap; the search restarts with later bytes."""
        frames: list[Frame] = []
        self._look(0)
        self._open(0)
        self._go(frames)
        while self._synced:
            self._lose()
            self._go(frames)
        self._held.clear()
        self._sampling = not self.http2 and not self.tls
        return frames

    def _open(self, need: int) -> None:
        """Identify the protocol by the beginning of the connection, once ``need`` bytes have arrived."""
        if not self._opening or len(self._held) < need:
            return
        self._opening = False
        self.preface = self._held.startswith(PREFACE)
        self.http2 = self._synced = self._aligned = self.preface or bool(SETTINGS.match(self._held))
        self.tls = bool(HELLO.match(self._held))
        if self.preface:
            del self._held[: len(PREFACE)]

    def _look(self, need: int) -> None:
        """Determine whether the middle of a connection is TLS, once ``need`` bytes have arrived."""
        if self._sampling and len(self._sample) >= need:
            self.tls = records(self._sample)
            self._sampling, self._sample = False, bytearray()

    def _go(self, frames: list[Frame]) -> None:
        """Process the buffered bytes."""
        if self._synced and len(self._held) < self._need:
            return
        while not self._opening and (self._synced or self._search()):
            at, self._need, step = 0, 0, 1
            with memoryview(self._held) as view, suppress(HyperframeError):
                while step := self._take(view[at:], frames):
                    at += step
            del self._held[:at]
            if not step:
                return
            self._lose()

    def _take(self, view: memoryview, frames: list[Frame]) -> int:
        """Take one HTTP/2 frame; return its size, or 0 if it is incomplete.

        Raises:
            HyperframeError: if the bytes are not a frame.
        """
        if len(view) < HEAD:
            return 0
        frame, size = http2.Frame.parse_frame_header(view[:HEAD])
        if size > LARGEST and not isinstance(frame, http2.DataFrame):
            raise InvalidFrameError(f"{size} bytes")
        if len(view) < HEAD + size:
            self._need = HEAD + size
            return 0
        body = view[HEAD : HEAD + size]
        if isinstance(frame, http2.DataFrame):
            if "PADDED" in frame.flags:
                frame.parse_body(body)
                body = memoryview(frame.data)
            self._data(frame.stream_id, body, frames)
        else:
            frame.parse_body(body)
        if "END_STREAM" in frame.flags or isinstance(frame, http2.RstStreamFrame):
            ended = self._streams.pop(frame.stream_id, None)
            self.cut += ended is not None and ended.begun
        return HEAD + size

    def _data(self, stream: int, body: memoryview, frames: list[Frame]) -> None:
        if stream not in self._streams:
            self._streams[stream] = GrpcMessages(self._aligned)
        found = self._streams[stream].add(body)
        self.other += len(body) - sum(GRPC + HEADER + len(frame.body) for frame in found)
        frames += found

    def _lose(self) -> None:
        """Drop incomplete frames after losing synchronisation."""
        self.cut += sum(messages.begun for messages in self._streams.values())
        self.cut += self._held.find(MAGIC, HEAD + GRPC, BEFORE + len(MAGIC)) >= 0
        self._streams.clear()
        self._synced = self._aligned = False
        self._need = 0
        del self._held[:1]

    def _search(self) -> bool:
        """Find the next cloven frame and drop the bytes before it."""
        held = self._held
        while (at := held.find(MAGIC, HEAD + GRPC)) >= 0:
            if len(held) < at + HEADER:
                del held[: max(0, at - BEFORE)]
                return False
            start = data_before(held, at - GRPC)
            if start is not None:
                del held[:start]
                self.http2 = self._synced = True
                return True
            # The next one cannot begin before this one's second byte.
            del held[: at + 1 - HEAD - GRPC]
        del held[: -(BEFORE + len(MAGIC) - 1)]
        return False


def data_before(data: bytearray, at: int) -> int | None:
    """Return the offset of the DATA frame whose content begins with a cloven frame; None if there is none.

    Args:
        data: bytes of a connection, at least up to the end of our header.
        at: the offset of the 5-byte gRPC prefix before our header.
    """
    if not message_size(data, at):
        return None
    for start, padded in ((at - HEAD, 0), (at - HEAD - 1, 8)):
        size, stream = int.from_bytes(data[start : start + 3]), int.from_bytes(data[start + 5 : start + HEAD])
        kind, flags = data[start + 3], data[start + 4]
        if start >= 0 and kind == 0 and flags & ~1 == padded and 0 < stream < 2**31 and size > GRPC:
            return start
    return None


def records(data: bytearray) -> bool:
    """Return whether bytes from the middle of a connection are consecutive TLS records."""
    for match in RECORD.finditer(data):
        at, whole = match.start(), 0
        while RECORD.match(data, at) and whole < 3:
            size = int.from_bytes(data[at + 3 : at + 5])
            if size > LARGEST_RECORD:
                break
            at += 5 + size
            whole += at <= len(data)
        if whole >= 3 or (whole and at >= len(data)):
            return True
    return False
