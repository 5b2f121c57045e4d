"""The release over real sockets: an honest owner is served, whoever connected before."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from cloven.enclave.endpoint import answer, deliver, serve_release
from cloven.enclave.owner import data_key
from cloven.enclave.quote import Attested, Expected, Measurement
from cloven.enclave.release import Waiting, waiting
from cloven.errors import ClovenError

OWNER = bytes(range(32))
MEASURED, FOLDER = Measurement("simulated", "ab" * 32), "folder-1"
EXPECTED = Expected(MEASURED, accept="simulated")


class Host:
    """The enclave's host: it forwards messages, and records them."""

    def __init__(self) -> None:
        self.enclave: Waiting = waiting(MEASURED, FOLDER)
        self.seen: list[bytes] = []
        self.key: bytes | None = None

    def ask(self, message: bytes) -> bytes:
        reply, key = answer(self.enclave, message)
        self.seen += message, reply
        self.key = key or self.key
        return reply


@contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener, f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(host: Host, timeout: float = 5.0) -> Iterator[tuple[str, Future[None]]]:
    """Yield an endpoint, and a future for the end of its service."""
    with listening() as (listener, endpoint), ThreadPoolExecutor(1) as pool:
        listener.settimeout(10)
        yield endpoint, pool.submit(serve_release, listener, host.ask, timeout)


@contextmanager
def answering(*replies: bytes, then: Callable[[socket.socket], None] = lambda _: None) -> Iterator[str]:
    """Yield a malicious host, which gives its own answers."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for reply in replies:
                connection.recv(2**16)
                connection.sendall(reply)
            then(connection)

    with listening() as (listener, endpoint):
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        try:
            yield endpoint
        finally:
            thread.join(10)


def frame(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def connected(endpoint: str) -> socket.socket:
    host, port = endpoint.split(":")
    return socket.create_connection((host, int(port)), 5)


def send(endpoint: str, timeout: float = 5.0, **more: object) -> str:
    """Return the outcome of a delivery: the words of the quote, or the error."""
    arguments = {"expect": EXPECTED, "owner_key": OWNER, "folder_id": FOLDER, "timeout": timeout} | more
    try:
        return deliver(endpoint, **arguments).words  # type: ignore[arg-type]
    except ClovenError as error:
        return str(error)


def test_the_key_arrives_and_the_host_sees_ciphertext() -> None:
    host = Host()
    with serving(host) as (endpoint, done):
        quote = deliver(endpoint, expect=EXPECTED, owner_key=OWNER, folder_id=FOLDER, timeout=5)
        done.result(5)

    key = data_key(OWNER, FOLDER)
    assert quote.measurement == MEASURED
    assert host.key == key
    assert [sorted(json.loads(text)) for text in host.seen] == [
        ["nonce"],
        ["evidence", "folder_id", "measurement", "public_key", "report_data"],
        ["nonce", "public_key", "sealed"],
        ["accepted"],
    ]
    assert not any(secret.hex().encode() in text for secret in (key, OWNER) for text in host.seen)


def test_an_owner_with_other_requirements_releases_nothing() -> None:
    host = Host()
    with serving(host) as (endpoint, done):
        other = Expected(Measurement("simulated", "cd" * 32), accept="simulated")
        assert f"measurement is {MEASURED}, expected {other.measurement}" in send(endpoint, expect=other)
        assert "for the sealed folder folder-1, expected folder-2" in send(endpoint, folder_id="folder-2")
        hardware = Expected(Measurement("sgx", "ab" * 32), lambda _: Attested(MEASURED, bytes(64)))
        assert "has the kind simulated, expected sgx" in send(endpoint, expect=hardware)
        assert [sorted(json.loads(text))[0] for text in host.seen[::2]] == ["nonce"] * 3
        assert host.key is None
        assert send(endpoint).startswith("simulated: ")
        done.result(5)


NONCE = frame(b'{"nonce": "' + b"ab" * 32 + b'"}')
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "half a length": b"\0\0",
    "half a message": frame(b"x" * 100)[:50],
    "too long": struct.pack(">I", 2**16 + 1) + b"x" * 100,
    "longest": b"\xff" * 100,
    "no JSON": frame(b"\xff"),
    "empty": frame(b""),
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "a nonce and away": NONCE,
    "nonces without end": NONCE * 50,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_the_owner_is_served_after_whoever_came_before(text: bytes) -> None:
    host = Host()
    with serving(host) as (endpoint, done):
        with connected(endpoint) as stranger:
            stranger.sendall(text)
            with suppress(OSError):
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(2**16):
                    pass
        words = send(endpoint)
        done.result(5)

    assert words.startswith("simulated: ")
    assert host.key == data_key(OWNER, FOLDER)
    assert len(host.seen) <= 2 * (2 + 2), "a stranger is answered twice at most"


def drip(connection: socket.socket) -> None:
    """Send single bytes slowly until the connection closes."""
    with suppress(OSError):
        for _ in range(100):
            connection.sendall(b"\0")
            time.sleep(0.05)


@pytest.mark.parametrize("then", [lambda _: None, drip], ids=["silent", "dripping"])
@pytest.mark.parametrize("text", [b"", struct.pack(">I", 2**15)], ids=["before", "within a message"])
def test_the_owner_is_served_while_a_stranger_holds_on(text: bytes, then: Callable[[socket.socket], None]) -> None:
    host = Host()
    with serving(host, timeout=0.4) as (endpoint, done):
        with ThreadPoolExecutor(1) as pool, connected(endpoint) as stranger:
            stranger.sendall(text)
            pool.submit(then, stranger)
            words = send(endpoint, timeout=3)
        done.result(5)

    assert words.startswith("simulated: ")


def test_an_owner_who_leaves_after_the_release_has_released() -> None:
    host, gone = Host(), threading.Event()

    def slow(message: bytes) -> bytes:
        reply = host.ask(message)
        assert b"sealed" not in message or gone.wait(5)
        return reply

    with listening() as (listener, endpoint), ThreadPoolExecutor(1) as pool:
        listener.settimeout(5)
        done = pool.submit(serve_release, listener, slow, 5.0)
        assert "did not answer in time" in send(endpoint, timeout=0.6)
        gone.set()
        done.result(5)

    assert host.key == data_key(OWNER, FOLDER)


def test_a_stranger_who_hangs_up_before_the_answer_harms_nobody() -> None:
    host, gone = Host(), threading.Event()

    def slow(message: bytes) -> bytes:
        assert gone.wait(5)
        return host.ask(message)

    with listening() as (listener, endpoint), ThreadPoolExecutor(1) as pool:
        listener.settimeout(5)
        done = pool.submit(serve_release, listener, slow, 5.0)
        with connected(endpoint) as stranger:
            # Closing resets the connection, so that the answer cannot be sent.
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stranger.sendall(NONCE)
            time.sleep(0.1)
        gone.set()
        assert send(endpoint).startswith("simulated: ")
        done.result(5)


def test_what_the_enclave_raises_ends_the_service() -> None:
    def ended(_: bytes) -> bytes:
        raise ClovenError("the enclave ended")

    with listening() as (listener, endpoint), ThreadPoolExecutor(1) as pool:
        done = pool.submit(serve_release, listener, ended, 5.0)
        assert "the peer closed the connection" in send(endpoint)
        with pytest.raises(ClovenError, match="the enclave ended"):
            done.result(5)


def test_a_listener_that_stops_waiting_raises_an_error() -> None:
    with listening() as (listener, _):
        listener.settimeout(0.05)
        with pytest.raises(ClovenError, match="the owner did not release the key: timed out"):
            serve_release(listener, Host().ask, 1.0)
    with pytest.raises(ClovenError, match="the owner did not release the key: Bad file descriptor"):
        serve_release(listener, Host().ask, 1.0)


def test_a_second_owner_is_refused_with_the_reason() -> None:
    host = Host()
    with serving(host) as (endpoint, done):
        send(endpoint)
        done.result(5)
    with serving(host) as (endpoint, done):
        said = send(endpoint)
        assert said.startswith("the enclave refused: the enclave already has its key")
        host.enclave = waiting(MEASURED, FOLDER)
        send(endpoint)
        done.result(5)


QUOTE = waiting(MEASURED, FOLDER).quote(bytes(32)).message()
EVIL: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "closed the connection after 0 of 4 bytes"),
    "half": (frame(QUOTE)[:-9], f"closed the connection after {len(QUOTE) - 9} of {len(QUOTE)} bytes"),
    "too long": (b"\0\1\0\1", "the peer announced a message of 65537 bytes; expected at most 65536"),
    "no JSON": (frame(b"hello"), "is not valid JSON"),
    "no quote": (frame(b'{"accepted": true}'), "a quote: measurement: Field required"),
    "a replayed quote": (frame(QUOTE), "the quote was replayed or modified"),
    "refusal": (frame(b'{"refused": "no room"}'), "the enclave refused: no room"),
    "strange refusal": (frame(b'{"refused": "\\u001b[2J"}'), "a refusal: refused: String should match pattern"),
    "long refusal": (
        frame(b'{"refused": "' + b"x" * 1001 + b'"}'),
        "a refusal: refused: String should have at most 1000 characters",
    ),
}


@pytest.mark.parametrize(("reply", "said"), EVIL.values(), ids=EVIL)
def test_evil_hosts_get_nothing(reply: bytes, said: str) -> None:
    with answering(reply) as endpoint:
        assert said in send(endpoint)


@pytest.mark.parametrize("then", [lambda _: time.sleep(0.3), drip], ids=["silent", "dripping"])
def test_a_host_that_is_slow_is_given_up(then: Callable[[socket.socket], None]) -> None:
    with answering(struct.pack(">I", 2**15), then=then) as endpoint:
        assert "the peer did not answer in time" in send(endpoint, timeout=0.15)


@pytest.mark.parametrize("reply", [b'{"accepted": false}', b'{"accepted": 1}', b"{}", QUOTE])
def test_only_one_answer_means_acceptance(reply: bytes) -> None:
    trusted = waiting(MEASURED, FOLDER)

    def serve(connection: socket.socket) -> None:
        text = connection.recv(2**16)
        connection.sendall(frame(answer(trusted, text[4:])[0]))
        connection.recv(2**16)
        connection.sendall(frame(reply))

    with answering(then=serve) as endpoint:
        assert "neither with accepted nor with refused" in send(endpoint)


def test_addresses_that_lead_nowhere() -> None:
    with listening() as (_, endpoint):
        pass
    assert f"cannot reach an enclave at {endpoint}: Connection refused; start it there" in send(endpoint)
    assert "the enclave's address is '9000'; expected HOST:PORT" in send("9000")
    assert "cannot reach an enclave at a..b:9000" in send("a..b:9000")
