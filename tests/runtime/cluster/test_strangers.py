"""Clients that are not parties of the cluster, or claim a wrong name, are refused without effect."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cloven.runtime.cluster.channels import CONTROL, DESCRIBE, ECHO, HEALTH, LINK, MEASURE, SERVING
from cloven.runtime.cluster.logs import MOST, RateLimit
from cloven.runtime.cluster.protocol import VERSION
from cloven.runtime.link import authority
from cloven.runtime.link.identity import Identity, read
from cloven.runtime.link.session import LAYOUT, MAGIC, Sealer
from tests.runtime.cluster.machines import Machine, cluster, machines, sample, send, with_keys, within
from tests.runtime.cluster.plans import accounted, bundled, images

PLAIN = bundled("lenet5", "pair")
MUTUAL = bundled("lenet5", "pair", "mtls")

PAST = datetime.now(UTC) - timedelta(days=10)


# --- with mTLS --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return keys whose certificates have expired, renewed for all devices except edge3."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    authority.new(["edge0", "edge1", "edge2", "edge3"], path, days=1, now=PAST)
    authority.renew(path, ["coordinator", "edge0", "edge1", "edge2"])
    authority.new(["edge0", "edge1", "edge2", "edge3"], path.parent / "other")
    return path


@pytest.fixture(scope="module")
def guarded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    with machines(MUTUAL, tmp_path_factory.mktemp("guarded"), with_keys(folder)) as made:
        yield made


def channel(address: str, credentials: grpc.ChannelCredentials | None, name: str) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    return grpc.aio.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)])


async def asked(to: grpc.aio.Channel, method: str) -> bytes:
    """Return the answer to a first message."""
    if method in (DESCRIBE, HEALTH, MEASURE):
        ask: Any = to.unary_unary(method)
        return bytes(await ask(b"", timeout=20))
    call: Any = to.stream_stream(method)(timeout=20)
    with suppress(asyncio.InvalidStateError):  # refused before the write: reading raises the reason
        ends = {"cloven": VERSION, "from": "coordinator", "to": "edge0"}
        first = {
            CONTROL: {"cloven": VERSION, "join": {}},
            LINK: ends | {"run": "0", "protection": "none"},
            ECHO: ends | {"up": 0, "down": 0},
        }
        await call.write(json.dumps(first[method]).encode())
    message = await call.read()
    if message is grpc.aio.EOF:
        raise EOFError
    return bytes(message)


def answer(machine: Machine, method: str, credentials: grpc.ChannelCredentials | None) -> bytes | grpc.StatusCode:
    """Return the answer of a worker, or the reason why there is none."""

    async def run() -> bytes | grpc.StatusCode:
        async with channel(machine.address, credentials, machine.device) as to:
            try:
                return await asked(to, method)
            except grpc.aio.AioRpcError as error:
                return error.code()

    return within(30, run())


def strangers(folder: Path) -> dict[str, grpc.ChannelCredentials | None]:
    mine = (folder / "edge0" / "authority.pem").read_bytes()
    expired = read(folder / "edge3", now=PAST)
    foreign = read(folder.parent / "other" / "edge0")
    return {
        "plain": None,
        "no certificate": grpc.ssl_channel_credentials(mine),
        "another authority's": grpc.ssl_channel_credentials(mine, foreign.private, foreign.certificate),
        "an expired one": expired.channel_credentials(),
    }


@pytest.mark.parametrize("method", [DESCRIBE, HEALTH, CONTROL, LINK, MEASURE, ECHO])
@pytest.mark.parametrize("who", ["plain", "no certificate", "another authority's", "an expired one"])
def test_nothing_answers_without_a_certificate(
    guarded: dict[str, Machine], folder: Path, who: str, method: str
) -> None:
    assert answer(guarded["edge0"], method, strangers(folder)[who]) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("method", [DESCRIBE, HEALTH, CONTROL, LINK, MEASURE, ECHO])
def test_the_same_is_answered_with_one(guarded: dict[str, Machine], folder: Path, method: str) -> None:
    """With a valid certificate, the requests that were refused above are answered."""
    said = answer(guarded["edge0"], method, read(folder / "coordinator").channel_credentials())

    assert isinstance(said, bytes)
    assert said == SERVING if method == HEALTH else json.loads(said)["cloven"] == VERSION


def test_a_device_is_no_coordinator_and_no_other_device(guarded: dict[str, Machine], folder: Path) -> None:
    """The hello names the coordinator, the certificate edge2."""
    before = number(guarded["edge0"], read(folder / "edge1"), "cloven_refused_total", reason="certificate")
    device = read(folder / "edge2").channel_credentials()

    assert answer(guarded["edge0"], CONTROL, device) is grpc.StatusCode.PERMISSION_DENIED
    assert answer(guarded["edge0"], LINK, device) is grpc.StatusCode.PERMISSION_DENIED
    assert answer(guarded["edge0"], MEASURE, device) is grpc.StatusCode.PERMISSION_DENIED
    assert answer(guarded["edge0"], ECHO, device) is grpc.StatusCode.PERMISSION_DENIED
    after = number(guarded["edge0"], read(folder / "edge1"), "cloven_refused_total", reason="certificate")
    assert after == before + 4
    assert "the certificate is of edge2; expected coordinator" in guarded["edge0"].events("refused")[-1]["reason"]


def metrics(machine: Machine, context: ssl.SSLContext | None) -> str:
    """Return the answer of the metrics' address."""
    host, port = machine.metrics.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        made = context.wrap_socket(plain, server_hostname=machine.device) if context else plain
        with made:
            made.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            found = b""
            while part := made.recv(2**16):
                found += part
    return found.decode()


def number(machine: Machine, identity: Identity, name: str, **labels: str) -> float:
    return sample(metrics(machine, identity.client_context()), name, **labels)


def test_metrics_want_a_certificate_too(guarded: dict[str, Machine], folder: Path) -> None:
    lacking = ssl.create_default_context(cafile=str(folder / "edge0" / "authority.pem"))
    foreign = read(folder.parent / "other" / "edge0").client_context()
    foreign.load_verify_locations(folder / "edge0" / "authority.pem")

    for context in (None, lacking, foreign):
        with suppress(OSError):  # a reset, an alert, or the end of the stream
            assert metrics(guarded["edge0"], context) == ""
    assert number(guarded["edge0"], read(folder / "coordinator"), "cloven_link_losses_total") == 0


def test_a_client_that_says_nothing_keeps_nobody_waiting(guarded: dict[str, Machine], folder: Path) -> None:
    host, port = guarded["edge0"].metrics.split(":")
    with socket.create_connection((host, int(port)), timeout=20):
        assert number(guarded["edge0"], read(folder / "coordinator"), "cloven_link_losses_total") == 0


def test_the_cluster_works_meanwhile(guarded: dict[str, Machine], folder: Path, tmp_path: Path) -> None:
    assert not accounted(send(MUTUAL, cluster(tmp_path, guarded, folder), images("lenet5", 8)))


# --- without mTLS -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    with machines(PLAIN, tmp_path_factory.mktemp("open")) as made:
        yield made


RANDOM = random.Random(1)

HELLO = {
    "cloven": VERSION,
    "run": "x",
    "from": "coordinator",
    "to": "edge0",
    "protection": "none",
    "session": "ab" * 16,
}

PROOF = {"cloven": VERSION, "proof": Sealer(b"\xab" * 16, None).seal(0, 0).hex()}
"""What ends the handshake that HELLO begins."""

GARBAGE: list[bytes] = [
    b"",
    b"\0",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b'{"cloven": 2}',
    b'{"cloven": 2, "join": 3}',
    b'{"cloven": 2, "join": {"run": 1, "addresses": [], "window": "x", "deadline": null}, "plan": []}',
    b'{"cloven": 99, "run": "x"}',
    json.dumps(HELLO).encode(),
    json.dumps(HELLO | {"from": ["edge0"], "to": {}}).encode(),
    json.dumps(HELLO | {"session": "zz"}).encode(),
    b"[" * 5000,
    b"\xff\xfe" * 500,
    LAYOUT.pack(MAGIC, 0, bytes(16), 0, 0, 100) + bytes(100),
    *(RANDOM.randbytes(RANDOM.randrange(1, 3000)) for _ in range(20)),
]


async def thrown(machine: Machine, method: str, message: bytes) -> None:
    """Open a stream and send one message; the stream must end."""
    async with grpc.aio.insecure_channel(machine.address) as to:
        call: Any = to.stream_stream(method)(timeout=10)
        try:
            await call.write(message)
            await call.done_writing()
            while (await call.read()) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN):
                raise AssertionError(f"{message!r} is not answered, or a handler failed") from error


async def every(one: Callable[[bytes], Awaitable[None]]) -> None:
    for message in GARBAGE:
        await one(message)


@pytest.mark.parametrize("method", [CONTROL, LINK, DESCRIBE, HEALTH])
def test_garbage_as_a_first_message(open_workers: dict[str, Machine], method: str, tmp_path: Path) -> None:
    edge0 = open_workers["edge0"]
    before = edge0.count("cloven_refused_total", party="unknown")

    within(60, every(lambda message: thrown(edge0, method, message)))

    if method in (CONTROL, LINK):
        assert edge0.count("cloven_refused_total", party="unknown") > before + 20
    assert not accounted(send(PLAIN, cluster(tmp_path, open_workers), images("lenet5", 8)))


async def joined(machine: Machine, to: grpc.aio.Channel) -> Any:
    """Join one worker to a run."""
    ask: Any = to.unary_unary(DESCRIBE)
    described = json.loads(await ask(b"", timeout=10))
    call: Any = to.stream_stream(CONTROL)()
    addresses = dict.fromkeys(described["devices"], machine.address)
    terms = {"run": "x", "plan": described["plan"], "addresses": addresses, "window": 4, "deadline": 5}
    await call.write(json.dumps({"cloven": VERSION, "join": terms}).encode())
    return call


def test_garbage_of_a_coordinator_that_has_joined(open_workers: dict[str, Machine], tmp_path: Path) -> None:
    """The worker leaves the coordinator, and is free for the next one."""
    edge0 = open_workers["edge0"]
    before = edge0.count("cloven_refused_total", reason="control")
    nonsense = [m for m in GARBAGE if m not in (b"[]", b"{}") and not m.startswith(b'{"cloven"')]

    async def one(message: bytes) -> None:
        async with grpc.aio.insecure_channel(edge0.address) as to:
            call = await joined(edge0, to)
            await call.write(message)
            while (await call.read()) is not grpc.aio.EOF:
                pass

    async def run() -> None:
        asked = [b'{"drop": 3}', b'{"ping": 1, "oldest": "x"}', b'{"ping": 1, "oldest": 0, "late": ["y"]}']
        for message in [*nonsense[:8], *asked]:
            await one(message)

    within(60, run())

    assert edge0.count("cloven_refused_total", reason="control") == before + 11
    assert not accounted(send(PLAIN, cluster(tmp_path, open_workers), images("lenet5", 8)))


def test_garbage_as_frames(open_workers: dict[str, Machine], tmp_path: Path) -> None:
    """The session ends, and the reason is counted."""
    edge0 = open_workers["edge0"]
    names = ("cloven_refused_total", "cloven_link_losses_total")
    before = [edge0.count(name, party="coordinator") for name in names]

    async def one(message: bytes) -> None:
        async with grpc.aio.insecure_channel(edge0.address) as to:
            control = await joined(edge0, to)
            call: Any = to.stream_stream(LINK)()
            await call.write(json.dumps(HELLO).encode())
            answer = json.loads(await call.read())
            assert "refused" not in answer, answer
            await call.write(json.dumps(PROOF).encode())
            assert "proof" in json.loads(await call.read())
            await call.write(message)
            while (await call.read()) is not grpc.aio.EOF:
                pass
            await control.done_writing()
            while (await control.read()) is not grpc.aio.EOF:
                pass

    within(60, every(one))

    refused, lost = (edge0.count(name, party="coordinator") - was for name, was in zip(names, before, strict=True))
    assert refused == lost == len(GARBAGE)
    assert not accounted(send(PLAIN, cluster(tmp_path, open_workers), images("lenet5", 8)))


def test_bytes_that_are_no_grpc(open_workers: dict[str, Machine], tmp_path: Path) -> None:
    """Send HTTP, TLS, nothing, and an HTTP/2 preface with garbage, on many connections at once."""
    edge0 = open_workers["edge0"]
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    starts = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"",
        preface,
        preface + b"\0\0\x0c\4\0\0\0\0\0" * 3,
    ]

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(*edge0.address.split(":"))
        writer.write(starts[number % 5] + random.Random(number).randbytes(number * 50))
        try:
            async with asyncio.timeout(0.5):
                await writer.drain()
                while await reader.read(2**16):
                    pass
        except (TimeoutError, OSError):
            pass
        writer.transport.abort()

    async def run() -> None:
        await asyncio.gather(*(one(number) for number in range(50)))

    within(60, run())

    assert edge0.process.poll() is None
    assert not accounted(send(PLAIN, cluster(tmp_path, open_workers), images("lenet5", 8)))


def test_streams_that_say_nothing_keep_nobody_out(open_workers: dict[str, Machine], tmp_path: Path) -> None:
    """Of 1,200 streams on 20 connections, a few wait for a first message, and the others are closed."""
    edge0 = open_workers["edge0"]
    before = edge0.memory()

    async def run() -> None:
        apart = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(edge0.address, apart) for _ in range(20)]
        try:
            calls: list[Any] = [to.stream_stream(LINK)() for to in channels for _ in range(60)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls), return_exceptions=True)
            found = await asyncio.to_thread(send, PLAIN, cluster(tmp_path, open_workers), images("lenet5", 8))
            assert not accounted(found)
            for call in calls:
                call.cancel()
        finally:
            await asyncio.gather(*(to.close() for to in channels))

    within(60, run())

    assert "no first message arrived" in edge0.events("refused")[-1]["reason"]
    assert edge0.memory() < before + 64 * 2**20


def test_a_log_does_not_grow_by_those_who_are_refused() -> None:
    limit = RateLimit()

    def record(line: int, at: float) -> logging.LogRecord:
        return logging.makeLogRecord({"lineno": line, "created": at})

    assert sum(limit.filter(record(1, 1000 + number / 100)) for number in range(5000)) == MOST
    assert limit.filter(record(2, 1050))
    assert limit.filter(later := record(1, 1061))
    assert later.__dict__["left_out"] == 5000 - MOST
