"""Measure messages between two processes of this machine, with filled caches, as workers send them.

    python -m cloven.runtime.message_times serve ADDRESS
    python -m cloven.runtime.message_times ask ADDRESS

The first one prints its port and answers each frame until its standard input ends. The second one prints the median
seconds from a message to its answer, by the message's size, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import grpc
import grpc.aio

from cloven.cost.profile import MessageCost
from cloven.runtime import caches
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.channels import LINK, MessageStream, channel, options
from cloven.runtime.cluster.frame_stream import LinkSpec, ReplayGuard
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.protocol import Hello, read
from cloven.runtime.link.handshake import FirstMessages

SMALL, LARGE = 64, 2**18
"""The sizes in bytes of the two messages whose times give the costs of a message and of a byte."""

ROUNDS = 60
"""The number of messages of each size, without the first of them; the costs are their medians."""

PAUSE = 1e-3
"""Seconds between two messages, in which the other end is ready again."""

NAMES = ("one", "other")


def _spec() -> LinkSpec:
    return LinkSpec("profile", *NAMES, "none", bytes, frame_stream.limits(LARGE))


async def _serve(address: str) -> None:
    with ThreadPoolExecutor(1) as aside:

        async def answer(_: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            stream = MessageStream(NAMES[0], context)
            hello = read(Hello, await stream.read(), NAMES[0])
            guard = ReplayGuard(FirstMessages(), HalfOpen(1, frame_stream.HANDSHAKE))
            opened = await frame_stream.welcome(stream, hello, _spec(), aside, guard)
            await frame_stream.prove(opened)
            async for frame in opened.frames():
                await opened.write(frame.input, 0, [bytes(SMALL)], Counter())
                caches.fill()

        class MessageHandlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return grpc.stream_stream_rpc_method_handler(answer) if str(call.method) == LINK else None

        server = grpc.aio.server(options=options(LARGE))
        server.add_generic_rpc_handlers([MessageHandlers()])
        print(server.add_insecure_port(address), flush=True)  # noqa: T201
        await server.start()
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)


async def _round_trips(address: str) -> dict[int, float]:
    """Return the median seconds from a message of each size to its small answer."""
    found: dict[int, list[float]] = {SMALL: [], LARGE: []}
    async with channel(NAMES[1], address, None, LARGE) as to:
        with ThreadPoolExecutor(1) as aside:
            stream = MessageStream(NAMES[1], to.stream_stream(LINK)())
            opened = await frame_stream.greet(stream, _spec(), aside)
            frames = opened.frames()
            for number in range(ROUNDS + 1):
                for size, times in found.items():
                    data = bytes(size)
                    await asyncio.sleep(PAUSE)
                    caches.fill()
                    start = time.perf_counter()
                    await opened.write(number, 0, [data], Counter())
                    await anext(frames)
                    times.append(time.perf_counter() - start)
            await stream.finish()
    return {size: median(times[1:]) for size, times in found.items()}


def measured() -> MessageCost:
    """Measure messages between two processes, without a cipher.

    The times are elapsed times, because a message takes longer than the processor's time for it: threads and
    processes wake each other up. Each end counts half of them.
    """
    command = [sys.executable, "-P", "-m", __name__, "serve", "127.0.0.1:0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:  # noqa: S603 (ours)
        assert other.stdout is not None
        taken = asyncio.run(_round_trips(f"127.0.0.1:{int(other.stdout.readline())}"))
        other.communicate()
    message = taken[SMALL] / 4  # a message and its answer, each sent and received
    byte = max(0.0, (taken[LARGE] - taken[SMALL]) / (LARGE - SMALL)) / 2
    note = "two processes on this machine with filled caches, half of the time for each end"
    return MessageCost(
        origin="measured", note=note, send=message, receive=message, send_byte=byte, receive_byte=byte
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", where]:
            asyncio.run(_serve(where))
        case ["ask", where]:
            print(json.dumps(asyncio.run(_round_trips(where))))  # noqa: T201
