"""The release over TCP: the host of the enclave listens and forwards, and sees nothing but ciphertext.

A frame is its length (4 bytes, big-endian, at most 64 KiB) and a JSON object. On a connection the owner sends a
nonce and gets a quote, then sends the release and gets ``{"accepted": true}`` or ``{"refused": why}``. Who runs the
enclave is not trusted: it can refuse, or lie about acceptance, and learns no key.
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
"""Messages that an owner sends on a connection: a nonce and a release."""
REASON = 1000
"""The most characters of a refusal that are sent or shown."""


class NonceMessage(Document):
    """The owner's nonce, which the enclave answers with a quote."""

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
    """Release the data key to the enclave behind an address, if it is what is expected.

    Args:
        endpoint: ``HOST:PORT``, IPv6 in brackets.
        expect: as `release`.
        owner_key: as `release`.
        folder_id: as `release`.
        timeout: seconds for all of it but the look-up of the host's name.

    Returns:
        The quote that was accepted; its `words` say what it is worth.

    Raises:
        ClovenError: with every problem of the quote, or what went wrong on the way; nothing was released where the
            quote has a problem.
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
                "the enclave's answer to the release is neither accepted nor refused; release it again"
            )
    return quote


def inquire(endpoint: str, *, timeout: float = 10.0) -> Quote:
    """Return the quote of the enclave behind an address, which nothing has verified; nothing is released.

    Raises:
        ClovenError: if the enclave cannot be reached, or does not answer with a quote.
    """
    deadline = time.monotonic() + timeout
    with reached(endpoint, timeout) as connection:
        nonce = NonceMessage(nonce=os.urandom(NONCE_BYTES).hex())
        return read_quote(asked(connection, encoded(nonce), deadline))


def serve_release(listener: socket.socket, ask: Callable[[bytes], bytes], timeout: float) -> None:
    """Forward messages to an enclave, one connection after another, until it accepted a release.

    A peer that is slow, breaks off or sends nonsense loses its connection, and the next one is served.

    Args:
        listener: a listening socket; it stays open.
        ask: gives a message to the enclave and returns its answer, see `answer`; what it raises is raised.
        timeout: seconds that a connection may take.

    Raises:
        ClovenError: where the listener is closed, or has a timeout of its own that passed.
    """
    done = False
    while not done:
        try:
            connection, _ = listener.accept()
        except ConnectionError:
            continue
        except OSError as error:
            raise ClovenError(f"no release came, and none can come any more: {error.strerror or error}") from error
        with connection:
            done = served(connection, ask, time.monotonic() + timeout)


def answer(waiting: Waiting, text: bytes) -> tuple[bytes, bytes | None]:
    """Return an enclave's answer to one message, and the data key if that was a release that it accepted.

    Any bytes are answered: a malformed message is refused with a reason.
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
        # An owner who does not hear of it has released the key all the same.
        with suppress(ClovenError):
            send(connection, reply, deadline)
        if reply == ACCEPTED:
            return True
    return False


def reached(endpoint: str, timeout: float) -> socket.socket:
    """Return a connection to the enclave behind an address."""
    address = check_address(endpoint, None, insecure=True, option="the enclave's address")
    try:
        return socket.create_connection(address, timeout)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ClovenError(
            f"no enclave can be reached at {endpoint}: {why}; start it there, or name the address where it listens"
        ) from error


def asked(connection: socket.socket, text: bytes, deadline: float) -> bytes:
    """Return the answer to a message.

    Raises:
        ClovenError: if the message is refused.
    """
    send(connection, text, deadline)
    reply = receive(connection, deadline)
    if parse_json(message_text(reply, "the enclave's answer"), "the enclave's answer").keys() == {"refused"}:
        raise ClovenError(f"the enclave refused: {parse_message(RefusedMessage, reply, 'a refusal').refused}")
    return reply


def send(connection: socket.socket, text: bytes, deadline: float) -> None:
    """Send one frame until the deadline (monotonic seconds)."""
    if len(text) > MESSAGE_BYTES:
        raise ClovenError(f"a message has {len(text)} bytes; expected at most {MESSAGE_BYTES}")
    try:
        connection.settimeout(left(deadline))
        connection.sendall(len(text).to_bytes(LENGTH_BYTES, "big") + text)
    except OSError as error:
        raise broken(error) from error


def receive(connection: socket.socket, deadline: float) -> bytes:
    """Return the next frame, if it is whole before the deadline (monotonic seconds).

    Raises:
        ClovenError: where it is too long, late, or the connection breaks.
    """
    size = int.from_bytes(exactly(connection, LENGTH_BYTES, deadline), "big")
    if size > MESSAGE_BYTES:
        raise ClovenError(f"a message of {size} bytes was announced; expected at most {MESSAGE_BYTES}")
    return exactly(connection, size, deadline)


def exactly(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Return so many bytes; however slowly they arrive, not after the deadline."""
    held = bytearray()
    while len(held) < size:
        try:
            connection.settimeout(left(deadline))
            more = connection.recv(size - len(held))
        except OSError as error:
            raise broken(error) from error
        if not more:
            raise ClovenError(
                f"the other side closed the connection after {len(held)} of {size} bytes; see what it says there, "
                "and try again"
            )
        held += more
    return bytes(held)


def left(deadline: float) -> float:
    """Return the seconds until the deadline; raise TimeoutError if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def broken(error: OSError) -> ClovenError:
    """Return the error for a connection that did not carry a message."""
    if isinstance(error, TimeoutError):
        return ClovenError("the other side did not answer in time; see whether the enclave runs, and try again")
    return ClovenError(f"the connection broke: {error.strerror or error}; try again")
