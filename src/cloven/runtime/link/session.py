"""Frames of one session: sealed in order on one side, opened in the same order on the other.

    magic, version  4 bytes    ordinal  4    session  16    counter  8    input  8    length  8    payload    tag

The header is authenticated, not encrypted: it says which session, the number of the frame in it, which input of the
run, which of the link's messages for that input (a number, no name or shape) and how many bytes. Lengths leak. The
nonce is the counter: one key per direction, one frame per counter. With no cipher ("none") the same header goes
before the plain payload, so that sizes compare; then order, session and length are checked, and whoever can write
to the link can forge.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from cloven.runtime.link.ciphers import Cipher
from cloven.runtime.link.errors import FrameRefused, LinkError, Reason, SessionExhausted, WrongTag
from cloven.runtime.link.handshake import SESSION, VERSION, Session
from cloven.runtime.link.octets import octets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloven.runtime.link.octets import Data

MAGIC = b"clv" + bytes([VERSION])
LAYOUT = struct.Struct(f">4sI{SESSION}sQQQ")
HEADER = LAYOUT.size
"""Bytes of a header: 48."""
LARGEST_ORDINAL = 2**32 - 1
LARGEST_INPUT = 2**63 - 1
LARGEST_PAYLOAD = 2**31 - 2**16
"""What the libraries' ciphers take in one message."""


@dataclass(frozen=True)
class FrameLimits:
    """The most that one frame and one key may carry.

    Attributes:
        length: largest payload of a frame, in bytes.
        frames: most frames of one direction of a session.
        total: most payload bytes of one direction of a session. The default, 2^32 blocks of 16 bytes, keeps the
            best known attack on AES-GCM below a chance of 2^-64; Ascon's own limit is far above.
    """

    length: int = 256 * 2**20
    frames: int = 2**32
    total: int = 2**36

    def __post_init__(self) -> None:
        if not 0 < self.length <= LARGEST_PAYLOAD:
            raise LinkError(f"the largest frame must be of 1 to {LARGEST_PAYLOAD} bytes, not {self.length}")
        if not 0 < self.frames <= 2**63 or self.total <= 0:
            raise LinkError(f"a session needs room for a frame, not {self.frames} frames and {self.total} bytes")


class Opened(NamedTuple):
    """A frame's content: which input and which of the link's messages for it, and the payload."""

    input: int
    ordinal: int
    payload: memoryview


class Direction:
    """One direction of a session: its key, counter and limits. Cannot be copied: a copy would repeat nonces."""

    def __init__(
        self, session: bytes, cipher: Cipher | None, key: bytes = b"", limits: FrameLimits | None = None
    ) -> None:
        """Begin at frame zero.

        Args:
            session: the session's 16 bytes.
            cipher: None for no protection.
            key: this direction's key; its first bytes are used if it is longer than the cipher's.
            limits: see `Limits`.

        Raises:
            LinkError: for an id or key that is too short.
        """
        need = cipher.key_bytes if cipher else 0
        if len(session) != SESSION or len(key) < need:
            raise LinkError(
                f"a session has an id of {SESSION} bytes and a key of {need}, not {len(session)} and {len(key)}"
            )
        self.session = session
        self.cipher = cipher
        self.limits = limits or FrameLimits()
        self.frames = 0
        self.total = 0
        self._key = key[:need]
        self._lock = Lock()

    def __repr__(self) -> str:
        name = self.cipher.name if self.cipher else "none"
        return f"{type(self).__name__}({name}, session {self.session.hex()}, {self.frames} frames)"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or sent: two of them would use a nonce twice")

    @property
    def tag_bytes(self) -> int:
        """Return how much longer than header and payload a frame is."""
        return self.cipher.tag_bytes if self.cipher else 0

    def nonce(self, cipher: Cipher) -> bytes:
        """Return the nonce of the next frame."""
        return self.frames.to_bytes(cipher.nonce_bytes, "big")


class Sealer(Direction):
    """Makes the frames of one direction, in order; threads may share it, if frames are sent in the order made."""

    def seal(self, number: int, ordinal: int, *pieces: Data) -> bytes:
        """Return the next frame. Without protection its payload is copied once.

        Args:
            number: of the input, 0 to 2^63 - 1.
            ordinal: of the message, 0 to 2^32 - 1.
            pieces: contiguous buffers, one after another; ``limits.length`` bytes at most.

        Raises:
            SessionExhausted: if the key has sealed as much as it may; nothing is used up.
            LinkError: for numbers or a payload that do not fit.
        """
        parts = [octets(piece) for piece in pieces]
        size = sum(part.nbytes for part in parts)
        if not 0 <= ordinal <= LARGEST_ORDINAL or not 0 <= number <= LARGEST_INPUT or size > self.limits.length:
            raise LinkError(
                f"a frame takes inputs to {LARGEST_INPUT}, ordinals to {LARGEST_ORDINAL} and {self.limits.length} "
                f"bytes, not input {number}, ordinal {ordinal} with {size} bytes"
            )
        with self._lock:
            if self.frames >= self.limits.frames or self.total + size > self.limits.total:
                raise SessionExhausted(
                    f"this session's key has sealed {self.frames} frames and {self.total} bytes and may seal "
                    f"{self.limits.frames} and {self.limits.total}: make a new session by a new handshake"
                )
            header = LAYOUT.pack(MAGIC, ordinal, self.session, self.frames, number, size)
            frame = self._sealed(header, parts, size) if self.cipher else b"".join([header, *parts])
            self.frames += 1
            self.total += size
        return frame

    def _sealed(self, header: bytes, parts: Sequence[memoryview], size: int) -> bytes:
        assert self.cipher is not None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        frame = bytearray(HEADER + size + self.tag_bytes)
        frame[:HEADER] = header
        self.cipher.seal_into(self._key, self.nonce(self.cipher), header, data, memoryview(frame)[HEADER:])
        return bytes(frame)


class Opener(Direction):
    """Opens the frames of one direction, each once and in order. A refused one is counted and changes nothing else.

    Attributes:
        refused: how many frames were refused, by reason.
    """

    def __init__(
        self, session: bytes, cipher: Cipher | None, key: bytes = b"", limits: FrameLimits | None = None
    ) -> None:
        """Begin at frame zero; arguments and errors as `Direction`."""
        super().__init__(session, cipher, key, limits)
        self.refused: Counter[Reason] = Counter()

    def open(self, frame: Data) -> Opened:
        """Return the content of the next frame.

        Raises:
            FrameRefused: if it is not the next frame as it was sealed; the next one still opens.
        """
        view = octets(frame)
        with self._lock:
            number, ordinal, length = self._checked(view)
            body = view[HEADER:]
            due = length + self.tag_bytes
            if body.nbytes != due:
                reason = Reason.TRUNCATED if body.nbytes < due else Reason.OVERLONG
                self._refuse(reason, f"{body.nbytes} bytes follow the header, which says {due}")
            payload = body if self.cipher is None else self._opened(self.cipher, view[:HEADER], body, length)
            self.frames += 1
            self.total += length
        return Opened(number, ordinal, payload)

    def _refuse(self, reason: Reason, detail: str) -> NoReturn:
        self.refused[reason] += 1
        raise FrameRefused(reason, detail)

    def _checked(self, view: memoryview) -> tuple[int, int, int]:
        """Return input, ordinal and length of the next frame's header, which the tag has not confirmed yet."""
        if view.nbytes < HEADER:
            self._refuse(Reason.TRUNCATED, f"{view.nbytes} bytes are less than a header of {HEADER}")
        magic, ordinal, session, counter, number, length = LAYOUT.unpack_from(view)
        if magic != MAGIC:
            self._refuse(Reason.FORMAT, f"no frame of version {VERSION}")
        if session != self.session:
            self._refuse(Reason.FOREIGN, "it belongs to another session")
        if counter != self.frames:
            reason = Reason.REPLAYED if counter < self.frames else Reason.REORDERED
            self._refuse(reason, f"it is frame {counter}, and {self.frames} is next")
        if length > self.limits.length:
            self._refuse(Reason.OVERSIZED, f"it says {length} bytes, and {self.limits.length} is the limit")
        return number, ordinal, length

    def _opened(self, cipher: Cipher, header: memoryview, body: memoryview, length: int) -> memoryview:
        payload = bytearray(length)
        try:
            cipher.open_into(self._key, self.nonce(cipher), header, body, payload)
        except WrongTag:
            self._refuse(Reason.TAMPERED, "its tag does not fit")
        return memoryview(payload)


def directions(session: Session, cipher: Cipher, limits: FrameLimits | None = None) -> tuple[Sealer, Opener]:
    """Return both directions of a session, for the side whose `Session` it is."""
    return (
        Sealer(session.id, cipher, session.send, limits),
        Opener(session.id, cipher, session.receive, limits),
    )
