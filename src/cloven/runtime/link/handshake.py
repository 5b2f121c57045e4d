"""Session keys for one connection: Noise_NNpsk0_25519_ChaChaPoly_SHA256 with the link's pre-shared key.

    initiator                        responder
    start(psk, prologue)   ── 48 bytes ─▶  reply(psk, prologue, hello)
    finish(state, answer)  ◀─ 48 bytes ──

Fresh X25519 keys of both sides are combined with the pre-shared key. So a pre-shared key that leaks later does not
decrypt earlier sessions, and a party without it cannot open a session. The prologue binds the protocol version, the
cipher and both names; both messages have a tag over all of it. The first frame that opens proves to the responder
that the initiator is not a replay; until then it must keep an older session. `FirstMessages` refuses replays
earlier.

The functions are pure except for the fresh key. Source: Noise Protocol Framework, revision 34 (2018).
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
"""The version of our protocol: frames, header and prologue."""
NOISE = b"Noise_NNpsk0_25519_ChaChaPoly_SHA256"
PUBLIC = KEY = 32
MESSAGE = 48
"""The size of each of the two messages in bytes: a public key and a tag."""
SESSION = 16
DISAGREE = (
    "the other device uses another link key, cipher, version or other device names, or the message was changed in "
    "transit: give both devices the same key file and the same plan"
)


@dataclass(frozen=True, eq=False)
class Transcript:
    """The symmetric state of the Noise protocol; all except the hash is secret."""

    hash: bytes
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Initiator:
    """The state of an initiator between its two steps."""

    transcript: Transcript
    private: X25519PrivateKey = field(repr=False)


class FirstMessages:
    """The last ``most`` first messages that were answered; one that arrives again is a replay.

    Only messages of parties with the key are added, so nobody else can displace one.
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
            raise HandshakeRepeated("handshake refused: its first message was already answered (a replay)")

    def add(self, hello: bytes) -> None:
        """Record a first message that was authenticated with the link's key."""
        self._answered[hello] = None
        if len(self._answered) > self.most:
            del self._answered[next(iter(self._answered))]


@dataclass(frozen=True, eq=False)
class Session:
    """A session of one connection.

    Attributes:
        id: 16 bytes, the same on both sides, not secret.
        send: the key of 32 bytes for the sending direction; ciphers with shorter keys use its first bytes.
        receive: the key for the receiving direction.
    """

    id: bytes
    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


def prologue(cipher: str, initiator: str, responder: str) -> bytes:
    """Return the prologue: version, cipher and both names, each with its length, so that it is unambiguous."""
    parts = [f"cloven link {VERSION}", cipher, initiator, responder]
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)


def initiator_start(psk: bytes, prologue: bytes, *, ephemeral: bytes | None = None) -> tuple[Initiator, bytes]:
    """Return the state of the initiator, and the first message.

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
    """Return the session and the answer to an initiator's first message; arguments as for `initiator_start`.

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
    """Return a transcript with the protocol's name, the prologue and the pre-shared key (the Noise token psk)."""
    if len(psk) != KEY:
        raise LinkError(f"the link key has {len(psk)} bytes; expected {KEY}: read it with read_link_key")
    first = hashlib.sha256(NOISE).digest()
    chain, temporary, key = derived(first, psk, 3)
    return Transcript(mixed(mixed(first, prologue), temporary), chain, key)


def write_hello(transcript: Transcript, private: X25519PrivateKey, payload: bytes = b"") -> tuple[Initiator, bytes]:
    """Return the initiator's state and the first message; its payload is empty except in test vectors."""
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
    """Return the responder's session and the second message."""
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
    """Return a message of the protocol's size; refuse any other."""
    if len(message) != MESSAGE:
        raise HandshakeRefused(f"handshake refused: a message has {len(message)} bytes; expected {MESSAGE}")
    return bytes(message)


def private_key(given: bytes | None) -> X25519PrivateKey:
    """Return a fresh private key, or the given one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.generate() if given is None else X25519PrivateKey.from_private_bytes(given)


def agreed(private: X25519PrivateKey, theirs: bytes) -> bytes:
    """Return the shared secret of two X25519 keys; refuse a public key of low order, which would make it zero."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        return private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise HandshakeRefused("handshake refused: the other device sent a public key of low order") from None


def mixed(before: bytes, data: bytes) -> bytes:
    """Return a hash with more data mixed in (MixHash)."""
    return hashlib.sha256(before + data).digest()


def derived(chain: bytes, secret: bytes, count: int) -> tuple[bytes, ...]:
    """Return `count` outputs of 32 bytes (HKDF)."""
    seed = hmac.digest(chain, secret, "sha256")
    outputs = [b""]
    for index in range(1, count + 1):
        outputs.append(hmac.digest(seed, outputs[-1] + bytes([index]), "sha256"))
    return tuple(outputs[1:])


def with_key(transcript: Transcript, secret: bytes) -> Transcript:
    """Return a transcript with a secret mixed into its keys (MixKey)."""
    chain, key = derived(transcript.chain, secret, 2)
    return Transcript(transcript.hash, chain, key)


def with_public(transcript: Transcript, public: bytes) -> Transcript:
    """Return a transcript with a public key (token e); with a pre-shared key, it enters both hash and keys."""
    return with_key(Transcript(mixed(transcript.hash, public), transcript.chain, transcript.key), public)


def encrypted(transcript: Transcript, payload: bytes) -> tuple[Transcript, bytes]:
    """Return the transcript and the ciphertext (EncryptAndHash); each key seals one message, so the nonce is 0."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    sealed = ChaCha20Poly1305(transcript.key).encrypt(bytes(12), payload, transcript.hash)
    return Transcript(mixed(transcript.hash, sealed), transcript.chain, transcript.key), sealed


def decrypted(transcript: Transcript, sealed: bytes) -> tuple[Transcript, bytes]:
    """Return the transcript and the plaintext (DecryptAndHash)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        payload = ChaCha20Poly1305(transcript.key).decrypt(bytes(12), sealed, transcript.hash)
    except InvalidTag:
        raise HandshakeRefused(f"handshake refused: {DISAGREE}") from None
    return Transcript(mixed(transcript.hash, sealed), transcript.chain, transcript.key), payload
