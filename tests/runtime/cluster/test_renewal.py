"""When a link's key reaches its limits, a new session takes over without lost or repeated frames."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from cloven.errors import ClovenError
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.channels import MessageStream
from cloven.runtime.cluster.events import Event, FrameReceived, LinkChanged
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.peer_connections import PeerConnection
from cloven.runtime.cluster.protocol import Hello, read
from cloven.runtime.link.handshake import FirstMessages, initiator_start, prologue
from cloven.runtime.link.session import LAYOUT, FrameLimits
from tests.runtime.cluster.machines import within

KEY = bytes(range(32))


class End:
    """One party: the frames that it received, in order, and whether its link was ever down."""

    def __init__(self, name: str, link: LinkSpec, aside: ThreadPoolExecutor) -> None:
        self.heard: list[tuple[int, int, bytes]] = []
        self.states: list[bool] = []
        self.peer = PeerConnection(link, name, self.on_event, lambda _: False, aside)

    def on_event(self, event: Event) -> None:
        match event:
            case FrameReceived(_, frame):
                self.heard.append((frame.input, frame.ordinal, bytes(frame.payload)))
            case LinkChanged(_, up, _):
                self.states.append(up)


Attack = Callable[[bytes], Sequence[bytes]]
"""The first messages that somebody sends beside an honest one, and then nothing more."""


class Silent(MessageStream):
    """A stream of a peer that sends nothing more."""

    def __init__(self) -> None:
        self.party = "edge0"

    async def write(self, message: bytes) -> None:
        pass

    async def read(self) -> bytes | None:
        await asyncio.sleep(60)
        return None


async def both(
    protection: str, limits: FrameLimits, count: int, size: int, attack: Attack = lambda _: ()
) -> tuple[End, End]:
    """Send in both directions at once over a link with small limits, until all frames have arrived."""
    attacks: list[asyncio.Task[None]] = []
    link = LinkSpec("run", "edge0", "edge1", protection, lambda: KEY, limits)
    with ThreadPoolExecutor(1) as aside:
        dialer, other = End("edge1", link, aside), End("edge0", link, aside)

        firsts = FirstMessages()

        async def answer(_: Any, context: Any) -> None:
            stream = MessageStream("edge0", context)
            first = await stream.read()
            honest = asyncio.ensure_future(other.peer.accept(stream, read(Hello, first, "edge0"), firsts))
            for message in attack(first or b""):
                hello = read(Hello, message, "edge0")
                attacks.append(asyncio.create_task(other.peer.accept(Silent(), hello, firsts)))
            with suppress(ClovenError):
                await honest

        class Handlers(grpc.GenericRpcHandler):
            def service(self, call: grpc.HandlerCallDetails) -> Any:
                return grpc.stream_stream_rpc_method_handler(answer)

        server = grpc.aio.server()
        server.add_generic_rpc_handlers([Handlers()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        dialer.peer.dial(f"127.0.0.1:{port}", None)

        async def send(end: End) -> None:
            for number in range(count):
                await end.peer.send(number, number % 3, [payload(number, size)])
                await asyncio.sleep(0.001)

        try:
            async with asyncio.timeout(30):
                await asyncio.gather(send(dialer), send(other))
                while min(len(dialer.heard), len(other.heard)) < count:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)  # repeated frames would arrive now
        finally:
            for task in attacks:
                task.cancel()
            await asyncio.gather(*attacks, return_exceptions=True)
            await asyncio.gather(dialer.peer.close(), other.peer.close())
            await server.stop(0)
    return dialer, other


def payload(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


@pytest.mark.parametrize("protection", ["aes-128-gcm", "none"])
@pytest.mark.parametrize(
    ("limits", "sessions"),
    [
        (FrameLimits(length=4096, frames=96), 4),
        (FrameLimits(length=4096, total=96 * 400), 4),
        (FrameLimits(length=4096, frames=8), 40),
        (FrameLimits(length=4096), 1),
    ],
    ids=["by frames", "by bytes", "sooner than it can be renewed", "not at all"],
)
def test_a_worn_key_is_renewed_in_time(protection: str, limits: FrameLimits, sessions: int) -> None:
    """After 400 messages of 400 bytes each way, only the number of sessions has changed."""
    dialer, other = within(60, both(protection, limits, 400, 400))

    expected = [(number, number % 3, payload(number, 400)) for number in range(400)]
    for end in (dialer, other):
        assert sorted(end.heard) == expected
        assert end.peer.sent == end.peer.received == {"frames": 400, "bytes": 160_000}
        assert set(end.states) == {True}
        assert end.peer.losses == 1, "the one at the end"
    for end in (dialer, other):
        assert len(end.states) >= sessions
        assert sessions > 1 or len(end.states) == 1


@pytest.mark.parametrize(("party", "protection"), [("edge0", "aes-128-gcm"), ("edge1", "none")])
def test_nothing_is_lost_however_late_a_handshake_comes(
    monkeypatch: pytest.MonkeyPatch, party: str, protection: str
) -> None:
    """One side continues a moment after the other has received its message, as on an overloaded machine."""
    write = MessageStream.write

    async def late(self: MessageStream, message: bytes) -> None:
        await write(self, message)
        if self.party == party and message.startswith(b"{"):
            await asyncio.sleep(0.02)

    monkeypatch.setattr(MessageStream, "write", late)

    dialer, other = within(60, both(protection, FrameLimits(length=4096, frames=16), 60, 40))

    for end in (dialer, other):
        assert sorted(end.heard) == [(number, number % 3, payload(number, 40)) for number in range(60)]
        assert end.peer.losses == 1, "the one at the end"
        assert len(end.states) >= 4


def test_first_messages_of_others_during_a_renewal_cost_nothing() -> None:
    """Each renewal meets replayed first messages, and every second one also a new one that replaces it."""
    recorded: list[bytes] = []

    def attack(hello: bytes) -> Sequence[bytes]:
        recorded.append(hello)
        if len(recorded) % 2:
            return recorded[-3:]
        _, noise = initiator_start(KEY, prologue("aes-128-gcm run run", "edge0", "edge1"))
        return [*recorded[-3:], json.dumps(json.loads(hello) | {"noise": noise.hex()}).encode()]

    dialer, other = within(60, both("aes-128-gcm", FrameLimits(length=4096, frames=32), 150, 40, attack))

    for end in (dialer, other):
        assert sorted(end.heard) == [(number, number % 3, payload(number, 40)) for number in range(150)]
        assert end.peer.losses == 1, "the one at the end"
    assert other.peer.refused["repeated handshake"] > 10
    assert other.peer.refused["handshake"] > 1, "honest ones, which were tried again"


def test_sessions_and_counters_are_never_used_twice() -> None:
    """Under one key, each counter seals one frame."""
    seen: list[tuple[bytes, int]] = []

    class Recorded(MessageStream):
        async def write(self, message: bytes) -> None:
            if message[:3] == b"clv":
                _, _, session, counter, *_ = LAYOUT.unpack_from(message)
                seen.append((session, counter))
            await super().write(message)

    original = frame_stream.FrameStream.__init__

    def recorded(self: frame_stream.FrameStream, stream: MessageStream, *ends: Any) -> None:
        original(self, Recorded(stream.party, stream.call, stream.address), *ends)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_stream.FrameStream, "__init__", recorded)
        within(60, both("aes-128-gcm", FrameLimits(length=4096, frames=40), 100, 40))

    assert len(seen) == 200
    counters: dict[bytes, list[int]] = {}
    for session, counter in seen:
        counters.setdefault(session, []).append(counter)
    assert len(counters) >= 3
    for used in counters.values():
        assert max(Counter(used).values()) <= 2, "one for each direction"
        assert max(used) < 40
