"""gRPC settings, channels and streams, and the translation of gRPC errors into plain messages."""

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
MEASURE, ECHO = "/cloven.Worker/Measure", "/cloven.Worker/Echo"
UPGRADE, ACTIVATE = "/cloven.Worker/Upgrade", "/cloven.Worker/Activate"
HEALTH = "/grpc.health.v1.Health/Check"

Call = grpc.aio.StreamStreamCall[bytes, bytes] | grpc.aio.ServicerContext[bytes, bytes]

CLOSED = "closed the connection"
"""The reason that a party gives if it only saw the stream end."""

SERVING = b"\x08\x01"
"""HealthCheckResponse(status=SERVING) of grpc.health.v1, as protobuf writes it."""

ROOM = 2**16
"""The allowance, in bytes, for what a message contains besides a frame's payload: headers and tags."""

COMMON = (
    # On a slow link, a ping waits behind large frames, so only TCP's acknowledgement is required within 10 s: it
    # detects a lost host. A hung process is detected after gRPC's own 60 s, or by the coordinator.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 4_000),  # in effect the timeout of one attempt, TLS included
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 64),  # per connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

QUICK = (
    # For a channel that carries only small messages: a hung process is detected within 10 s, because gRPC's own
    # threads answer pings while a worker computes. After an outage of 5 s, retransmitted packets still arrive in
    # time.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 7_000),
)


def options(largest: int) -> list[tuple[str, int | str]]:
    """Return the settings of a server or channel whose frames carry at most ``largest`` bytes."""
    return [*COMMON, ("grpc.max_receive_message_length", largest + ROOM), ("grpc.max_send_message_length", -1)]


def channel(
    party: str, address: str, identity: Identity | None, largest: int, *, quick: bool = False
) -> grpc.aio.Channel:
    """Return a channel to a party; with an identity, over mutual TLS with a check of the party's name.

    A ``quick`` channel detects a hung party within 10 s, and may carry only small messages.
    """
    settings = list(dict([*options(largest), *(QUICK if quick else ())]).items())
    if identity is None:
        return grpc.aio.insecure_channel(address, options=settings)
    settings.append(("grpc.ssl_target_name_override", party))
    return grpc.aio.secure_channel(address, identity.channel_credentials(), options=settings)


class MessageStream:
    """A stream with a party, used at either end; all gRPC errors are raised as `PartyError`."""

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
        """Send a message, one at a time; wait while the peer's flow-control window is full.

        Raises:
            PartyError: if the stream has ended or broken.
        """
        with in_words(self.party, self.address):
            await self.call.write(message)

    async def finish(self) -> None:
        """Close our direction of a stream that we opened; one that we accepted closes when its handler returns."""
        if isinstance(self.call, grpc.aio.StreamStreamCall):
            with in_words(self.party, self.address):
                await self.call.done_writing()

    def cancel(self) -> None:
        """Cancel a stream that we opened."""
        if isinstance(self.call, grpc.aio.StreamStreamCall):
            self.call.cancel()


@contextmanager
def in_words(party: str, address: str) -> Iterator[None]:
    """Raise any gRPC error of a call as a `PartyError`."""
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
        # Our task was not cancelled: gRPC reports this way that another task of ours cancelled the call.
        raise PartyError(party, CLOSED, again=True) from None


WORDS = (
    ("WRONG_VERSION_NUMBER", "answers without mTLS: start it with --keys, or leave the keys out here"),
    ("certificate has expired", "its certificate has expired: run `cloven keys renew`, and copy it there"),
    ("certificate is not yet valid", "its certificate is not valid yet: set the clocks"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is of another authority: give both the keys of one `keys new`"),
    ("Hostname Verification", "it has another party's certificate: correct the addresses, or give it its own keys"),
    ("andshake failed", "no TLS 1.3 connection can be made with it"),
)
"""Parts of gRPC's error details and their meaning, for errors that connecting again does not solve."""

LESS_CLEAR = (
    ("Socket closed", "it closed the connection at once; if it uses mTLS, it requires a valid certificate"),
    ("HTTP/2", "the peer is not a cloven worker"),
    ("SETTINGS frame", "it does not answer"),
    ("DNS", "its host name cannot be resolved"),
)
"""The same for errors that may be temporary."""


def lost(party: str, address: str, error: grpc.RpcError) -> PartyError:
    """Return a gRPC error as a `PartyError`; ``address`` is that of the party if we opened the connection."""
    details = str(getattr(error, "details", lambda: error)() or "no reason given")
    code = getattr(error, "code", lambda: None)()
    at = f" ({address})" if address else ""
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return PartyError(party, one_line(details))
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PartyError(party, f"the peer is not a cloven worker, or has another version{at}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PartyError(party, f"gave no answer in time{at}", again=True)
    if details == "Internal error from Core":  # raised by a write after the end of the stream
        return PartyError(party, CLOSED, again=True)
    for mark, words in WORDS:
        if mark in details:
            return PartyError(party, words + at)
    short = one_line(details.rpartition(": ")[2])
    if "failed to connect" not in details and "DNS" not in details:
        return PartyError(party, f"the connection was lost{at}: {short}", again=True)
    why = next((words for mark, words in LESS_CLEAR if mark in details), short)
    return PartyError(party, f"cannot be reached{at}: {why}", again=True)
