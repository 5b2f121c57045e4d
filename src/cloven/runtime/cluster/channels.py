"""gRPC's settings, its streams, and its errors in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from cloven.runtime.cluster.errors import PartyError

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

DESCRIBE, CONTROL, LINK = "/cloven.Worker/Describe", "/cloven.Worker/Control", "/cloven.Worker/Link"
HEALTH = "/grpc.health.v1.Health/Check"

Call = grpc.aio.StreamStreamCall[bytes, bytes] | grpc.aio.ServicerContext[bytes, bytes]

CLOSED = "closed the connection"
"""Why a stream ended for whoever only saw its end."""

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
    ("grpc.min_reconnect_backoff_ms", 4_000),  # in truth: how long one attempt may take, TLS included
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
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


class Stream:
    """A stream with a party, from either end; gRPC's many ways to fail are one `PartyError`."""

    def __init__(self, party: str, call: Call, address: str = "") -> None:
        self.party, self.call, self.address = party, call, address

    async def read(self) -> bytes | None:
        """The next message, or None once the other side has finished.

        Raises:
            PartyError: where the stream has broken.
        """
        with in_words(self.party, self.address):
            message = await self.call.read()
        return message if isinstance(message, bytes) else None

    async def write(self, message: bytes) -> None:
        """Send a message, one at a time; waits while the other side takes no more.

        Raises:
            PartyError: where the stream has ended or broken.
        """
        with in_words(self.party, self.address):
            await self.call.write(message)

    async def finish(self) -> None:
        """Say that nothing more comes from us; on a stream that we accepted, its handler's end says so."""
        if isinstance(self.call, grpc.aio.StreamStreamCall):
            with in_words(self.party, self.address):
                await self.call.done_writing()

    def cancel(self) -> None:
        """End a stream that we opened at once."""
        if isinstance(self.call, grpc.aio.StreamStreamCall):
            self.call.cancel()


@contextmanager
def in_words(party: str, address: str) -> Iterator[None]:
    """Turn whatever gRPC raises for a call that has ended into a `PartyError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise lost(party, address, error) from error
    except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
        raise PartyError(party, CLOSED, again=True) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled us: gRPC says so that the call was cancelled, by another task of ours.
        raise PartyError(party, CLOSED, again=True) from None


def lost(party: str, address: str, error: grpc.RpcError) -> PartyError:
    """What a gRPC error means for a person; ``address`` is where the party was dialled, if we did."""
    details = str(getattr(error, "details", lambda: error)() or "no reason given")
    code = getattr(error, "code", lambda: None)()
    at = f" ({address})" if address else ""
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return PartyError(party, details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PartyError(party, f"what answers{at} is no worker of cloven, or one of another version")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PartyError(party, f"gave no answer in time{at}", again=True)
    if "CERTIFICATE_VERIFY_FAILED" in details or "Peer name" in details:
        why = "its certificate is not that party's, expired, or of another authority"
        return PartyError(party, f"{why}{at}: {details}")
    if "Ssl handshake failed" in details or "SSL_ERROR" in details or "WRONG_VERSION" in details:
        why = "no TLS connection: one side has no mTLS (--keys, --insecure), or does not accept the certificate"
        return PartyError(party, f"{why}{at}: {details}")
    why = details.rpartition(": ")[2]
    if "failed to connect" in details:
        return PartyError(party, f"cannot be reached{at}: {why}", again=True)
    return PartyError(party, f"the connection was lost: {why}", again=True)
