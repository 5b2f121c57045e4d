"""Clients of servers that demand certificates, as the standard library makes them."""

from __future__ import annotations

import ssl

from cloven.runtime.link.identity import Identity


def client_context(identity: Identity) -> ssl.SSLContext:
    """TLS 1.3 with a party's certificate; the server must have one of the same authority, and the right name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=identity.authority.decode())
    context.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "private.pem")
    return context
