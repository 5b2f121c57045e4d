"""The identity of a party: its certificate, its private key, and a link key for each of the other parties.

    FOLDER/authority.pem     the certificate of the trusted authority; the same on every host
    FOLDER/certificate.pem   this party's name and public key, signed by the authority
    FOLDER/private.pem       the private key, readable by its owner only
    FOLDER/links/PEER.key    the key of the link with PEER, see `cloven.runtime.link.keys`

`cloven.runtime.link.authority` creates these folders. No message, repr or log contains a key or any part of one.
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
"""The remaining days of validity below which a certificate causes a warning."""
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
ADDRESS = re.compile(r"\d+(\.\d+){3}")
NO_FOLDER = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", re.IGNORECASE)
"""The reserved device names of Windows, which are invalid also with an extension."""


OLD_SUITES = "GRPC_SSL_CIPHER_SUITES"
NONE_USABLE = "ECDHE-PSK-AES128-CBC-SHA"


def only_tls_1_3() -> bool:
    """Disable TLS 1.2 in gRPC, unless gRPC is already imported; return whether it is disabled.

    gRPC for Python has no setting for the minimum TLS version. Its list of cipher suites, which it reads from the
    environment when it is imported, applies to TLS 1.2 only. The only suite in our list needs pre-shared keys,
    which neither side has, so no TLS 1.2 handshake can succeed. TLS 1.3 has separate suites.
    """
    if "grpc" not in sys.modules:
        os.environ[OLD_SUITES] = NONE_USABLE
    return os.environ.get(OLD_SUITES) == NONE_USABLE


class Context(Protocol):
    """The part of a call's context that `peer_name` needs; the contexts of grpc and grpc.aio have it."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return the authentication properties of the peer."""


@dataclass(frozen=True, eq=False)
class Identity:
    """The verified identity of a party; `read` returns it.

    Attributes:
        name: the party's name in its certificate.
        folder: the folder that it was read from.
        expires: the end of the certificate's validity (UTC).
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
        """Return the link key of 32 bytes that this party shares with `peer`.

        Raises:
            ClovenError: if the name is not valid, the file is missing, or `read_link_key` refuses it.
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
        """Return the credentials of a gRPC server: TLS 1.3, with a required client certificate.

        Raises:
            ClovenError: if gRPC would also accept TLS 1.2.
        """
        _check_tls()
        import grpc

        return grpc.ssl_server_credentials(
            [(self.private, self.certificate)], root_certificates=self.authority, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of a channel; its ``grpc.ssl_target_name_override`` must be the peer's name.

        Raises:
            ClovenError: if gRPC would also accept TLS 1.2.
        """
        _check_tls()
        import grpc

        return grpc.ssl_channel_credentials(self.authority, self.private, self.certificate)

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS context of a server other than gRPC: TLS 1.3, with a required client certificate.

        Raises:
            ClovenError: if the files have changed since they were read.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the TLS context of a client other than gRPC: TLS 1.3, with this party's certificate.

        It verifies the server's authority and name.

        Raises:
            ClovenError: if the files have changed since they were read.
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self.authority.decode())
        try:
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / PRIVATE)
        except OSError as error:
            raise ClovenError(
                f"{CERTIFICATE} and {PRIVATE} in {self.folder} have changed since they were read "
                f"({error.strerror or type(error).__name__}); start again"
            ) from None
        return context


def _check_tls() -> None:
    if not only_tls_1_3():
        raise ClovenError(
            "grpc was imported before cloven, and would also accept TLS 1.2: import cloven.runtime.cluster first, "
            f"or set {OLD_SUITES}={NONE_USABLE} before Python starts"
        )


def peer_name(context: Context) -> str | None:
    """Return the name in the certificate of a gRPC peer; None without TLS."""
    names = list(context.auth_context().get("x509_subject_alternative_name", ()))
    return names[0].decode() if len(names) == 1 else None


def name_problem(name: str) -> str | None:
    """Return why a text cannot be a party's name, which is used in certificates and as a folder's name."""
    if not NAME.fullmatch(name) or ".." in name:
        return (
            f"{name!r} is not a device name; expected 1 to 63 characters: letters a-z and A-Z, digits, '-', '_' "
            "and '.', with a letter or digit first and last, and no two dots in a row"
        )
    if ADDRESS.fullmatch(name):
        return f"{name!r} is an address, not a device name: name the device, and give addresses in the cluster file"
    if NO_FOLDER.fullmatch(name):
        return f"{name!r} is reserved on Windows: choose another device name"
    return None


def read(folder: Path, expected: str | None = None, now: datetime | None = None) -> Identity:
    """Return the identity in a folder, after all checks that other parties would make.

    Args:
        folder: a party's folder, as `cloven keys new` created it.
        expected: the name that it must have, if that is known.
        now: the moment (with time zone) at which it must be valid.

    Raises:
        ClovenError: with every problem: missing or unreadable files, a private key that others can read or that
            belongs to another certificate, a certificate that is expired, not yet valid, or signed by another
            authority, or another name than expected.
    """
    if not folder.is_dir():
        raise ClovenError(
            f"{folder} is not a folder: create keys with `cloven keys new`, and copy this party's folder here"
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
        problems.append(f"{paths[1]} is not signed by {paths[0]}; copy the whole folder again")
    if certificate and private and private.public_key() != certificate.public_key():
        problems.append(f"{paths[2]} is not the private key of {paths[1]}; copy the whole folder again")
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
