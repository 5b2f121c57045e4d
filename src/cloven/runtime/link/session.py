"""The frames of one session: sealed in order on one side, opened in the same order on the other.

    magic, version  4 bytes    ordinal  4    session  16    counter  8    input  8    length  8    payload    tag

The header is authenticated, not encrypted. It contains the session, the counter of the frame in the session, the
number of the input, the ordinal of the message among the link's messages for that input, and the length. So lengths
leak, but not names or shapes. The nonce is the counter: each direction has its own key, each frame its own counter.
Without a cipher ("none"), the same header precedes the plain payload, so that sizes are comparable; order, session
and length are still checked, but anyone who can write to the link can forge frames.
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
"""The size of a header in bytes: 48."""
LARGEST_ORDINAL = 2**32 - 1
LARGEST_INPUT = 2**63 - 1
LARGEST_PAYLOAD = 2**31 - 2**16
"""The largest message that the ciphers' libraries accept, less a margin."""


@dataclass(frozen=True)
class FrameLimits:
    """The most that one frame and one key may carry.

    Attributes:
        length: the maximum payload of a frame in bytes.
        frames: the maximum number of frames in one direction of a session.
        total: the maximum payload bytes in one direction of a session. The default, 2^32 blocks of 16 bytes, keeps
            the success probability of the best known attack on AES-GCM below 2^-64; Ascon's limit is far higher.
    """

    length: int = 256 * 2**20
    frames: int = 2**32
    total: int = 2**36

    def __post_init__(self) -> None:
        if not 0 < self.length <= LARGEST_PAYLOAD:
            raise LinkError(f"length must be between 1 and {LARGEST_PAYLOAD}, got {self.length}")
        if not 0 < self.frames <= 2**63 or self.total <= 0:
            raise LinkError(
                f"frames must be between 1 and 2^63 and total at least 1, got {self.frames} and {self.total}"
            )


class Opened(NamedTuple):
    """The content of a frame: the number of the input, the ordinal of the message, and the payload."""

    input: int
    ordinal: int
    payload: memoryview


class Direction:
    """One direction of a session: its key, counter and limits. It cannot be copied: a copy would reuse nonces."""

    def __init__(
        self, session: bytes, cipher: Cipher | None, key: bytes = b"", limits: FrameLimits | None = None
    ) -> None:
        """Start at frame 0.

        Args:
            session: the session's id of 16 bytes.
            cipher: the cipher; None for no protection.
            key: the key of this direction; its first bytes are used if it is longer than the cipher's keys.
            limits: the limits; default: those of `FrameLimits`.

        Raises:
            LinkError: for an id of another size, or a key that is too short.
        """
        need = cipher.key_bytes if cipher else 0
        if len(session) != SESSION or len(key) < need:
            raise LinkError(
                f"got an id of {len(session)} bytes and a key of {len(key)}; expected {SESSION} and at least {need}"
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
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: the copy would reuse nonces")

    @property
    def tag_bytes(self) -> int:
        """Return the size of the tag of a frame."""
        return self.cipher.tag_bytes if self.cipher else 0

    def nonce(self, cipher: Cipher) -> bytes:
        """Return the nonce of the next frame."""
        return self.frames.to_bytes(cipher.nonce_bytes, "big")


class Sealer(Direction):
    """Makes the frames of one direction in order; threads may share it if they send frames in that order."""

    def seal(self, number: int, ordinal: int, *pieces: Data) -> bytes:
        """Return the next frame. Without a cipher, the payload is copied once.

        Args:
            number: the number of the input, 0 to 2^63 - 1.
            ordinal: the ordinal of the message, 0 to 2^32 - 1.
            pieces: the parts of the payload, contiguous buffers; at most ``limits.length`` bytes in total.

        Raises:
            SessionExhausted: if the key has reached its limits; the counter does not change.
            LinkError: for numbers out of range, or a payload that is too long.
        """
        parts = [octets(piece) for piece in pieces]
        size = sum(part.nbytes for part in parts)
        if not 0 <= ordinal <= LARGEST_ORDINAL or not 0 <= number <= LARGEST_INPUT or size > self.limits.length:
            raise LinkError(
                f"got input {number}, ordinal {ordinal} and {size} bytes; expected at most {LARGEST_INPUT}, "
                f"{LARGEST_ORDINAL} and {self.limits.length}"
            )
        with self._lock:
            if self.frames >= self.limits.frames or self.total + size > self.limits.total:
                raise SessionExhausted(
                    f"this session's key has sealed {self.frames} frames and {self.total} bytes; at most "
                    f"{self.limits.frames} and {self.limits.total} are allowed: open a new session"
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
    """Opens the frames of one direction, each once and in order. Refused frames are counted and otherwise ignored.

    Attributes:
        refused: the number of refused frames, by reason.
    """

    def __init__(
        self, session: bytes, cipher: Cipher | None, key: bytes = b"", limits: FrameLimits | None = None
    ) -> None:
        """Start at frame 0; arguments and errors as for `Direction`."""
        super().__init__(session, cipher, key, limits)
        self.refused: Counter[Reason] = Counter()

    def open(self, frame: Data) -> Opened:
        """Return the content of the next frame.

        Raises:
            FrameRefused: if it is not the next frame, or was changed; the right frame can still be opened later.
        """
        view = octets(frame)
        with self._lock:
            number, ordinal, length = self._checked(view)
            body = view[HEADER:]
            due = length + self.tag_bytes
            if body.nbytes != due:
                reason = Reason.TRUNCATED if body.nbytes < due else Reason.OVERLONG
                self._refuse(reason, f"{body.nbytes} bytes follow the header; expected {due}")
            payload = body if self.cipher is None else self._opened(self.cipher, view[:HEADER], body, length)
            self.frames += 1
            self.total += length
        return Opened(number, ordinal, payload)

    def _refuse(self, reason: Reason, detail: str) -> NoReturn:
        self.refused[reason] += 1
        raise FrameRefused(reason, detail)

    def _checked(self, view: memoryview) -> tuple[int, int, int]:
        """Return input, ordinal and length of the next frame's header, before its tag is verified."""
        if view.nbytes < HEADER:
            self._refuse(Reason.TRUNCATED, f"{view.nbytes} bytes; expected at least a header of {HEADER}")
        magic, ordinal, session, counter, number, length = LAYOUT.unpack_from(view)
        if magic != MAGIC:
            self._refuse(Reason.FORMAT, f"it is not a frame of version {VERSION}")
        if session != self.session:
            self._refuse(Reason.FOREIGN, "it belongs to another session")
        if counter != self.frames:
            reason = Reason.REPLAYED if counter < self.frames else Reason.REORDERED
            self._refuse(reason, f"got frame {counter}; expected {self.frames}")
        if length > self.limits.length:
            self._refuse(Reason.OVERSIZED, f"got {length} bytes; expected at most {self.limits.length}")
        return number, ordinal, length

    def _opened(self, cipher: Cipher, header: memoryview, body: memoryview, length: int) -> memoryview:
        payload = bytearray(length)
        try:
            cipher.open_into(self._key, self.nonce(cipher), header, body, payload)
        except WrongTag:
            self._refuse(Reason.TAMPERED, "its tag is wrong")
        return memoryview(payload)


def directions(session: Session, cipher: Cipher, limits: FrameLimits | None = None) -> tuple[Sealer, Opener]:
    """Return both directions of a session, for the side that the `Session` belongs to."""
    return (
        Sealer(session.id, cipher, session.send, limits),
        Opener(session.id, cipher, session.receive, limits),
    )
