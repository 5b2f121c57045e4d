"""Replayed and copied first messages of handshakes do not lose images."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cloven.runtime.cluster.channels import LINK, MessageStream
from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.frame_stream import LinkSpec, ReplayGuard, greet, prove, welcome
from cloven.runtime.cluster.halfopen import HalfOpen
from cloven.runtime.cluster.protocol import VERSION, Hello, read
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.link import identity
from cloven.runtime.link.errors import FrameRefused, HandshakeRefused, HandshakeRepeated
from cloven.runtime.link.handshake import FirstMessages, initiator_start, prologue
from cloven.runtime.link.session import FrameLimits
from tests.runtime.cluster.machines import Machine, Outcomes, cluster, coordinator, machines, with_keys, within
from tests.runtime.cluster.plans import accounted, bundled, keys, many, plan_of
from tests.runtime.cluster.relay import Relay

BUNDLE = bundled("lenet5", "pair", "aes-128-gcm")

Machines = dict[str, Machine]
Attack = Callable[[], Awaitable[object]]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Return workers whose links have ciphers but no TLS."""
    with machines(BUNDLE, tmp_path_factory.mktemp("workers"), with_keys(keys(), "--insecure")) as made:
        yield made


async def thrown(to: grpc.aio.Channel, hello: bytes) -> str:
    """Send a first message and stay silent; return why it was refused, or nothing."""
    call: Any = to.stream_stream(LINK)(timeout=15)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(hello)
        while (message := await call.read()) is not grpc.aio.EOF:
            if refused := json.loads(message).get("refused"):
                return str(refused)
    return ""


async def again_and_again(throw: Attack, rate: float, done: asyncio.Event) -> int:
    """Call ``throw`` at a rate per second until ``done``; return the number of calls."""
    count, began, throwing = 0, time.monotonic(), set()
    while not done.is_set():
        while count < rate * (time.monotonic() - began):
            throwing.add(task := asyncio.ensure_future(throw()))
            task.add_done_callback(throwing.discard)
            count += 1
        await asyncio.sleep(0.01)
    for task in throwing:
        task.cancel()
    await asyncio.gather(*throwing, return_exceptions=True)
    return count


async def answered(run: Coordinator, seconds: float) -> Outcomes:
    """Send images for some seconds; return their outcomes."""
    until, found = time.monotonic() + seconds, Outcomes()
    while time.monotonic() < until:
        found += [outcome async for outcome in run.answers(many(16))]
    return found


@pytest.mark.slow
def test_recorded_first_messages_cost_no_image(workers: Machines, tmp_path: Path) -> None:
    """For 5 s, replay one link's 300 times and the other's 4 times a second."""
    recorded: dict[tuple[str, str], bytes] = {}

    def record(number: int, message: bytes) -> list[bytes]:
        if number == 0:
            hello = json.loads(message)
            recorded[hello["from"], hello["to"]] = message
        return [message]

    async def run() -> tuple[Outcomes, tuple[int, int]]:
        first, second = workers["edge0"].address, workers["edge1"].address
        async with (
            Relay(first, record) as near,
            Relay(second, record) as far,
        ):
            made = coordinator(plan_of(BUNDLE), cluster(tmp_path, workers, keys(), insecure=True), SendOptions())
            made.pool.addresses |= {"edge0": near.address, "edge1": far.address}
            async with (
                made,
                grpc.aio.insecure_channel(first) as to_first,
                grpc.aio.insecure_channel(second) as to_second,
            ):
                done = asyncio.Event()
                inner = partial(thrown, to_second, recorded["edge0", "edge1"])
                outer = partial(thrown, to_first, recorded["coordinator", "edge0"])
                often = asyncio.create_task(again_and_again(inner, 300, done))
                seldom = asyncio.create_task(again_and_again(outer, 4, done))
                found = await answered(made, 5)
                done.set()
                assert "was already answered (a replay)" in await inner()
                refused = (await made.reports())["edge1"].report.refused
                assert refused["edge0"]["repeated handshake"] > 300
                return found, await asyncio.gather(often, seldom)

    found, (often, seldom) = within(60, run())

    assert len(found) > 50
    assert not accounted(found)
    assert often > 300
    assert seldom >= 20
    assert workers["edge1"].count("cloven_link_losses_total", party="edge0") <= 1, "the one at the end"


def test_first_messages_that_were_never_answered_cost_no_image(workers: Machines, tmp_path: Path) -> None:
    """Send first messages that are new and valid, as if intercepted, and nothing after them."""
    key = identity.read(keys() / "edge0").link_key("edge1")

    async def run() -> tuple[Outcomes, int]:
        made = coordinator(plan_of(BUNDLE), cluster(tmp_path, workers, keys(), insecure=True), SendOptions())
        async with made, grpc.aio.insecure_channel(workers["edge1"].address) as to:
            names = {"run": made.pool.run, "from": "edge0", "to": "edge1", "protection": "aes-128-gcm"}
            bound = prologue(f"aes-128-gcm run {made.pool.run}", "edge0", "edge1")

            async def throw() -> None:
                _, noise = initiator_start(key, bound)
                await thrown(to, json.dumps({"cloven": VERSION, **names, "noise": noise.hex()}).encode())

            done = asyncio.Event()
            attack = asyncio.create_task(again_and_again(throw, 200, done))
            found = await answered(made, 1.5)
            done.set()
            return found, await attack

    before = workers["edge1"].count("cloven_link_losses_total", party="edge0")
    found, count = within(60, run())

    assert all(isinstance(outcome, Prediction) for outcome in found)
    assert len(found) > 15
    assert not accounted(found)
    assert count > 100
    assert workers["edge1"].count("cloven_link_losses_total", party="edge0") <= before + 1


# --- one handshake, message by message --------------------------------------------------------------------------

LINE = LinkSpec("run", "edge0", "edge1", "aes-128-gcm", lambda: bytes(range(32)), FrameLimits())

Recorded = dict[str, Any]
Change = Callable[[Recorded, list[Recorded]], Recorded]
"""Returns the message that arrives instead of one, given all earlier messages."""


def unchanged(message: Recorded, _: list[Recorded]) -> Recorded:
    """Return the message unchanged, as without an attacker."""
    return message


class End(MessageStream):
    """One end of a stream inside this process."""

    def __init__(self, log: list[Recorded], change: Change) -> None:
        self.log, self.change = log, change
        self.inbox: asyncio.Queue[Recorded] = asyncio.Queue()
        self.other = self

    async def write(self, message: bytes) -> None:
        said = json.loads(message)
        self.other.inbox.put_nowait(self.change(said, self.log))
        self.log.append(said)

    async def read(self) -> bytes | None:
        return json.dumps(await self.inbox.get()).encode()


async def shaken(
    to_responder: Change, to_dialer: Change, lines: tuple[LinkSpec, LinkSpec], firsts: FirstMessages
) -> tuple[list[Recorded], BaseException | None, BaseException | None]:
    """Run a handshake; return the messages, and why the dialer and the responder refused."""
    log: list[Recorded] = []
    dialer, responder = End(log, to_responder), End(log, to_dialer)
    dialer.other, responder.other = responder, dialer

    async def respond() -> None:
        hello = read(Hello, await responder.read(), "edge0")
        await prove(await welcome(responder, hello, lines[1], aside, ReplayGuard(firsts, HalfOpen(1, 0.5))))

    with ThreadPoolExecutor(1) as aside:
        ours, theirs = await asyncio.gather(greet(dialer, lines[0], aside), respond(), return_exceptions=True)
    return log, ours if isinstance(ours, BaseException) else None, theirs


def shake(
    to_responder: Change = unchanged,
    to_dialer: Change = unchanged,
    *,
    lines: tuple[LinkSpec, LinkSpec] = (LINE, LINE),
    firsts: FirstMessages | None = None,
) -> tuple[list[Recorded], BaseException | None, BaseException | None]:
    """Run a handshake; see `shaken`."""
    return asyncio.run(shaken(to_responder, to_dialer, lines, firsts or FirstMessages()))


HELLO, ANSWER, PROOF, CONFIRMED = shake()[0]
"""The four messages of a handshake that was recorded."""


def at(field: str, message: Recorded) -> Change:
    """Return an attack that replaces the message with a field, except a hello, by a recorded one."""
    return lambda said, _: message if field in said and "run" not in said else said


def test_a_handshake_has_four_messages_and_both_sides_believe_it() -> None:
    log, ours, theirs = shake()

    assert [sorted(said) for said in log] == [sorted(said) for said in (HELLO, ANSWER, PROOF, CONFIRMED)]
    assert "run" in HELLO
    assert sorted(PROOF) == sorted(CONFIRMED) == ["cloven", "proof"]
    assert (ours, theirs) == (None, None)


def mirror(field: str) -> Change:
    """Return an attack that sends the dialer's own message back to it."""
    place = {"noise": 0, "proof": 2}[field]
    return lambda said, log: {"cloven": VERSION, field: log[place][field]} if field in said else said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (at("noise", ANSWER), HandshakeRefused),
        (mirror("noise"), HandshakeRefused),
        (at("proof", CONFIRMED), FrameRefused),
        (mirror("proof"), FrameRefused),
        (at("proof", {"cloven": VERSION}), FrameRefused),
    ],
    ids=["an older answer", "its own hello", "an older proof", "its own proof", "no proof"],
)
def test_a_dialer_is_not_deceived(change: Change, reason: type[Exception]) -> None:
    _, ours, _ = shake(to_dialer=change)

    assert isinstance(ours, reason)


@pytest.mark.parametrize("message", [PROOF, CONFIRMED, {"cloven": VERSION}], ids=["older", "its own", "none"])
def test_a_responder_does_not_believe_another_proof(message: Recorded) -> None:
    _, _, theirs = shake(to_responder=at("proof", message))

    assert isinstance(theirs, FrameRefused)


def test_a_responder_refuses_a_first_message_that_it_answered() -> None:
    firsts = FirstMessages()
    log, *reasons = shake(firsts=firsts)
    _, ours, theirs = shake(to_responder=lambda said, _: log[0] if "run" in said else said, firsts=firsts)

    assert reasons == [None, None]
    assert isinstance(theirs, HandshakeRepeated)
    assert "was already answered" in str(ours), "whoever dials is told, and may try again"


OTHER_LINES = {
    "another run": replace(LINE, run="another"),
    "another link": replace(LINE, dialer="edge2"),
    "the other direction": replace(LINE, dialer="edge1", other="edge0"),
    "another key": replace(LINE, key=lambda: bytes(32)),
}


@pytest.mark.parametrize("line", OTHER_LINES.values(), ids=OTHER_LINES)
def test_a_first_message_is_for_one_link_of_one_run(line: LinkSpec) -> None:
    _, _, theirs = shake(to_responder=lambda said, _: HELLO if "run" in said else said, lines=(LINE, line))

    assert isinstance(theirs, HandshakeRefused)


def test_the_newest_handshake_waits_and_older_ones_are_given_up() -> None:
    """Only one stream waits, however many are opened, and an older one cannot replace a newer one."""

    async def run() -> list[str]:
        half, told = HalfOpen(1, 60), []

        async def wait(number: int) -> None:
            try:
                async with half.place():
                    await asyncio.sleep(0.05)
                told.append(f"{number} is in")
            except TimeoutError:
                told.append(f"{number} is out")

        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(wait(number))
                await asyncio.sleep(0)
        return told

    told = asyncio.run(run())

    assert told[-1] == "99 is in"
    assert all(line.endswith("is out") for line in told[:-1])


def test_a_place_is_had_for_a_time() -> None:
    async def run() -> None:
        async with HalfOpen(8, 0.01).place():
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
