"""Send a tensor to another process and wait for its acknowledgement, by cloven's links, gRPC, TCP, TLS and ZeroMQ.

One process on loopback serves all transports; only one is in use at a time. An acknowledgement has 8 bytes; on
cloven's links it is a frame with the same protection as the tensor. `benchmarks/links.py` measures the times.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import zmq

from cloven.partition.protection import NAMES
from cloven.runtime.cluster import frame_stream, protocol
from cloven.runtime.cluster.channels import LINK, MessageStream, channel, options
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.link.handshake import FirstMessages
from cloven.runtime.link.identity import Identity, read

HOST = "127.0.0.1"
PARTIES = ("edge0", "edge1")
"""The sender and the receiver."""

LARGEST = 4 * 2**20
ACK = bytes(8)
SIZE = struct.Struct(">Q")
BARE = "/benchmark/Bare"

Deliver = Callable[[bytes], Awaitable[object]]
"""Sends a tensor's bytes and waits for their acknowledgement."""


# --- the process that acknowledges ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ports:
    """The ports of all transports: ``grpc`` for the bare stream and cloven's links, ``mtls`` for those over TLS."""

    tcp: int
    tls: int
    zmq: int
    grpc: int
    mtls: int


async def serve(keys: Path) -> None:
    """Print the ports and serve all transports until standard input ends."""
    identity = read(keys / PARTIES[1])
    with ThreadPoolExecutor(1) as aside:
        server = grpc.aio.server(options=options(LARGEST))
        server.add_generic_rpc_handlers([_handlers(identity, aside)])
        ports = Ports(
            _sockets(None),
            _sockets(identity.server_context()),
            _zmq(),
            server.add_insecure_port(f"{HOST}:0"),
            server.add_secure_port(f"{HOST}:0", identity.server_credentials()),
        )
        await server.start()
        print(json.dumps(vars(ports)), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)


def line(identity: Identity, protection: str) -> frame_stream.LinkSpec:
    """Return the link between the two parties, as one of them sees it."""
    (peer,) = {*PARTIES} - {identity.name}
    return frame_stream.LinkSpec(
        "benchmark", *PARTIES, protection, lambda: identity.link_key(peer), frame_stream.limits(LARGEST)
    )


def _handlers(identity: Identity, aside: ThreadPoolExecutor) -> grpc.GenericRpcHandler:
    async def bare(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while isinstance(await context.read(), bytes):
            await context.write(ACK)

    async def ours(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        stream = MessageStream(PARTIES[0], context)
        said = protocol.read(protocol.Hello, await stream.read(), PARTIES[0])
        guard = frame_stream.ReplayGuard(FirstMessages(), HalfOpen(1, frame_stream.HANDSHAKE))
        connection = await frame_stream.welcome(stream, said, line(identity, said.protection), aside, guard)
        await frame_stream.prove(connection)
        async for frame in connection.frames():
            await connection.write(frame.input, 0, [ACK], Counter())

    methods: dict[str, Any] = {
        name: grpc.stream_stream_rpc_method_handler(call) for name, call in ((BARE, bare), (LINK, ours))
    }

    class Handlers(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> Any:
            return methods.get(str(call.method))

    return Handlers()


def _sockets(context: ssl.SSLContext | None) -> int:
    """Serve one connection, over TLS if there is a context, and return its port.

    A message has 8 bytes with a size, followed by as many bytes.
    """
    listener = socket.create_server((HOST, 0))

    def work() -> None:
        plain, _ = listener.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with plain if context is None else context.wrap_socket(plain, server_side=True) as end:
            room = memoryview(bytearray(LARGEST))
            while size := receive(end, room[: SIZE.size]):
                receive(end, room[: SIZE.unpack(size)[0]])
                end.sendall(ACK)

    threading.Thread(target=work, daemon=True).start()
    return int(listener.getsockname()[1])


def receive(end: socket.socket, room: memoryview) -> memoryview:
    """Fill a buffer, or return an empty one if the other side has closed the connection."""
    got = 0
    while got < len(room):
        if not (more := end.recv_into(room[got:])):
            return room[:0]
        got += more
    return room


def _zmq() -> int:
    end: Any = zmq.Context.instance().socket(zmq.PAIR)
    port = end.bind_to_random_port(f"tcp://{HOST}")

    def work() -> None:
        while True:
            end.recv(copy=False)
            end.send(ACK)

    threading.Thread(target=work, daemon=True).start()
    return int(port)


# --- the process that sends -------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(ports: Ports, keys: Path) -> AsyncIterator[dict[str, Deliver]]:
    """Return every transport by name."""
    identity = read(keys / PARTIES[0])
    async with AsyncExitStack() as stack:
        aside = stack.enter_context(ThreadPoolExecutor(1))
        insecure = await stack.enter_async_context(channel(PARTIES[1], f"{HOST}:{ports.grpc}", None, LARGEST))
        secure = await stack.enter_async_context(channel(PARTIES[1], f"{HOST}:{ports.mtls}", identity, LARGEST))
        ways: dict[str, Deliver] = {
            "TCP": stack.enter_context(_Socket(ports.tcp, None)),
            "TLS 1.3, mutual (ssl)": stack.enter_context(_Socket(ports.tls, _client_context(identity))),
            "zmq PAIR": stack.enter_context(_Zmq(ports.zmq)),
            "grpc.aio": partial(_bare, insecure.stream_stream(BARE)()),
        }
        for protection in NAMES:
            over = secure if protection == "mtls" else insecure
            stream = MessageStream(PARTIES[1], over.stream_stream(LINK)())
            connection = await frame_stream.greet(stream, line(identity, protection), aside)
            ways[f"ours, {protection}"] = partial(_ours, connection, connection.frames())
        yield ways


async def _bare(call: grpc.aio.StreamStreamCall[bytes, bytes], tensor: bytes) -> None:
    await call.write(tensor)
    await call.read()


async def _ours(connection: frame_stream.FrameStream, frames: AsyncIterator[object], tensor: bytes) -> None:
    await connection.write(0, 0, [tensor], Counter())
    await anext(frames)


def _client_context(identity: Identity) -> ssl.SSLContext:
    """Return a context for TLS 1.3 with a party's certificate."""
    context = ssl.create_default_context(cadata=identity.authority.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "private.pem")
    return context


class _Socket:
    """Return a TCP connection, over TLS if there is a context."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        plain = socket.create_connection((HOST, port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.end = plain if context is None else context.wrap_socket(plain, server_hostname=PARTIES[1])
        self.room = memoryview(bytearray(len(ACK)))

    async def __call__(self, tensor: bytes) -> None:
        self.end.sendall(SIZE.pack(len(tensor)))
        self.end.sendall(tensor)
        receive(self.end, self.room)

    def __enter__(self) -> _Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.end.close()


class _Zmq:
    """Return a ZeroMQ connection."""

    def __init__(self, port: int) -> None:
        self.end: Any = zmq.Context.instance().socket(zmq.PAIR)
        self.end.connect(f"tcp://{HOST}:{port}")

    async def __call__(self, tensor: bytes) -> None:
        self.end.send(tensor, copy=False)
        self.end.recv()

    def __enter__(self) -> _Zmq:
        return self

    def __exit__(self, *_: object) -> None:
        self.end.close(linger=0)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
