"""Who a party is on the network: its certificate, its private key, and a link key for each of the other parties.

    FOLDER/authority.pem     whose signature is believed; the same on every host
    FOLDER/certificate.pem   this party's name and public key, signed by the authority
    FOLDER/private.pem       the private key, for its owner alone
    FOLDER/links/PEER.key    the key of the link with PEER, see `cloven.runtime.link.keys`

`cloven.runtime.link.authority` makes these folders. No message, repr or log holds a key or any part of one.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cloven.errors import ClovenError, tried
from cloven.runtime.link.certificates import (
    AUTHORITY,
    CERTIFICATE,
    LINKS,
    PRIVATE,
    certificate_pem,
    certified_name,
    issued_by,
    name_problems,
    private_pem,
    read_certificate,
    read_private,
    renewal,
    shown,
    validity_problems,
)
from cloven.runtime.link.keys import read_link_key

if TYPE_CHECKING:
    import grpc

WARN_DAYS = 14
"""A certificate that is valid for less is worth a warning."""
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
ADDRESS = re.compile(r"\d+(\.\d+){3}")
NO_FOLDER = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", re.IGNORECASE)
"""What Windows takes for a device of its own, whatever follows the first dot."""


OLD_SUITES = "GRPC_SSL_CIPHER_SUITES"
NONE_USABLE = "ECDHE-PSK-AES128-CBC-SHA"


def only_tls_1_3() -> bool:
    """Keep gRPC from TLS 1.2, if it is not imported yet; return whether it is kept from it.

    gRPC for Python has no setting for the lowest version. Its list of cipher suites is one for TLS 1.2 alone, which
    it reads from the environment when it is imported: the one that we leave needs pre-shared keys, which neither
    side has, so that no handshake of TLS 1.2 can succeed. TLS 1.3 has suites of its own.
    """
    if "grpc" not in sys.modules:
        os.environ[OLD_SUITES] = NONE_USABLE
    return os.environ.get(OLD_SUITES) == NONE_USABLE


class Context(Protocol):
    """A call's context as `peer_name` needs it; grpc's and grpc.aio's have it."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the transport knows of the peer."""


@dataclass(frozen=True, eq=False)
class Identity:
    """A party's checked identity; make one with `read`.

    Attributes:
        name: the party's name, as its certificate says.
        folder: the folder that it was read from.
        expires: the last moment (UTC) at which others believe the certificate.
        authority: the authority's certificate, PEM.
        certificate: this party's certificate, PEM.
        private: its private key, PEM.
    """

    name: str
    folder: Path
    expires: datetime
    authority: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    private: bytes = field(repr=False)

    def days_left(self, now: datetime | None = None) -> float:
        """Return the days until the certificate expires."""
        return (self.expires - (now or datetime.now(UTC))).total_seconds() / 86400

    def warning(self, now: datetime | None = None) -> str | None:
        """Return a warning if the certificate expires within `WARN_DAYS` days."""
        left = self.days_left(now)
        if left >= WARN_DAYS:
            return None
        return (
            f"{self.folder / CERTIFICATE} expires on {shown(self.expires)}, in {max(left, 0):.1f} days: "
            f"{renewal(self.folder / CERTIFICATE)}"
        )

    def link_key(self, peer: str) -> bytes:
        """Return the 32 bytes that this party and `peer` share.

        Raises:
            ClovenError: for an impossible name, and if the file is missing or `read_link_key` refuses it.
        """
        if problem := name_problem(peer):
            raise ClovenError(problem)
        path = self.folder / LINKS / f"{peer}.key"
        if not os.path.lexists(path):
            raise ClovenError(
                f"{self.name} has no key for its link with {peer}: {path} is missing; copy it from "
                f"{self.name}/{LINKS}/ where the authority is, after `cloven keys add` if {peer} is new"
            )
        return read_link_key(path)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server: TLS 1.3, with a certificate demanded of the client.

        Raises:
            ClovenError: if gRPC would also speak TLS 1.2.
        """
        _check_tls()
        import grpc

        return grpc.ssl_server_credentials(
            [(self.private, self.certificate)], root_certificates=self.authority, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel; its ``grpc.ssl_target_name_override`` must be the peer's name.

        Raises:
            ClovenError: if gRPC would also speak TLS 1.2.
        """
        _check_tls()
        import grpc

        return grpc.ssl_channel_credentials(self.authority, self.private, self.certificate)

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server of any other protocol: TLS 1.3, with a certificate demanded of the client.

        Raises:
            ClovenError: if the files are not those that were read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self.authority.decode())
        try:
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / PRIVATE)
        except OSError as error:
            raise ClovenError(
                f"{CERTIFICATE} and {PRIVATE} in {self.folder} cannot be used any more "
                f"({error.strerror or type(error).__name__}): they changed since they were read; start again"
            ) from None
        return context


def _check_tls() -> None:
    if not only_tls_1_3():
        raise ClovenError(
            "grpc was imported before cloven, and would also speak TLS 1.2: import cloven.runtime.cluster first, "
            f"or set {OLD_SUITES}={NONE_USABLE} before Python starts"
        )


def peer_name(context: Context) -> str | None:
    """Return the name in the certificate of a gRPC peer; None without TLS."""
    names = list(context.auth_context().get("x509_subject_alternative_name", ()))
    return names[0].decode() if len(names) == 1 else None


def name_problem(name: str) -> str | None:
    """Return why a text cannot be a party's name, which becomes one of a certificate and of a folder."""
    if not NAME.fullmatch(name) or ".." in name:
        return (
            f"{name!r} is not a device name: expected 1 to 63 of the letters a-z and A-Z, digits, '-', '_' and "
            "'.', a letter or digit first and last, and no two dots together"
        )
    if ADDRESS.fullmatch(name):
        return f"{name!r} is an address, not a device name: name the device, and give addresses in the cluster file"
    if NO_FOLDER.fullmatch(name):
        return f"{name!r} cannot be a folder's name on Windows: choose another device name"
    return None


def read(folder: Path, expected: str | None = None, now: datetime | None = None) -> Identity:
    """Return the identity in a folder, after checking all that would make others refuse it.

    Args:
        folder: a party's folder, as `cloven keys new` made it.
        expected: the name that it must have, if that is known.
        now: the moment (with time zone) at which it must be valid.

    Raises:
        ClovenError: with every problem: missing or unreadable files, a private key that is open to others or
            belongs to another certificate, another authority's, an expired or not yet valid certificate, another
            name than expected.
    """
    if not folder.is_dir():
        raise ClovenError(
            f"there is no folder {folder}: make one for each device with `cloven keys new`, and copy this one here"
        )
    problems: list[str] = []
    paths = folder / AUTHORITY, folder / CERTIFICATE, folder / PRIVATE
    authority = tried(partial(read_certificate, paths[0]), problems)
    certificate = tried(partial(read_certificate, paths[1]), problems)
    private = tried(partial(read_private, paths[2]), problems)
    if authority:
        problems += validity_problems(authority, paths[0], now)
    if certificate:
        problems += validity_problems(certificate, paths[1], now)
        problems += name_problems(certificate, paths[1], expected)
    if certificate and authority and not issued_by(certificate, authority):
        problems.append(
            f"{paths[1]} is not signed by {paths[0]}; copy the whole folder again from where it was made"
        )
    if certificate and private and private.public_key() != certificate.public_key():
        problems.append(
            f"{paths[2]} is not the private key of {paths[1]}; copy the whole folder again from where it was made"
        )
    if problems or not (authority and certificate and private):
        raise ClovenError(problems)
    return Identity(
        name=certified_name(certificate) or "",
        folder=folder,
        expires=min(certificate.not_valid_after_utc, authority.not_valid_after_utc),
        authority=certificate_pem(authority),
        certificate=certificate_pem(certificate),
        private=private_pem(private),
    )
