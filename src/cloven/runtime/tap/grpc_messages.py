"""The content of one stream of HTTP/2 as gRPC's messages, and of these those that are frames of ours."""

from __future__ import annotations

from typing import NamedTuple

from cloven.runtime.link.session import HEADER, LAYOUT, MAGIC

GRPC = 5
"""Bytes before a message of gRPC: 1 says whether it is compressed, 4 how long it is."""
TAG = 16
"""Bytes that each of our ciphers adds to a payload."""
LARGEST = 2**31
"""The largest message of gRPC, in bytes."""


class Frame(NamedTuple):
    """A frame of ours as it was on the link.

    Attributes:
        session: its 16 bytes.
        counter: its number in its session and direction.
        input: number of the image.
        ordinal: which message of the link for this image.
        length: bytes of the payload, without a tag.
        protected: whether there is a tag.
        body: what follows the header: payload, or ciphertext and tag.
    """

    session: bytes
    counter: int
    input: int
    ordinal: int
    length: int
    protected: bool
    body: memoryview


def told(data: bytes | bytearray, at: int = 0) -> tuple[int, bool] | None:
    """Return the size of a gRPC message, and whether it has a tag; None if it is not a frame of ours.

    Args:
        data: at least 5 + 48 bytes from there.
        at: the place of the message.
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
        """Begin.

        Args:
            aligned: whether a message begins at the first byte; else the first frame is searched for.
        """
        self._aligned = aligned
        self._held = bytearray()
        self._skip = 0

    @property
    def begun(self) -> bool:
        """Return whether a frame of ours has begun and not ended."""
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
        """Go over the next message; return False if more bytes are needed."""
        if not self._aligned and not self._found():
            return False
        held = self._held
        if len(held) < GRPC + len(MAGIC):
            return False
        if held[GRPC : GRPC + len(MAGIC)] != MAGIC:
            return self._other()
        if len(held) < GRPC + HEADER:
            # Nothing of ours is shorter than its header.
            return int.from_bytes(held[1:GRPC]) < HEADER and self._other()
        frame = told(held)
        if frame is None:
            return self._other()
        if len(held) < frame[0]:
            return False
        frames.append(self._taken(*frame))
        return True

    def _found(self) -> bool:
        """Search the next frame and drop what is before it."""
        while (at := self._held.find(MAGIC, GRPC)) >= 0:
            del self._held[: at - GRPC]
            if len(self._held) < GRPC + HEADER:
                return False
            if told(self._held):
                self._aligned = True
                return True
            del self._held[0]
        del self._held[: 1 - GRPC - len(MAGIC)]
        return False

    def _other(self) -> bool:
        """Leave out a message that is not ours."""
        size = int.from_bytes(self._held[1:GRPC])
        if self._held[0] > 1 or size > LARGEST:
            # No message begins here.
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
