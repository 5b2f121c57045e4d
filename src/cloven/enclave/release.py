"""The release of a data key to an enclave: messages alone, whatever carries them.

    owner                                  enclave
    32 random bytes    ── nonce ──▶        Waiting.quote
    release            ◀─ quote ──
                       ── release ──▶      Waiting.accept

The data key is encrypted to the public key in the quote (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM), so who
carries the messages learns nothing. The private key is in the enclave's memory alone, and only until a release is
accepted: a replayed one opens in no other start. A release is not signed: anyone can send some key, and one that is
not the owner's opens nothing that the owner sealed. No message holds a key in clear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.enclave.owner import data_key
from cloven.enclave.quote import (
    DIGITS,
    FIELDS,
    NONCE_BYTES,
    SGX,
    Chain,
    Quote,
    binding,
    message,
    parsed,
    strings,
    verify,
)
from cloven.enclave.sealing import KEY_BYTES
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hpke import Suite

ATTESTATION = Path("/dev/attestation")
"""Where Gramine lets an enclave ask for a hardware quote."""
SEALED_BYTES = 32 + KEY_BYTES + 16
"""HPKE's encapsulated key, the data key, and a tag."""
RELEASE = {
    "public_key": DIGITS,
    "nonce": DIGITS,
    "sealed": re.compile(f"[0-9a-f]{{{2 * SEALED_BYTES}}}"),
}
AGAIN = "have the owner release the key again, to this start"


@dataclass(eq=False)
class Waiting:
    """An enclave that waits for its data key; make one with `waiting`. For one thread.

    Attributes:
        backend: as `Quote.backend`.
        measurement: as `Quote.measurement`.
        folder_id: as `Quote.folder_id`.
        public_key: X25519, 32 bytes.
        run: as `Quote.run`, of the latest quote.
    """

    backend: str
    measurement: str
    folder_id: str
    public_key: bytes
    _prove: Callable[[bytes], bytes] = field(repr=False)
    _private: X25519PrivateKey | None = field(repr=False)
    _nonce: bytes | None = field(default=None, repr=False)
    run: str = ""

    def quote(self, nonce: bytes) -> Quote:
        """What this enclave is, for who chose the nonce; a release must answer the latest quote.

        Args:
            nonce: 32 bytes.

        Raises:
            ClovenError: for a nonce of another size, where the hardware gives no quote, or the key is here already.
        """
        self._waiting()
        if len(nonce) != NONCE_BYTES:
            raise ClovenError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        bound = binding(self.public_key, nonce, self.folder_id)
        made = Quote(self.backend, self.measurement, self.folder_id, self.public_key, bound, self._prove(bound))
        self._nonce, self.run = nonce, made.run
        return made

    def accept(self, text: bytes) -> bytes:
        """The data key of a release, 32 bytes; after that no other release is accepted.

        Raises:
            ClovenError: for a message that is no release to this start and its latest quote; it waits on.
        """
        private = self._waiting()
        found = strings(parsed(text, "a release"), "a release", RELEASE)
        if found["public_key"] != self.public_key.hex():
            raise ClovenError(
                f"this release was made for another start of the enclave: it is encrypted to another key; {AGAIN}"
            )
        nonce = bytes.fromhex(found["nonce"])
        if nonce != self._nonce:
            raise ClovenError(f"this release answers no quote of this enclave, or not its latest one; {AGAIN}")
        key = opened(bytes.fromhex(found["sealed"]), private, context(self.measurement, nonce, self.folder_id))
        self._private = None
        return key

    def _waiting(self) -> X25519PrivateKey:
        if self._private is None:
            raise ClovenError("this enclave has its key already, and takes one release only; start it again")
        return self._private


def waiting(
    backend: str, measurement: str, folder_id: str, *, prove: Callable[[bytes], bytes] | None = None
) -> Waiting:
    """An enclave's state at its start, with a fresh private key that never leaves it.

    Args:
        backend: see `quote.BACKENDS`.
        measurement: 64 hexadecimal digits.
        folder_id: the sealed folder's number, 1 to 200 printable ASCII characters without spaces.
        prove: from report data (32 bytes) to the evidence; by default Gramine's with ``gramine-sgx``, else empty.

    Raises:
        ClovenError: with every argument that no quote could hold.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    about = {"backend": backend, "measurement": measurement, "folder_id": folder_id}
    strings(about, "an enclave", {name: FIELDS[name] for name in about})
    private = X25519PrivateKey.generate()
    proof = prove or (hardware_quote if backend == SGX else no_evidence)
    return Waiting(backend, measurement, folder_id, private.public_key().public_bytes_raw(), proof, private)


def release(
    quote: Quote,
    nonce: bytes,
    *,
    expect: str,
    owner_key: bytes,
    folder_id: str | None = None,
    chain: Chain | None = None,
) -> bytes:
    """The message that brings the folder's data key to the enclave of a quote, and to no other.

    Args:
        quote: the enclave's answer to the nonce.
        nonce: the 32 random bytes that were sent.
        expect: the measurement that it must have, 64 hexadecimal digits.
        owner_key: 32 bytes, see `owner.read_owner_key`.
        folder_id: the sealed folder that it must be for; by default the one that the quote names.
        chain: as `quote.problems`.

    Raises:
        ClovenError: with every problem of the quote; see `quote.problems`.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    folder = quote.folder_id if folder_id is None else folder_id
    verify(quote, nonce, expect=expect, folder_id=folder, chain=chain)
    info = context(quote.measurement, nonce, folder)
    key = data_key(owner_key, folder)
    try:
        sealed = suite().encrypt(key, X25519PublicKey.from_public_bytes(quote.public_key), info)
    except ValueError:
        raise ClovenError(
            "the quote's public key is none of X25519, or of low order; nothing was released"
        ) from None
    return message(public_key=quote.public_key.hex(), nonce=nonce.hex(), sealed=sealed.hex())


def opened(sealed: bytes, private: X25519PrivateKey, info: bytes) -> bytes:
    """The data key in a release."""
    from cryptography.exceptions import InvalidTag

    try:
        return suite().decrypt(sealed, private, info)
    except InvalidTag:
        raise ClovenError(
            "this release does not open: it was changed on the way, or made for another measurement or folder; "
            + AGAIN
        ) from None


def context(measurement: str, nonce: bytes, folder_id: str) -> bytes:
    """HPKE's info: what both sides must agree on; all but the last have one length."""
    return b"cloven release" + bytes.fromhex(measurement) + nonce + folder_id.encode()


def suite() -> Suite:
    """The one suite of HPKE."""
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def no_evidence(report_data: bytes) -> bytes:  # noqa: ARG001 - as hardware_quote
    """Where no hardware speaks for the enclave."""
    return b""


def hardware_measurement() -> str:
    """What the processor has measured of this enclave (MRENCLAVE), 64 hexadecimal digits, through Gramine.

    Raises:
        ClovenError: where it cannot be read.
    """
    with _attested("measurement"):
        return (ATTESTATION / "my_target_info").read_bytes()[:32].hex()


def hardware_quote(report_data: bytes) -> bytes:
    """The processor's quote of this enclave, through Gramine.

    Raises:
        ClovenError: where there is none, or it is no SGX quote.
    """
    with _attested("hardware quote"):
        (ATTESTATION / "user_report_data").write_bytes(report_data.ljust(64, b"\0"))
        return (ATTESTATION / "quote").read_bytes()


@contextmanager
def _attested(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClovenError(
            f"no {what} through {ATTESTATION}: {error.strerror}; run under gramine-sgx with "
            'sgx.remote_attestation = "dcap"'
        ) from error
