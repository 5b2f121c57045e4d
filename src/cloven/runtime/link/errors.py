"""What goes wrong on a protected link, one class per thing a caller can do about it.

    ClovenError
      LinkError            a link's key, size or setting cannot be used
        WrongTag           what was opened is not what was sealed
          HandshakeRefused   the two devices do not agree on key, cipher, names or version
          HandshakeRepeated  a first message was answered before
        FrameRefused       a frame is not the right next one; ``reason`` says why
        SessionExhausted   a key has sealed as much as it may: a new session is due

No message holds a key, or anything derived from one.
"""

from __future__ import annotations

from enum import StrEnum

from cloven.errors import ClovenError


class LinkError(ClovenError):
    """A link's key, size or setting cannot be used."""


class WrongTag(LinkError):  # noqa: N818 - the noun says more than WrongTagError
    """The message is not the one that was sealed: other key, nonce or associated data, or changed on the way."""

    def __init__(self, cipher: str) -> None:
        super().__init__(f"{cipher}: the tag does not fit: changed on the way, or sealed with another key or nonce")


class HandshakeRefused(LinkError):  # noqa: N818
    """The two devices do not agree on key, cipher, names or version, or a message is malformed."""


class HandshakeRepeated(HandshakeRefused):
    """A handshake's first message was answered before: it was recorded, or copied on its way."""


class SessionExhausted(LinkError):  # noqa: N818
    """A key has sealed as many frames or bytes as it may; make a new session by a new handshake."""


class Reason(StrEnum):
    """Why a frame was refused."""

    FORMAT = "format"
    FOREIGN = "foreign session"
    OVERSIZED = "oversized"
    TRUNCATED = "truncated"
    OVERLONG = "overlong"
    REPLAYED = "replayed"
    REORDERED = "reordered"
    TAMPERED = "tampered"


class FrameRefused(LinkError):  # noqa: N818
    """A frame is not the right next one of its session."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(f"frame refused, {reason}: {detail}")
