"""TLS clients of the standard library for servers that require certificates."""

from __future__ import annotations

import ssl

from cloven.runtime.link.identity import Identity


def client_context(identity: Identity) -> ssl.SSLContext:
    """Return a TLS 1.3 context with a party's certificate, which verifies the server's authority and name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=identity.authority.decode())
    context.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "private.pem")
    return context
