"""A real tap on real links: gRPC and TLS on loopback. Listening requires root privileges."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dpkt
import grpc
import grpc.aio
import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.runtime.link.ciphers import named
from cloven.runtime.link.session import Opener, Sealer
from cloven.runtime.tap import flows, live
from cloven.runtime.tap.extraction import choose, extract
from cloven.runtime.tap.flows import Flow, survey
from cloven.runtime.tap.live import RecordingSummary, record, until_signal
from tests.runtime.tap.wire import SESSION


def may_listen() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except (OSError, AttributeError):
        return False
    return True


listening = pytest.mark.skipif(not may_listen(), reason="listening requires Linux and CAP_NET_RAW")

KEY = bytes(range(32))
SIZES = {0: 1_500_000, 1: 7, 2: 300}
IMAGES = range(6)


class Tapped:
    """The summary of a recording, once the tap has stopped."""

    result: RecordingSummary


@contextmanager
def tapped(path: Path, port: int) -> Iterator[Tapped]:
    """Record loopback during the body."""
    ready, stop, tap = threading.Event(), threading.Event(), Tapped()

    def listen() -> None:
        tap.result = record("lo", path, port=port, stop=stop.is_set, ready=ready.set)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert ready.wait(10)
        yield tap
    finally:
        stop.set()
        thread.join()


def payload(number: int, ordinal: int) -> bytes:
    return np.random.default_rng([number, ordinal]).normal(size=SIZES[ordinal]).astype("<f4").tobytes()


class Link(grpc.GenericRpcHandler):
    """Answers every frame with the first half of its payload, protected like the request."""

    def __init__(self, protection: str) -> None:
        self.protection = protection

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.stream_stream_rpc_method_handler(self.link)

    async def link(self, requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        cipher = named(self.protection)
        opener, sealer = Opener(SESSION, cipher, KEY), Sealer(SESSION, cipher, KEY[::-1])
        async for request in requests:
            if request.startswith(b"hello"):
                yield b"hello from the server"
                continue
            number, ordinal, content = opener.open(request)
            yield bytes(sealer.seal(number, ordinal, content[: len(content) // 8 * 4]))


async def talk(protection: str, begun: Callable[[int], object], before: range) -> None:
    """Exchange frames between a server and a client; call `begun` after those of `before`."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=unlimited)
    server.add_generic_rpc_handlers((Link(protection),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=unlimited) as channel:
        if not before:
            begun(port)
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream("/cloven.Worker/Link")()
        await call.write(b"hello from the client")
        await call.read()
        sealer = Sealer(SESSION, named(protection), KEY)
        for number in (*before, *IMAGES):
            if before and number == IMAGES[0]:
                begun(port)
            for ordinal in SIZES:
                await call.write(bytes(sealer.seal(number, ordinal, payload(number, ordinal))))
                await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    await server.stop(None)


def exchanged(path: Path, protection: str, before: range) -> tuple[RecordingSummary, flows.Survey]:
    """Return the summary and the survey of a recorded exchange."""
    with ExitStack() as stack:
        taps: list[Tapped] = []
        asyncio.run(talk(protection, lambda port: taps.append(stack.enter_context(tapped(path, port))), before))
    return taps[0].result, survey(path)


def both_ways(found: flows.Survey) -> tuple[Flow, Flow]:
    """Return both directions, the one with the larger payload first."""
    assert [bool(flow.frames) for flow in found.flows] == [True, True]
    there, back = found.flows
    assert (there.source, there.target) == (back.target, back.source)
    return there, back


@listening
@pytest.mark.parametrize("before", [range(0), range(90, 92)], ids=["whole", "from the middle"])
@pytest.mark.parametrize("protection", ["none", "aes-128-gcm"])
def test_what_grpc_sent_is_what_the_tap_found(here: Path, protection: str, before: range) -> None:
    recorded, found = exchanged(here / "a.pcapng", protection, before)

    assert recorded.dropped == found.tally.dropped == 0
    assert recorded.packets == found.tally.packets
    assert found.warnings == []
    there, back = both_ways(found)
    assert there.payload == len(IMAGES) * 4 * sum(SIZES.values())
    assert back.payload == len(IMAGES) * 4 * sum(n // 2 for n in SIZES.values())
    assert {flow.kind for flow in found.flows} == {flows.PLAIN if protection == "none" else flows.PROTECTED}
    cipher = named(protection)
    for flow, key, of in ((there, KEY, lambda n: n), (back, KEY[::-1], lambda n: n // 2)):
        captured = extract(found, flow)
        assert captured.inputs.tolist() == list(IMAGES)
        opener = Opener(SESSION, cipher, key)
        opener.frames = len(before) * len(SIZES)
        for number in IMAGES:
            for ordinal, count in SIZES.items():
                sent = payload(number, ordinal)[: 4 * of(count)]
                seen = captured.messages[ordinal][number].tobytes()
                if cipher:
                    sealer = Sealer(SESSION, cipher, key)
                    sealer.frames = (len(before) + number) * len(SIZES) + ordinal
                    sent = bytes(sealer.seal(number, ordinal, sent))[48:]
                assert seen == sent


def certificate(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context with a self-signed certificate."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge0")])
    day = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day.replace(year=2040))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def answer(server: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> None:
    connection = wrap(server.accept()[0])
    with connection:
        for _ in range(2):
            connection.sendall(connection.recv(100)[:1] * 300_000)


@listening
def test_tls_is_recognised_and_keeps_its_secrets(here: Path) -> None:
    context = certificate(here)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=answer, args=(server, lambda s: context.wrap_socket(s, server_side=True)))
        thread.start()
        with tapped(here / "whole.pcapng", port):
            with trusting.wrap_socket(socket.create_connection(("127.0.0.1", port))) as client:
                client.sendall(b"a")
                taken(client, 300_000)
                with tapped(here / "middle.pcapng", port):
                    client.sendall(b"b")
                    taken(client, 300_000)
            thread.join()

    for name, least in (("whole", 600_000), ("middle", 300_000)):
        found = survey(here / f"{name}.pcapng")
        assert found.flows[0].kind == flows.TLS
        assert found.flows[0].source == f"127.0.0.1:{port}"
        assert found.flows[0].bytes > least
        with pytest.raises(
            ClovenError, match=r"frames of cloven, only 3?6?[\d,]+ bytes of TLS, which cannot be decrypted"
        ):
            choose(found)


def taken(client: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        content += client.recv(size)
    return content


@contextmanager
def connected() -> Iterator[tuple[int, Callable[[bytes], object]]]:
    """A loopback port and a function that sends to it; only the system reads the data."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            yield port, client.sendall


@listening
def test_on_loopback_every_packet_is_recorded_once(here: Path) -> None:
    before = time.time()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with tapped(here / "a.pcapng", port), socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"once")
            with server.accept()[0] as answering:
                assert answering.recv(4) == b"once"

    with (here / "a.pcapng").open("rb") as file:
        reader = dpkt.pcapng.Reader(file)
        packets = [(stamp, dpkt.ethernet.Ethernet(content)) for stamp, content in reader]
    assert reader.datalink() == dpkt.pcap.DLT_EN10MB
    assert all(before < stamp < time.time() for stamp, _ in packets)
    segments = [packet.data.data for _, packet in packets]
    assert [segment.data for segment in segments if segment.data] == [b"once"]
    assert len([s for s in segments if s.flags & dpkt.tcp.TH_SYN and s.dport == port]) == 1


@listening
def test_packets_of_other_ports_are_left_out(here: Path) -> None:
    with connected() as (port, send), connected() as (_, send_other):
        with tapped(here / "a.pcapng", port) as tap:
            send(b"mine")
            send_other(b"another's")
        found = survey(here / "a.pcapng")

    assert tap.result.left_out >= 2
    assert [flow.bytes for flow in found.flows] == [4, 0]


@listening
def test_a_tap_stops_by_itself(here: Path) -> None:
    begin = time.monotonic()
    assert record("lo", here / "a.pcapng", port=1, seconds=0.3).packets == 0
    assert 0.3 <= time.monotonic() - begin < 2

    with connected() as (port, send):
        recorded = record("lo", here / "a.pcapng", port=port, size=50_000, ready=lambda: send(bytes(90_000)))
    assert 50_000 <= recorded.bytes < 50_000 + 66_000
    assert survey(here / "a.pcapng").tally.packets == recorded.packets


@listening
def test_packets_that_arrived_before_the_stop_are_written(here: Path) -> None:
    for _ in range(5):
        with connected() as (port, send):
            with tapped(here / "a.pcapng", port):
                send(bytes(100_000))
            found = survey(here / "a.pcapng")
        assert found.flows[0].bytes == 100_000


@listening
def test_a_signal_stops_it_cleanly(here: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        with connected() as (port, send), until_signal() as stop:

            def begin(number: int = number, send: Callable[[bytes], object] = send) -> None:
                send(b"before")
                os.kill(os.getpid(), number)

            record("lo", here / "a.pcapng", port=port, stop=stop, ready=begin, seconds=10)
        found = survey(here / "a.pcapng")
        assert found.flows[0].bytes == 6
        assert not found.tally.damage
    assert signal.getsignal(signal.SIGTERM) is handler


@listening
def test_a_killed_tap_leaves_what_it_recorded(here: Path) -> None:
    code = (
        "import sys, pathlib; from cloven.runtime.tap.live import record; "
        "record('lo', pathlib.Path('a.pcapng'), port=int(sys.argv[1]), ready=lambda: print('ready', flush=True))"
    )
    with connected() as (port, send):
        tap = subprocess.Popen([sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE)
        assert tap.stdout
        with tap, tap.stdout:
            tap.stdout.readline()
            send(b"before")
            deadline = time.monotonic() + 10
            while b"before" not in (here / "a.pcapng").read_bytes() and time.monotonic() < deadline:
                time.sleep(0.05)
            tap.kill()

    assert survey(here / "a.pcapng").flows[0].bytes == 6


@listening
def test_a_tap_that_is_too_slow_reports_dropped_packets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WAITING", 20_000)
    with connected() as (port, send):
        later = threading.Timer(0.3, send, [b"this fits again"])

        def begin() -> None:
            for _ in range(5):
                send(bytes(20_000))
            later.start()

        recorded = record("lo", here / "a.pcapng", port=port, stop=later.finished.is_set, ready=begin)
        later.join()

    found = survey(here / "a.pcapng")
    assert recorded.dropped == found.tally.dropped > 0
    assert sum(flow.bytes for flow in found.flows) < 100_000
    assert f"the recorder dropped {recorded.dropped:,} packets" in found.warnings[0]


@listening
def test_an_interface_that_goes_away_ends_the_recording(here: Path) -> None:
    name = "clv-tap-test"
    if subprocess.run(["ip", "link", "add", name, "type", "veth"], capture_output=True).returncode:
        pytest.skip("creating an interface requires ip and CAP_NET_ADMIN")
    try:
        with pytest.raises(ClovenError, match=f"interface {name} is down; run: ip link set {name} up"):
            record(name, here / "a.pcapng", seconds=5)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        recorded = record(
            name,
            here / "a.pcapng",
            seconds=5,
            ready=lambda: subprocess.run(["ip", "link", "del", name], check=True),
        )
    finally:
        subprocess.run(["ip", "link", "del", name], capture_output=True)
    assert recorded.seconds < 4
    assert not survey(here / "a.pcapng").tally.damage


@listening
def test_all_reasons_against_recording_are_reported(here: Path) -> None:
    with pytest.raises(ClovenError) as raised:
        record("nowhere0", here / "no folder" / "a.pcapng")

    interface, file = raised.value.problems
    assert interface.startswith("there is no interface 'nowhere0'; expected one of ")
    assert "lo" in interface
    assert file == f"cannot write {here / 'no folder' / 'a.pcapng'}: No such file or directory"


def test_without_privileges_the_error_says_what_to_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    (here / "old.pcapng").write_bytes(b"of yesterday")
    for name in ("new.pcapng", "old.pcapng"):
        with pytest.raises(ClovenError, match="recording lo requires CAP_NET_RAW: run it as root"):
            record("lo", here / name)
    assert [path.read_bytes() for path in here.iterdir()] == [b"of yesterday"]


def test_on_other_systems_the_error_says_what_to_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_PACKET", raising=False)
    with pytest.raises(ClovenError, match="recording requires Linux"):
        record("lo", here / "a.pcapng")


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("package", "module"), [("hyperframe", "extraction")])
def test_a_missing_library_is_named(package: str, module: str) -> None:
    code = f"""
import sys
from cloven.errors import ClovenError
sys.modules[{package!r}] = None
try:
    import cloven.runtime.tap.{module}
except ClovenError as error:
    print(error)
"""
    assert "pip install 'cloven[tap]'" in fresh(code)


def test_it_knows_no_model() -> None:
    modules = fresh(
        "import sys, cloven.runtime.tap.extraction, cloven.runtime.tap.live; print(*sys.modules)"
    ).split()

    assert not {name for name in modules if name.split(".")[0] in ("torch", "grpc", "onnxruntime")}
    assert not {
        name for name in modules if name.startswith(("cloven.graph", "cloven.partition", "cloven.runtime.b"))
    }
