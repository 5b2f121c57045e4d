"""Split one HTTP/2 stream into gRPC messages, and find the cloven frames among them."""

from __future__ import annotations

from typing import NamedTuple

from cloven.runtime.link.session import HEADER, LAYOUT, MAGIC

GRPC = 5
"""The size of the prefix of a gRPC message: 1 byte for compression, 4 for the length."""
TAG = 16
"""The size of the tag that each of our ciphers adds to a payload, in bytes."""
LARGEST = 2**31
"""The largest gRPC message, in bytes."""


class Frame(NamedTuple):
    """A cloven frame as recorded on a link.

    Attributes:
        session: the session id, 16 bytes.
        counter: the number of the frame in its session and direction.
        input: the number of the image.
        ordinal: the number of the message among those of the link for this image.
        length: the size of the payload in bytes, without tag.
        protected: whether there is a tag.
        body: the bytes after the header: payload, or ciphertext and tag.
    """

    session: bytes
    counter: int
    input: int
    ordinal: int
    length: int
    protected: bool
    body: memoryview


def message_size(data: bytes | bytearray, at: int = 0) -> tuple[int, bool] | None:
    """Return the size of a gRPC message, and whether it has a tag; None if it is not a cloven frame.

    Args:
        data: at least 5 + 48 bytes from the offset.
        at: the offset of the message.
    """
    size = int.from_bytes(data[at + 1 : at + GRPC])
    magic, _, _, _, number, length = LAYOUT.unpack_from(data, at + GRPC)
    extra = size - HEADER - length
    if data[at] or magic != MAGIC or extra not in (0, TAG) or number >> 63:
        return None
    return GRPC + size, extra == TAG


class GrpcMessages:
    """The messages of one stream."""

    def __init__(self, aligned: bool) -> None:
        """Create a stream; unless ``aligned``, the first byte does not begin a message, and a frame is searched."""
        self._aligned = aligned
        self._held = bytearray()
        self._skip = 0

    @property
    def begun(self) -> bool:
        """Return whether a cloven frame has begun but not ended."""
        return self._aligned and self._held[GRPC : GRPC + len(MAGIC)] == MAGIC

    def add(self, data: memoryview) -> list[Frame]:
        """Take the next bytes; return the frames that they complete."""
        step = min(self._skip, len(data))
        self._skip -= step
        self._held += data[step:]
        frames: list[Frame] = []
        while self._step(frames):
            pass
        return frames

    def _step(self, frames: list[Frame]) -> bool:
        """Process the next message; return False if more bytes are needed."""
        if not self._aligned and not self._found():
            return False
        held = self._held
        if len(held) < GRPC + len(MAGIC):
            return False
        if held[GRPC : GRPC + len(MAGIC)] != MAGIC:
            return self._other()
        if len(held) < GRPC + HEADER:
            # A cloven frame is never shorter than its header.
            return int.from_bytes(held[1:GRPC]) < HEADER and self._other()
        frame = message_size(held)
        if frame is None:
            return self._other()
        if len(held) < frame[0]:
            return False
        frames.append(self._taken(*frame))
        return True

    def _found(self) -> bool:
        """Find the next frame and drop the bytes before it."""
        while (at := self._held.find(MAGIC, GRPC)) >= 0:
            del self._held[: at - GRPC]
            if len(self._held) < GRPC + HEADER:
                return False
            if message_size(self._held):
                self._aligned = True
                return True
            del self._held[0]
        del self._held[: 1 - GRPC - len(MAGIC)]
        return False

    def _other(self) -> bool:
        """Skip a message that is not a cloven frame."""
        size = int.from_bytes(self._held[1:GRPC])
        if self._held[0] > 1 or size > LARGEST:
            # A message cannot begin here.
            self._aligned = False
            del self._held[0]
            return True
        end = GRPC + size
        self._skip = max(0, end - len(self._held))
        del self._held[:end]
        return True

    def _taken(self, end: int, protected: bool) -> Frame:
        whole = self._held
        if len(whole) == end:
            self._held = bytearray()
        else:
            whole = whole[:end]
            del self._held[:end]
        _, ordinal, session, counter, number, length = LAYOUT.unpack_from(whole, GRPC)
        return Frame(session, counter, number, ordinal, length, protected, memoryview(whole)[GRPC + HEADER :])
