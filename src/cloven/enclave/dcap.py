"""What checks an SGX quote up to Intel's root: who signed it, by which quoting enclave, on whose certificate.

After the header and the report (432 bytes) a quote of version 3 with an ECDSA P-256 key goes on with the length of
all that follows, a signature and the attestation key that made it, the quoting enclave's own report and the
platform key's signature of that, data of its own, and the platform key's certificates (Intel SGX ECDSA Quote
Library Reference, A.4). Integers are little-endian, keys and signatures are two numbers of 32 bytes.

The platform's level of security (its TCB, which changes with microcode) is not looked at: that needs Intel's signed
tables, and a policy of the owner's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.enclave.quote import ATTRIBUTES, BODY_BYTES, DEBUG, REPORT_DATA, SIGNED_BYTES, Chain
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateRevocationList

INTEL_ROOT = bytes.fromhex(
    "0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
    "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
)
"""The public key of Intel's SGX Root CA."""
QE_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
QE_PRODUCT = 1
"""Who signs Intel's quoting enclave, and its number, as in Intel's QE identity."""
MRSIGNER, PRODUCT = slice(128, 160), slice(256, 258)
"""Places in a report body."""
PEM_CHAIN = 5
"""The kind of certification data that holds certificates."""
LINKS = 3
"""Certificates: the platform key's, the CA's that made it, and the root's."""
LAYOUT = struct.Struct(f"<64s64s{BODY_BYTES}s64sH")
CUT = "the hardware quote's signature is cut off, or longer than it says; ask the enclave for another quote"


@dataclass(frozen=True)
class Signed:
    """What follows the report in a quote, and the header and report themselves, which ``signature`` is of."""

    report: bytes
    signature: bytes
    key: bytes
    qe_report: bytes
    qe_signature: bytes
    own: bytes
    certificates: list[Certificate]


def verifier(
    crls: Sequence[Path], *, root: bytes = INTEL_ROOT, signer: bytes = QE_SIGNER, now: datetime | None = None
) -> Chain:
    """What tells the problems of a quote's signature, given lists of revoked certificates.

    Args:
        crls: files, PEM or DER: of the CA that made the platform's certificate, and of the root.
        root: the public key that all must lead to, 64 bytes.
        signer: who must have signed the quoting enclave.
        now: when certificates and lists must be valid; left out, when a quote is looked at.

    Raises:
        ClovenError: with every file that is no such list.
    """
    problems: list[str] = []
    lists = []
    for path in crls:
        try:
            lists.append(_read_list(path))
        except ClovenError as error:
            problems += error.problems
    if problems:
        raise ClovenError(problems)

    def chain(evidence: bytes) -> list[str]:
        try:
            quote = read(evidence)
        except ClovenError as error:
            return list(error.problems)
        at = now or datetime.now(UTC)
        found = [*_certified(quote.certificates, root, at), *_revoked(quote.certificates, lists, at)]
        return found + list(_signed(quote, signer))

    return chain


def read(evidence: bytes) -> Signed:
    """The parts of a quote.

    Raises:
        ClovenError: where it is cut off, or has no certificates.
    """
    from cryptography import x509

    try:
        (size,) = struct.unpack_from("<I", evidence, SIGNED_BYTES)
        content = evidence[SIGNED_BYTES + 4 :]
        signature, key, qe_report, qe_signature, own_bytes = LAYOUT.unpack_from(content)
        own, behind = content[LAYOUT.size :][:own_bytes], content[LAYOUT.size + own_bytes :]
        kind, length = struct.unpack_from("<HI", behind)
        certificates = behind[6:]
    except struct.error:
        raise ClovenError(CUT) from None
    if len(content) != size or len(certificates) != length:
        raise ClovenError(CUT)
    if kind != PEM_CHAIN:
        raise ClovenError(
            f"the hardware quote has certification data of kind {kind}; expected {PEM_CHAIN}, the platform's "
            "certificates: have its quote provider (DCAP) fetch them"
        )
    try:
        found = x509.load_pem_x509_certificates(certificates.rstrip(b"\0"))
    except ValueError as error:
        raise ClovenError(f"the hardware quote's certificates cannot be read: {error}") from None
    return Signed(evidence[:SIGNED_BYTES], signature, key, qe_report, qe_signature, own, found)


def _read_list(path: Path) -> CertificateRevocationList:
    from cryptography import x509

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClovenError(f"cannot read {path}: {error.strerror}") from error
    load = x509.load_pem_x509_crl if content.startswith(b"-----BEGIN") else x509.load_der_x509_crl
    try:
        return load(content)
    except ValueError:
        raise ClovenError(f"{path} is no list of revoked certificates (X.509 CRL, PEM or DER)") from None


def _certified(certificates: Sequence[Certificate], root: bytes, now: datetime) -> Iterator[str]:
    """What is wrong with the certificates as such."""
    from cryptography.exceptions import InvalidSignature

    if len(certificates) != LINKS:
        yield f"the hardware quote has {len(certificates)} certificates; expected {LINKS}, up to Intel's root"
        return
    if _key_of(certificates[-1]) != root:
        yield "the hardware quote's certificates do not lead to Intel's SGX root"
    for certificate, issuer in pairwise([*certificates, certificates[-1]]):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            yield f"{_name(certificate)} was not signed by {_name(issuer)}"
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            yield f"{_name(certificate)} is valid {_days(certificate)}, not today"
    for issuer in certificates[1:]:
        if not _may_sign(issuer):
            yield f"{_name(issuer)} may sign no certificates"


def _revoked(
    certificates: Sequence[Certificate], lists: Sequence[CertificateRevocationList], now: datetime
) -> Iterator[str]:
    """What is revoked, or may be: of every certificate but the root a list must say that it is not."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    for certificate, issuer in pairwise(certificates):
        key = issuer.public_key()
        mine = [
            one
            for one in lists
            if one.issuer == issuer.subject
            and isinstance(key, EllipticCurvePublicKey)
            and one.is_signature_valid(key)
            and one.last_update_utc <= now
            and (one.next_update_utc is None or now <= one.next_update_utc)
        ]
        if not mine:
            yield (
                f"no list of what {_name(issuer)} has revoked is at hand that is its own and of today: fetch it "
                "from Intel, and give it with --crl"
            )
        if any(one.get_revoked_certificate_by_serial_number(certificate.serial_number) for one in mine):
            yield f"{_name(certificate)} is revoked"


def _signed(quote: Signed, signer: bytes) -> Iterator[str]:
    """What is wrong with the two signatures, and with the enclave that made the first."""
    if not quote.certificates or not _is_signature(
        _key_of(quote.certificates[0]), quote.qe_signature, quote.qe_report
    ):
        yield "the quoting enclave's report was not signed by the platform's key"
    bound = hashlib.sha256(quote.key + quote.own).digest().ljust(64, b"\0")
    if quote.qe_report[REPORT_DATA] != bound:
        yield "the quoting enclave did not make the key that the hardware quote is signed with"
    if quote.qe_report[MRSIGNER] != signer or int.from_bytes(quote.qe_report[PRODUCT], "little") != QE_PRODUCT:
        yield "the hardware quote was made by another enclave than Intel's quoting enclave"
    if int.from_bytes(quote.qe_report[ATTRIBUTES], "little") & DEBUG:
        yield "the quoting enclave is a debug enclave, whose keys its host can read"
    if not _is_signature(quote.key, quote.signature, quote.report):
        yield "the hardware quote was changed, or not signed with its attestation key"


def _is_signature(key: bytes, signature: bytes, content: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256

    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + key)
        public.verify(utils.encode_dss_signature(r, s), content, ec.ECDSA(SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def _key_of(certificate: Certificate) -> bytes:
    """The public key of P-256, 64 bytes; empty for another kind."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = certificate.public_key()
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        return b""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def _may_sign(certificate: Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _name(certificate: Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string()}"


def _days(certificate: Certificate) -> str:
    return f"from {certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
