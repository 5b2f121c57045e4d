"""The release over TCP: the enclave's host listens and forwards, and sees only ciphertext.

A frame is its length (4 bytes, big-endian, at most 64 KiB) and a JSON object. On a connection, the owner sends a
nonce and receives a quote, then sends the release and receives ``{"accepted": true}`` or ``{"refused": reason}``.
The host is not trusted: it can refuse a release, or lie about its acceptance, but never learns the key.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from pydantic import Field

from cloven.documents import Document
from cloven.enclave.quote import (
    MESSAGE_BYTES,
    NONCE_BYTES,
    Digits,
    Expected,
    Quote,
    encoded,
    message_text,
    parse_message,
    read_quote,
)
from cloven.enclave.release import Waiting, release
from cloven.errors import ClovenError, tried
from cloven.files import parse_json
from cloven.runtime.link.address import check_address

LENGTH_BYTES = 4
MESSAGES = 2
"""The number of messages that an owner sends on a connection: a nonce and a release."""
REASON = 1000
"""The largest number of characters of a refusal that is sent or shown."""


class NonceMessage(Document):
    """The owner's nonce; the enclave answers with a quote."""

    nonce: Digits


class AcceptedMessage(Document):
    """The enclave has accepted a release."""

    accepted: bool


class RefusedMessage(Document):
    """The enclave has refused a message, for a reason in printable ASCII."""

    refused: Annotated[str, Field(pattern="^[ -~]*$", max_length=REASON)]


ACCEPTED = encoded(AcceptedMessage(accepted=True))


def deliver(
    endpoint: str,
    *,
    expect: Expected,
    owner_key: bytes,
    folder_id: str,
    timeout: float = 10.0,
) -> Quote:
    """Release the data key to the enclave at an address, if it meets the owner's requirements.

    Args:
        endpoint: ``HOST:PORT``, IPv6 in brackets.
        expect: as in `release`.
        owner_key: as in `release`.
        folder_id: as in `release`.
        timeout: the limit in seconds for everything except the look-up of the host's name.

    Returns:
        The accepted quote; its `words` describe how far it can be trusted.

    Raises:
        ClovenError: lists every problem of the quote, or describes the failure of the connection. Nothing is
            released if the quote has a problem.
    """
    deadline = time.monotonic() + timeout
    nonce = os.urandom(NONCE_BYTES)
    with reached(endpoint, timeout) as connection:
        quote = read_quote(asked(connection, encoded(NonceMessage(nonce=nonce.hex())), deadline))
        released = release(quote, nonce, expect=expect, owner_key=owner_key, folder_id=folder_id)
        reply = asked(connection, released, deadline)
        answered = tried(lambda: parse_message(AcceptedMessage, reply, "the enclave's answer"), [])
        if answered is None or not answered.accepted:
            raise ClovenError(
                "the enclave answered the release neither with accepted nor with refused; release the key again"
            )
    return quote


def inquire(endpoint: str, *, timeout: float = 10.0) -> Quote:
    """Return the unverified quote of the enclave at an address; nothing is released.

    Raises:
        ClovenError: if the enclave cannot be reached, or does not answer with a quote.
    """
    deadline = time.monotonic() + timeout
    with reached(endpoint, timeout) as connection:
        nonce = NonceMessage(nonce=os.urandom(NONCE_BYTES).hex())
        return read_quote(asked(connection, encoded(nonce), deadline))


def serve_release(listener: socket.socket, ask: Callable[[bytes], bytes], timeout: float) -> None:
    """Forward messages to an enclave, one connection after another, until it accepts a release.

    A peer that is slow, disconnects or sends malformed data loses its connection, and the next one is served.

    Args:
        listener: a listening socket; it stays open.
        ask: passes a message to the enclave and returns its answer, see `answer`; its exceptions propagate.
        timeout: the limit for a connection, in seconds.

    Raises:
        ClovenError: if the listener is closed, or its own timeout has passed.
    """
    done = False
    while not done:
        try:
            connection, _ = listener.accept()
        except ConnectionError:
            continue
        except OSError as error:
            raise ClovenError(f"the owner did not release the key: {error.strerror or error}") from error
        with connection:
            done = served(connection, ask, time.monotonic() + timeout)


def answer(waiting: Waiting, text: bytes) -> tuple[bytes, bytes | None]:
    """Return an enclave's answer to one message, and the data key if the message is an accepted release.

    Every message is answered: a malformed one is refused with a reason.
    """
    try:
        if parse_json(message_text(text, "a message"), "a message").keys() != {"nonce"}:
            return ACCEPTED, waiting.accept(text)
        nonce = parse_message(NonceMessage, text, "a message").nonce
        return waiting.quote(bytes.fromhex(nonce)).message(), None
    except ClovenError as error:
        reason = re.sub("[^ -~]", "?", "; ".join(error.problems))
        return encoded(RefusedMessage(refused=reason[:REASON])), None


def served(connection: socket.socket, ask: Callable[[bytes], bytes], deadline: float) -> bool:
    """Return whether the enclave accepted a release on this connection."""
    for _ in range(MESSAGES):
        try:
            asked_for = receive(connection, deadline)
        except ClovenError:
            return False
        reply = ask(asked_for)
        # The key is released even if the owner does not receive the answer.
        with suppress(ClovenError):
            send(connection, reply, deadline)
        if reply == ACCEPTED:
            return True
    return False


def reached(endpoint: str, timeout: float) -> socket.socket:
    """Return a connection to the enclave at an address."""
    address = check_address(endpoint, None, insecure=True, option="the enclave's address")
    try:
        return socket.create_connection(address, timeout)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClovenError(
            f"cannot reach an enclave at {endpoint}: {why}; start it there, or give the address where it listens"
        ) from error


def asked(connection: socket.socket, text: bytes, deadline: float) -> bytes:
    """Send a message and return the answer.

    Raises:
        ClovenError: if the message is refused.
    """
    send(connection, text, deadline)
    reply = receive(connection, deadline)
    if parse_json(message_text(reply, "the enclave's answer"), "the enclave's answer").keys() == {"refused"}:
        raise ClovenError(f"the enclave refused: {parse_message(RefusedMessage, reply, 'a refusal').refused}")
    return reply


def send(connection: socket.socket, text: bytes, deadline: float) -> None:
    """Send one frame before the deadline (monotonic seconds)."""
    if len(text) > MESSAGE_BYTES:
        raise ClovenError(f"a message has {len(text)} bytes; expected at most {MESSAGE_BYTES}")
    try:
        connection.settimeout(left(deadline))
        connection.sendall(len(text).to_bytes(LENGTH_BYTES, "big") + text)
    except OSError as error:
        raise broken(error) from error


def receive(connection: socket.socket, deadline: float) -> bytes:
    """Return the next frame, if it arrives completely before the deadline (monotonic seconds).

    Raises:
        ClovenError: if the frame is too long or late, or the connection breaks.
    """
    size = int.from_bytes(exactly(connection, LENGTH_BYTES, deadline), "big")
    if size > MESSAGE_BYTES:
        raise ClovenError(f"the peer announced a message of {size} bytes; expected at most {MESSAGE_BYTES}")
    return exactly(connection, size, deadline)


def exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Return exactly ``size`` bytes, received before the deadline."""
    held = bytearray()
    while len(held) < size:
        try:
            connection.settimeout(left(deadline))
            more = connection.recv(size - len(held))
        except OSError as error:
            raise broken(error) from error
        if not more:
            raise ClovenError(
                f"the peer closed the connection after {len(held)} of {size} bytes; see its log, and try again"
            )
        held += more
    return bytes(held)


def left(deadline: float) -> float:
    """Return the seconds until the deadline.

    Raises:
        TimeoutError: if it has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def broken(error: OSError) -> ClovenError:
    """Return the error for a failed connection."""
    if isinstance(error, TimeoutError):
        return ClovenError("the peer did not answer in time; check that the enclave is running, and try again")
    return ClovenError(f"the connection failed: {error.strerror or error}; try again")
