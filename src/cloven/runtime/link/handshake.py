"""Session keys for one connection: Noise_NNpsk0_25519_ChaChaPoly_SHA256 with the link's pre-shared key.

    initiator                        responder
    start(psk, prologue)   ── 48 bytes ─▶  reply(psk, prologue, hello)
    finish(state, answer)  ◀─ 48 bytes ──

Fresh X25519 keys on both sides are mixed with the pre-shared key, so a key file that leaks later opens no session
recorded earlier, and whoever lacks it gets no session at all. The prologue binds protocol version, cipher and both
names; both messages carry a tag over all of it. A responder knows that the initiator is alive and not a recording
once the first frame opens, and must not give up an older session before; `FirstMessages` refuses recordings sooner.

The functions are pure but for the fresh key. Source: Noise Protocol Framework, revision 34 (2018).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloven.runtime.link.errors import HandshakeRefused, HandshakeRepeated, LinkError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

VERSION = 1
"""Of our protocol: frames, header and prologue."""
NOISE = b"Noise_NNpsk0_25519_ChaChaPoly_SHA256"
PUBLIC = KEY = 32
MESSAGE = 48
"""Bytes of each of the two messages: a public key and a tag."""
SESSION = 16
DISAGREE = (
    "the other device holds another link key, or names another cipher, version, or other devices (or the message "
    "was changed on the way): give both devices the same key file and the same plan"
)


@dataclass(frozen=True, eq=False)
class Transcript:
    """Noise's symmetric state: what both sides have said and mixed so far. All but the hash is secret."""

    hash: bytes
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Initiator:
    """The state of an initiator between its two steps."""

    transcript: Transcript
    private: X25519PrivateKey = field(repr=False)


class FirstMessages:
    """The first messages that were answered: one that comes again is a recording. The last ``most`` are kept.

    Only who holds the key can add to them, so that nobody else can push one out.
    """

    def __init__(self, most: int = 4096) -> None:
        self.most = most
        self._answered: dict[bytes, None] = {}

    def check(self, hello: bytes) -> None:
        """Check that a first message is new.

        Raises:
            HandshakeRepeated: if it was answered before.
        """
        if hello in self._answered:
            raise HandshakeRepeated("handshake refused: its first message was answered before (a replay)")

    def add(self, hello: bytes) -> None:
        """Remember a first message that was opened with the link's key."""
        self._answered[hello] = None
        if len(self._answered) > self.most:
            del self._answered[next(iter(self._answered))]


@dataclass(frozen=True, eq=False)
class Session:
    """A session of one connection.

    Attributes:
        id: 16 bytes, the same on both sides, not secret.
        send: 32 bytes of key for what this side sends; ciphers with shorter keys take the first bytes.
        receive: the same for what it receives.
    """

    id: bytes
    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


def prologue(cipher: str, initiator: str, responder: str) -> bytes:
    """Return what both sides agree on beforehand: version, cipher and names, unambiguous whatever the names."""
    parts = [f"cloven link {VERSION}", cipher, initiator, responder]
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def initiator_start(psk: bytes, prologue: bytes, *, ephemeral: bytes | None = None) -> tuple[Initiator, bytes]:
    """Return the first message, and the state for the answer to it.

    Args:
        psk: the link's key, 32 bytes.
        prologue: see `prologue`.
        ephemeral: a private key, for test vectors only; by default a fresh one.

    Raises:
        LinkError: for a key of another size.
    """
    return write_hello(begun(psk, prologue), private_key(ephemeral))


def responder_reply(
    psk: bytes, prologue: bytes, hello: bytes, *, ephemeral: bytes | None = None
) -> tuple[Session, bytes]:
    """Return the session and the answer to an initiator's first message; arguments as `initiator_start`.

    Raises:
        HandshakeRefused: if the message is malformed, or key, cipher, names or version differ.
        LinkError: for a key of another size.
    """
    transcript, theirs, _ = read_hello(begun(psk, prologue), sized(hello))
    return write_answer(transcript, theirs, private_key(ephemeral))


def initiator_finish(state: Initiator, answer: bytes) -> Session:
    """Return the session, from the answer to the first message.

    Raises:
        HandshakeRefused: if the message is malformed, or does not answer this hello.
    """
    session, _ = read_answer(state, sized(answer))
    return session


def begun(psk: bytes, prologue: bytes) -> Transcript:
    """Return a transcript with the protocol's name, the prologue and the pre-shared key (Noise's token psk)."""
    if len(psk) != KEY:
        raise LinkError(f"a link key has {KEY} bytes, not {len(psk)}; read it with read_link_key")
    first = hashlib.sha256(NOISE).digest()
    chain, temporary, key = derived(first, psk, 3)
    return Transcript(mixed(mixed(first, prologue), temporary), chain, key)


def write_hello(transcript: Transcript, private: X25519PrivateKey, payload: bytes = b"") -> tuple[Initiator, bytes]:
    """Noise's first message. Payloads are empty but in test vectors."""
    public = private.public_key().public_bytes_raw()
    transcript, sealed = encrypted(with_public(transcript, public), payload)
    return Initiator(transcript, private), public + sealed


def read_hello(transcript: Transcript, hello: bytes) -> tuple[Transcript, bytes, bytes]:
    """Return the transcript after the first message, the initiator's public key, and the payload."""
    theirs = hello[:PUBLIC]
    transcript, payload = decrypted(with_public(transcript, theirs), hello[PUBLIC:])
    return transcript, theirs, payload


def write_answer(
    transcript: Transcript, theirs: bytes, private: X25519PrivateKey, payload: bytes = b""
) -> tuple[Session, bytes]:
    """Noise's second message and the responder's session."""
    public = private.public_key().public_bytes_raw()
    transcript = with_key(with_public(transcript, public), agreed(private, theirs))
    transcript, sealed = encrypted(transcript, payload)
    theirs_to_us, ours_to_them = derived(transcript.chain, b"", 2)
    return Session(transcript.hash[:SESSION], ours_to_them, theirs_to_us), public + sealed


def read_answer(state: Initiator, answer: bytes) -> tuple[Session, bytes]:
    """Return the initiator's session, and the payload of the second message."""
    theirs = answer[:PUBLIC]
    transcript = with_key(with_public(state.transcript, theirs), agreed(state.private, theirs))
    transcript, payload = decrypted(transcript, answer[PUBLIC:])
    ours_to_them, theirs_to_us = derived(transcript.chain, b"", 2)
    return Session(transcript.hash[:SESSION], ours_to_them, theirs_to_us), payload


def sized(message: bytes) -> bytes:
    """Return a message, which must have the one right size."""
    if len(message) != MESSAGE:
        raise HandshakeRefused(f"handshake refused: a message has {len(message)} bytes, not {MESSAGE}")
    return bytes(message)


def private_key(given: bytes | None) -> X25519PrivateKey:
    """Return a fresh private key, or the given one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate() if given is None else X25519PrivateKey.from_private_bytes(given)


def agreed(private: X25519PrivateKey, theirs: bytes) -> bytes:
    """Return the secret of two X25519 keys; a public key of low order, which would make it zero, is refused."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        return private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise HandshakeRefused("handshake refused: the other device sent a public key of low order") from None


def mixed(before: bytes, data: bytes) -> bytes:
    """Noise's MixHash."""
    return hashlib.sha256(before + data).digest()


def derived(chain: bytes, secret: bytes, count: int) -> tuple[bytes, ...]:
    """Noise's HKDF: `count` outputs of 32 bytes."""
    seed = hmac.digest(chain, secret, "sha256")
    outputs = [b""]
    for index in range(1, count + 1):
        outputs.append(hmac.digest(seed, outputs[-1] + bytes([index]), "sha256"))
    return tuple(outputs[1:])


def with_key(transcript: Transcript, secret: bytes) -> Transcript:
    """Noise's MixKey."""
    chain, key = derived(transcript.chain, secret, 2)
    return Transcript(transcript.hash, chain, key)


def with_public(transcript: Transcript, public: bytes) -> Transcript:
    """Noise's token e, which with a pre-shared key goes to the hash and to the key."""
    return with_key(Transcript(mixed(transcript.hash, public), transcript.chain, transcript.key), public)


def encrypted(transcript: Transcript, payload: bytes) -> tuple[Transcript, bytes]:
    """Noise's EncryptAndHash; each key seals one message, so the nonce is zero."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    sealed = ChaCha20Poly1305(transcript.key).encrypt(bytes(12), payload, transcript.hash)
    return Transcript(mixed(transcript.hash, sealed), transcript.chain, transcript.key), sealed


def decrypted(transcript: Transcript, sealed: bytes) -> tuple[Transcript, bytes]:
    """Noise's DecryptAndHash."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        payload = ChaCha20Poly1305(transcript.key).decrypt(bytes(12), sealed, transcript.hash)
    except InvalidTag:
        raise HandshakeRefused(f"handshake refused: {DISAGREE}") from None
    return Transcript(mixed(transcript.hash, sealed), transcript.chain, transcript.key), payload
