"""gRPC: settings, channels, streams, and error messages in plain words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from cloven.errors import one_line
from cloven.runtime.cluster.errors import PartyError

if TYPE_CHECKING:
    from cloven.runtime.link.identity import Identity

DESCRIBE, CONTROL, LINK = "/cloven.Worker/Describe", "/cloven.Worker/Control", "/cloven.Worker/Link"
HEALTH = "/grpc.health.v1.Health/Check"

Call = grpc.aio.StreamStreamCall[bytes, bytes] | grpc.aio.ServicerContext[bytes, bytes]

CLOSED = "closed the connection"
"""The reason given by a party that only saw the end of a stream."""

SERVING = b"\x08\x01"
"""HealthCheckResponse(status=SERVING) of grpc.health.v1, as protobuf writes it."""

ROOM = 2**16
"""Bytes of a message besides a frame's payload: headers, tags, and control messages."""

COMMON = (
    # Where a link is slow, a ping waits behind large frames: only TCP's acknowledgement is due within 10 s, so that
    # a host that vanished is noticed, and a process that hangs after gRPC's 60 s, or when the coordinator says so.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 4_000),  # in truth: how long one attempt may take, TLS included
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 64),  # of one connection, whatever it is used for
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

QUICK = (
    # A channel that carries small messages only: a process that hangs is noticed within 10 s, as gRPC's own threads
    # answer pings however long a worker computes. What is resent after a break of 5 s still comes in time.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 7_000),
)


def options(largest: int) -> list[tuple[str, int | str]]:
    """Return the settings of a server or channel whose frames carry at most ``largest`` bytes."""
    return [*COMMON, ("grpc.max_receive_message_length", largest + ROOM), ("grpc.max_send_message_length", -1)]


def channel(
    party: str, address: str, identity: Identity | None, largest: int, *, quick: bool = False
) -> grpc.aio.Channel:
    """Return a channel to a party, over mutual TLS if there is an identity: the other side must prove its name.

    A ``quick`` one notices within 10 s that the party hangs; it must carry small messages only.
    """
    settings = list(dict([*options(largest), *(QUICK if quick else ())]).items())
    if identity is None:
        return grpc.aio.insecure_channel(address, options=settings)
    settings.append(("grpc.ssl_target_name_override", party))
    return grpc.aio.secure_channel(address, identity.channel_credentials(), options=settings)


class MessageStream:
    """A stream with a party, from either end; all of gRPC's errors become one `PartyError`."""

    def __init__(self, party: str, call: Call, address: str = "") -> None:
        self.party, self.call, self.address = party, call, address

    async def read(self) -> bytes | None:
        """Return the next message, or None once the other side has finished.

        Raises:
            PartyError: if the stream has broken.
        """
        with in_words(self.party, self.address):
            message = await self.call.read()
        return message if isinstance(message, bytes) else None

    async def write(self, message: bytes) -> None:
        """Send a message, one at a time; wait while the other side takes no more.

        Raises:
            PartyError: if the stream has ended or broken.
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


WORDS = (
    ("WRONG_VERSION_NUMBER", "answers without mTLS: start it with --keys, or leave the keys out here"),
    ("certificate has expired", "its certificate has expired: run `cloven keys renew`, and copy it there"),
    ("certificate is not yet valid", "its certificate is not valid yet: set the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is of another authority: give both the keys of one `keys new`"),
    ("Hostname Verification", "it has another party's certificate: correct the addresses, or give it its own keys"),
    ("andshake failed", "no TLS 1.3 connection can be made with it"),
)
"""Parts of gRPC's details and their meaning; dialling again is of no use."""

LESS_CLEAR = (
    ("Socket closed", "it closed the connection at once; if it has mTLS, it wants a valid certificate"),
    ("HTTP/2", "the peer is not a cloven worker"),
    ("SETTINGS frame", "it does not answer"),
    ("DNS", "its host's name is not known here"),
)
"""The same for reasons that may go away by themselves."""


def lost(party: str, address: str, error: grpc.RpcError) -> PartyError:
    """Return what a gRPC error means; ``address`` is where the party was dialled, if we did."""
    details = str(getattr(error, "details", lambda: error)() or "no reason given")
    code = getattr(error, "code", lambda: None)()
    at = f" ({address})" if address else ""
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return PartyError(party, one_line(details))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PartyError(party, f"the peer is not a cloven worker, or one of another version{at}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PartyError(party, f"gave no answer in time{at}", again=True)
    if details == "Internal error from Core":  # what a write says that finds the stream ended
        return PartyError(party, CLOSED, again=True)
    for mark, words in WORDS:
        if mark in details:
            return PartyError(party, words + at)
    short = one_line(details.rpartition(": ")[2])
    if "failed to connect" not in details and "DNS" not in details:
        return PartyError(party, f"the connection was lost{at}: {short}", again=True)
    why = next((words for mark, words in LESS_CLEAR if mark in details), short)
    return PartyError(party, f"cannot be reached{at}: {why}", again=True)
