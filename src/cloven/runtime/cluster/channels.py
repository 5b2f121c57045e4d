"""gRPC's settings, and its errors in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio

from cloven.runtime.cluster.errors import PartyError

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

DESCRIBE, CONTROL, LINK = "/cloven.Worker/Describe", "/cloven.Worker/Control", "/cloven.Worker/Link"
HEALTH = "/grpc.health.v1.Health/Check"

SERVING = b"\x08\x01"
"""HealthCheckResponse(status=SERVING) of grpc.health.v1, as protobuf writes it."""

ROOM = 2**16
"""Bytes of a message besides a frame's payload: headers, tags, and control messages."""

ALIVE = (
    # A peer that vanished without a word is noticed within 20 s; a link that is down for 5 s is not given up.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


def options(largest: int) -> list[tuple[str, int | str]]:
    """Settings of a server or channel whose frames carry at most ``largest`` bytes; longer messages are refused."""
    return [*ALIVE, ("grpc.max_receive_message_length", largest + ROOM), ("grpc.max_send_message_length", -1)]


def channel(party: str, address: str, identity: Identity | None, largest: int) -> grpc.aio.Channel:
    """A channel to a party, over mutual TLS where we have an identity: then the other side must prove its name."""
    settings = options(largest)
    if identity is None:
        return grpc.aio.insecure_channel(address, options=settings)
    settings.append(("grpc.ssl_target_name_override", party))
    return grpc.aio.secure_channel(address, identity.channel_credentials(), options=settings)


def lost(party: str, address: str, error: grpc.RpcError) -> PartyError:
    """What a gRPC error means for a person."""
    details = str(getattr(error, "details", lambda: error)() or "no reason given")
    code = getattr(error, "code", lambda: None)()
    if code is grpc.StatusCode.UNAUTHENTICATED or code is grpc.StatusCode.PERMISSION_DENIED:
        return PartyError(party, details)
    if "CERTIFICATE_VERIFY_FAILED" in details or "Peer name" in details:
        why = "its certificate is not that party's, expired, or of another authority"
        return PartyError(party, f"{why} ({address}): {details}")
    if "Ssl handshake failed" in details or "SSL_ERROR" in details or "WRONG_VERSION" in details:
        why = "no TLS connection: one side has no mTLS (--keys, --insecure), or does not accept the certificate"
        return PartyError(party, f"{why} ({address}): {details}")
    if "failed to connect" in details or "Connection refused" in details:
        return PartyError(party, f"cannot be reached at {address}: {details}", again=True)
    return PartyError(party, f"the connection was lost: {details}", again=True)
