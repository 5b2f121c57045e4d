"""Create certificates and private keys, read them from PEM files, and check them.

No message or repr contains a private key, or any part of a file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cloven.errors import ClovenError
from cloven.files import open_regular
from cloven.runtime.link.keys import access_problems

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PrivateKeyTypes
    from cryptography.x509 import Certificate, ExtensionType, KeyUsage, Name

AUTHORITY, CERTIFICATE, PRIVATE, LINKS = "authority.pem", "certificate.pem", "private.pem", "links"
"""The names of the files in a party's folder, and of its folder of link keys."""
T = TypeVar("T")
LIFETIME = timedelta(days=20 * 365)
"""The lifetime of an authority: longer than that of any certificate that it signs in its first ten years."""
PEM_BYTES = 2**20
"""The maximum number of bytes that are read from a file."""
EARLY = timedelta(minutes=5)
"""The time by which the validity of a certificate begins before its creation, as clocks differ."""


@dataclass(frozen=True, eq=False)
class Authority:
    """The certificate of an authority, and its private key for signing."""

    certificate: Certificate
    key: EllipticCurvePrivateKey = field(repr=False)


def founded(moment: datetime) -> Authority:
    """Return a new authority with a unique name."""
    from cryptography.x509 import BasicConstraints

    key = new_private()
    name = common_name(f"cloven authority {secrets.token_hex(4)}")
    extensions = [(BasicConstraints(ca=True, path_length=0), True), (key_usage(authority=True), True)]
    return Authority(made(name, key.public_key(), name, key, (moment, moment + LIFETIME), extensions), key)


def signed(
    authority: Authority, name: str, public: CertificatePublicKeyTypes, moment: datetime, days: int
) -> Certificate:
    """Return a server and client certificate for a party with this name and public key."""
    from cryptography.x509 import BasicConstraints, DNSName, ExtendedKeyUsage, SubjectAlternativeName
    from cryptography.x509.oid import ExtendedKeyUsageOID

    extensions = [
        (BasicConstraints(ca=False, path_length=None), True),
        (key_usage(authority=False), True),
        (ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (SubjectAlternativeName([DNSName(name)]), False),
    ]
    issuer, valid = authority.certificate.subject, (moment, moment + timedelta(days=days))
    return made(common_name(name), public, issuer, authority.key, valid, extensions)


def made(
    name: Name,
    public: CertificatePublicKeyTypes,
    issuer: Name,
    key: EllipticCurvePrivateKey,
    valid: tuple[datetime, datetime],
    extensions: Sequence[tuple[ExtensionType, bool]],
) -> Certificate:
    """Return a certificate with these extensions (each critical or not) and the key identifiers."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import (
        AuthorityKeyIdentifier,
        CertificateBuilder,
        SubjectKeyIdentifier,
        random_serial_number,
    )

    builder = CertificateBuilder().subject_name(name).public_key(public).issuer_name(issuer)
    builder = builder.serial_number(random_serial_number())
    builder = builder.not_valid_before(valid[0] - EARLY).not_valid_after(valid[1])
    for extension, critical in [
        *extensions,
        (SubjectKeyIdentifier.from_public_key(public), False),
        (AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
    ]:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, SHA256())


def new_private() -> EllipticCurvePrivateKey:
    """Return a new private key on the curve P-256, as gRPC does not accept Ed25519."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    return generate_private_key(SECP256R1())


def common_name(text: str) -> Name:
    """Return the name of a subject or issuer."""
    from cryptography.x509 import Name, NameAttribute
    from cryptography.x509.oid import NameOID

    return Name([NameAttribute(NameOID.COMMON_NAME, text)])


def key_usage(*, authority: bool) -> KeyUsage:
    """Return the allowed uses of a key: an authority signs certificates, a party signs handshakes."""
    from cryptography.x509 import KeyUsage

    return KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def validity_problems(certificate: Certificate, path: Path, now: datetime | None) -> list[str]:
    """Return why a certificate is not valid at a moment, by default now."""
    moment = now or datetime.now(UTC)
    if moment < certificate.not_valid_before_utc:
        return [
            f"{path} is not valid before {shown(certificate.not_valid_before_utc)}, but this machine's clock shows "
            f"{shown(moment)}: set the clock, or {renewal(path)}"
        ]
    if moment > certificate.not_valid_after_utc:
        return [
            f"{path} expired on {shown(certificate.not_valid_after_utc)}; this machine's clock shows "
            f"{shown(moment)}: {renewal(path)}"
        ]
    return []


def name_problems(certificate: Certificate, path: Path, expected: str | None) -> list[str]:
    """Return why a certificate does not name exactly one party, or not the expected one."""
    name = certified_name(certificate)
    if name is None:
        return [f"{path} must name exactly one device: use a certificate that `cloven keys new` created"]
    if expected is not None and name != expected:
        return [f"{path} is the certificate of {name}, expected {expected}: use the folder of {expected}"]
    return []


def renewal(path: Path) -> str:
    """Return instructions for the renewal of a certificate."""
    if path.name == AUTHORITY:
        return "create new keys for all devices with `cloven keys new`"
    return f"run `cloven keys renew` where the authority is, copy the new {path.name} here, and start again"


def shown(moment: datetime) -> str:
    """Return a moment as text in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def read_certificate(path: Path) -> Certificate:
    """Return the certificate in a file.

    Raises:
        ClovenError: if the file cannot be read, or is not a certificate.
    """
    from cryptography.x509 import load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(_read(path)[1])
    except ClovenError:
        raise
    except ValueError:
        raise ClovenError(f"{path} is not a certificate in PEM format; copy the file again") from None


def read_private(path: Path) -> PrivateKeyTypes:
    """Return the private key in a file. Owner and mode are checked on the opened file.

    Raises:
        ClovenError: if the file is not a private key, belongs to another user, is accessible to others, or has a
            password.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        about, content = _read(path)
        problems = access_problems(path, about)
        key = load_pem_private_key(content, password=None)
    except ClovenError:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm):
        problems.append(f"{path} is not a private key in PEM format without a password; copy the file again")
    if problems:
        raise ClovenError(problems)
    return key


def _read(path: Path) -> tuple[os.stat_result, bytes]:
    """Return the status of a regular file, and its first `PEM_BYTES` bytes.

    Raises:
        ClovenError: if it cannot be read.
    """
    try:
        path.stat()
        with open_regular(path) as file:
            return os.fstat(file.fileno()), file.read(PEM_BYTES)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> ClovenError:
    """Return the error for a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return ClovenError(f"{path} is missing: copy the whole folder again from where it was created")
    return ClovenError(f"cannot read {path}: {error.strerror}")


def certified_name(certificate: Certificate) -> str | None:
    """Return the only DNS name of a certificate; None if it does not have exactly one."""
    from cryptography.x509 import DNSName, ExtensionNotFound, SubjectAlternativeName

    try:
        names = list(certificate.extensions.get_extension_for_class(SubjectAlternativeName).value)
    except (ExtensionNotFound, ValueError):
        return None
    return names[0].value if len(names) == 1 and isinstance(names[0], DNSName) else None


def issued_by(certificate: Certificate, authority: Certificate) -> bool:
    """Return whether the authority's key has signed the certificate."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def certificate_pem(certificate: Certificate) -> bytes:
    """Return a certificate in PEM format."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def private_pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key in PEM format."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
