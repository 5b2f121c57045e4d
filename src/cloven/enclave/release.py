"""The release of a data key to an enclave: its messages, independent of the transport.

    owner                                  enclave
    32 random bytes    ── nonce ──▶        Waiting.quote
    release            ◀─ quote ──
                       ── release ──▶      Waiting.accept

The data key is encrypted to the public key in the quote (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM), so the
relay learns nothing. The private key exists only in the enclave's memory, and only until a release is accepted: a
replayed release cannot be opened after a restart. A release is not signed: anyone can send a key, but only the
owner's opens the files that the owner sealed. Messages never contain a key in clear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cloven.documents import Document
from cloven.enclave.owner import data_key
from cloven.enclave.quote import (
    FOLDER_ID,
    NONCE_BYTES,
    SGX,
    Digits,
    Expected,
    Measurement,
    Quote,
    binding,
    encoded,
    parse_message,
    verify,
)
from cloven.enclave.sealing import KEY_BYTES
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

ATTESTATION = Path("/dev/attestation")
"""Gramine's folder through which an enclave requests a hardware quote."""
SEALED_BYTES = 32 + KEY_BYTES + 16
"""HPKE's encapsulated key, the data key, and a tag."""
AGAIN = "the owner must release the key again, to this start of the enclave"


class ReleaseMessage(Document):
    """The message form of a release: bytes as hexadecimal digits."""

    public_key: Digits
    nonce: Digits
    sealed: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * SEALED_BYTES}}}$")]


@dataclass(eq=False)
class Waiting:
    """An enclave that waits for its data key, created by `waiting`; not thread-safe.

    Attributes:
        measurement: as in `Quote.measurement`.
        folder_id: as in `Quote.folder_id`.
        public_key: the X25519 public key, 32 bytes.
        run: `Quote.run` of the latest quote.
    """

    measurement: Measurement
    folder_id: str
    public_key: bytes
    _prove: Callable[[bytes], bytes] = field(repr=False)
    _private: X25519PrivateKey | None = field(repr=False)
    _nonce: bytes | None = field(default=None, repr=False)
    run: str = ""

    def quote(self, nonce: bytes) -> Quote:
        """Return the quote of this enclave for a nonce; a release must answer the latest quote.

        Args:
            nonce: 32 bytes.

        Raises:
            ClovenError: if the nonce has another size, the hardware returns no quote, or the key was already
                released.
        """
        self._waiting()
        if len(nonce) != NONCE_BYTES:
            raise ClovenError(f"the nonce has {len(nonce)} bytes; expected {NONCE_BYTES}")
        bound = binding(self.public_key, nonce, self.folder_id)
        made = Quote(self.measurement, self.folder_id, self.public_key, bound, self._prove(bound))
        self._nonce, self.run = nonce, made.run
        return made

    def accept(self, text: bytes) -> bytes:
        """Return the 32-byte data key of a release; later releases are refused.

        Raises:
            ClovenError: if the message is not a release to this start and its latest quote; the enclave continues
                to wait.
        """
        private = self._waiting()
        found = parse_message(ReleaseMessage, text, "a release")
        if found.public_key != self.public_key.hex():
            raise ClovenError(
                f"the release is for another start of the enclave: it is encrypted to another key; {AGAIN}"
            )
        nonce = bytes.fromhex(found.nonce)
        if nonce != self._nonce:
            raise ClovenError(f"the release does not answer the latest quote of this enclave; {AGAIN}")
        key = opened(bytes.fromhex(found.sealed), private, context(self.measurement, nonce, self.folder_id))
        self._private = None
        return key

    def _waiting(self) -> X25519PrivateKey:
        if self._private is None:
            raise ClovenError("the enclave already has its key and accepts only one release; restart it")
        return self._private


def waiting(measurement: Measurement, folder_id: str, *, prove: Callable[[bytes], bytes] | None = None) -> Waiting:
    """Return the state of an enclave at its start, with a fresh private key that never leaves it.

    Args:
        measurement: the measurement of this enclave.
        folder_id: the sealed folder's id, 1 to 200 printable ASCII characters without spaces.
        prove: returns the evidence for 64 bytes of report data; by default Gramine's for `SGX`, else none.

    Raises:
        ClovenError: if the id is not valid.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    if not FOLDER_ID.fullmatch(folder_id):
        raise ClovenError(f"the folder's id is {folder_id[:200]!r}; expected 1 to 200 printable characters")
    private = X25519PrivateKey.generate()
    proof = prove or (hardware_quote if measurement.kind == SGX else no_evidence)
    return Waiting(measurement, folder_id, private.public_key().public_bytes_raw(), proof, private)


def release(quote: Quote, nonce: bytes, *, expect: Expected, owner_key: bytes, folder_id: str) -> bytes:
    """Return the message that releases the folder's data key to the enclave of a quote only.

    Args:
        quote: the enclave's answer to the nonce.
        nonce: the 32 random bytes that were sent.
        expect: the owner's requirements for the enclave.
        owner_key: 32 bytes, see `owner.read_owner_key`.
        folder_id: the id of the expected sealed folder.

    Raises:
        ClovenError: lists every problem of the quote; see `quote.problems`.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    verify(quote, nonce, expect=expect, folder_id=folder_id)
    info = context(quote.measurement, nonce, folder_id)
    key = data_key(owner_key, folder_id)
    try:
        sealed = suite().encrypt(key, X25519PublicKey.from_public_bytes(quote.public_key), info)
    except ValueError:
        raise ClovenError(
            "the quote's public key is not an X25519 key, or has low order; nothing was released"
        ) from None
    made = ReleaseMessage(public_key=quote.public_key.hex(), nonce=nonce.hex(), sealed=sealed.hex())
    return encoded(made)


def opened(sealed: bytes, private: X25519PrivateKey, info: bytes) -> bytes:
    """Decrypt the data key in a release."""
    from cryptography.exceptions import InvalidTag

    try:
        return suite().decrypt(sealed, private, info)
    except InvalidTag:
        raise ClovenError(
            "cannot decrypt the release: it was modified in transit, or is for another measurement or folder; "
            + AGAIN
        ) from None


def context(measurement: Measurement, nonce: bytes, folder_id: str) -> bytes:
    """Return HPKE's info, the same on both sides; unambiguous, as no measurement kind is a prefix of another."""
    return b"cloven release" + str(measurement).encode() + nonce + folder_id.encode()


def suite() -> Suite:
    """Return the HPKE suite."""
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def no_evidence(report_data: bytes) -> bytes:  # noqa: ARG001 - as hardware_quote
    """Return empty evidence, for an enclave that no hardware measures."""
    return b""


def hardware_measurement() -> Measurement:
    """Return the processor's measurement of this enclave (MRENCLAVE), through Gramine.

    Raises:
        ClovenError: if it cannot be read.
    """
    with _attested("measurement"):
        return Measurement(SGX, (ATTESTATION / "my_target_info").read_bytes()[:32].hex())


def hardware_quote(report_data: bytes) -> bytes:
    """Return the processor's quote of this enclave with these 64 bytes of report data, through Gramine.

    Raises:
        ClovenError: if the hardware does not return one.
    """
    with _attested("hardware quote"):
        (ATTESTATION / "user_report_data").write_bytes(report_data)
        return (ATTESTATION / "quote").read_bytes()


@contextmanager
def _attested(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClovenError(
            f"cannot read a {what} through {ATTESTATION}: {error.strerror}; run under gramine-sgx with "
            'sgx.remote_attestation = "dcap"'
        ) from error
