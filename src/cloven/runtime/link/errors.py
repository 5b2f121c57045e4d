"""The errors of protected links: one class for each way in which a caller can react.

    ClovenError
      LinkError            a link's key, size or setting cannot be used
        WrongTag           a message was changed, or sealed with another key or nonce
          HandshakeRefused   the two devices do not agree on key, cipher, names or version
          HandshakeRepeated  a first message was answered before
        FrameRefused       a frame is not the expected next one; ``reason`` says why
        SessionExhausted   a key has reached its limits: a new session is needed

No message contains a key, or anything derived from one.
"""

from __future__ import annotations

from enum import StrEnum

from cloven.errors import ClovenError


class LinkError(ClovenError):
    """A link's key, size or setting cannot be used."""


class WrongTag(LinkError):  # noqa: N818 - the noun says more than WrongTagError
    """The authentication tag is wrong: key, nonce or associated data differ, or the message was changed."""

    def __init__(self, cipher: str) -> None:
        super().__init__(f"{cipher}: wrong tag: the message was changed, or sealed with another key or nonce")


class HandshakeRefused(LinkError):  # noqa: N818
    """The two devices do not agree on key, cipher, names or version, or a message is malformed."""


class HandshakeRepeated(HandshakeRefused):
    """The first message of a handshake was answered before: it is a replay."""


class SessionExhausted(LinkError):  # noqa: N818
    """A key has sealed its maximum of frames or bytes; a new handshake makes a new session."""


class Reason(StrEnum):
    """The reason why a frame was refused."""

    FORMAT = "format"
    FOREIGN = "foreign session"
    OVERSIZED = "oversized"
    TRUNCATED = "truncated"
    OVERLONG = "overlong"
    REPLAYED = "replayed"
    REORDERED = "reordered"
    TAMPERED = "tampered"


class FrameRefused(LinkError):  # noqa: N818
    """A frame is not the expected next one of its session."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        super().__init__(f"frame refused, {reason}: {detail}")
