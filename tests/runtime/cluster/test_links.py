"""Links that break, stall, are slow or change frames: the outcomes of images, and the named causes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.send_options import SendOptions
from tests.runtime.cluster.machines import (
    Machine,
    Outcomes,
    Proxy,
    all_up,
    cluster,
    coordinator,
    machines,
    outcomes,
    with_keys,
    within,
)
from tests.runtime.cluster.plans import accounted, bundled, keys, many, plan_of
from tests.runtime.cluster.relay import Change, Relay

BUNDLE = bundled("lenet5", "vertical", "aes-128-gcm")

Machines = dict[str, Machine]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Return workers whose links have ciphers but no TLS."""
    folder = tmp_path_factory.mktemp("workers")
    with machines(BUNDLE, folder, with_keys(keys(), "--insecure")) as made:
        yield made


@pytest.fixture
def file(workers: Machines, tmp_path: Path) -> Path:
    return cluster(tmp_path, workers, keys(), insecure=True)


# --- network faults ---------------------------------------------------------------------------------------------


def through_proxy(
    workers: Machines, file: Path, options: SendOptions, work: Callable[[Proxy], dict[int, Callable[[], object]]]
) -> Outcomes:
    """Send 60 images while ``work`` changes the proxy of the link from edge0 to edge1."""

    async def run() -> Outcomes:
        async with Proxy(workers["edge1"].address) as proxy:
            made = coordinator(plan_of(BUNDLE), file, options)
            made.pool.addresses["edge1"] = proxy.address
            async with made:
                found = await outcomes(made, many(60), work(proxy))
                proxy.open.set()
                await all_up(made)
                assert not accounted(await outcomes(made, many(8)))
                return found

    return within(60, run())


def stall(proxy: Proxy, seconds: float) -> Callable[[], None]:
    def begin() -> None:
        proxy.open.clear()
        asyncio.get_running_loop().call_later(seconds, proxy.open.set)

    return begin


@pytest.mark.slow
def test_a_link_that_is_down_for_five_seconds(workers: Machines, file: Path) -> None:
    """No image is lost: both ends keep the connection for that long."""
    found = through_proxy(workers, file, SendOptions(deadline=20), lambda proxy: {20: stall(proxy, 5)})

    assert len(found) == 60
    assert not accounted(found)


def test_a_link_that_is_down_for_longer_than_the_deadline(workers: Machines, file: Path) -> None:
    found = through_proxy(
        workers, file, SendOptions(deadline=2), lambda proxy: {20: proxy.open.clear, 36: proxy.open.set}
    )
    assert accounted(found)
    # Images in flight while the link opens again may be late on any device.
    failed = [outcome for outcome in found[20:36] if isinstance(outcome, FrameFailed)]
    assert failed
    assert {str(failure) for failure in failed} == {"edge0 -> edge1: no answer within 2 s; edge1 waits for edge0"}


def test_a_link_that_is_cut(workers: Machines, file: Path) -> None:
    found = through_proxy(workers, file, SendOptions(deadline=20), lambda proxy: {20: proxy.cut})
    failed = accounted(found)

    assert failed
    assert {failure.link for failure in failed} == {("edge0", "edge1")}
    assert "the connection" in str(failed[0])


def test_a_link_that_is_cut_again_and_again_with_retry(workers: Machines, file: Path) -> None:
    cuts = {10: 0, 25: 0, 40: 0}
    found = through_proxy(
        workers, file, SendOptions(deadline=20, retry=30), lambda proxy: dict.fromkeys(cuts, proxy.cut)
    )

    assert len(found) == 60
    assert not accounted(found)


def test_a_slow_link(workers: Machines, file: Path) -> None:
    """At 100 kB/s and 4.8 kB per image, images are slow but do not fail, and at most a window is in flight."""

    def slow(proxy: Proxy) -> dict[int, Callable[[], object]]:
        proxy.rate = 100e3
        return {}

    assert not accounted(through_proxy(workers, file, SendOptions(deadline=20), slow))


def test_a_device_behind_a_dead_network_is_named(workers: Machines, file: Path) -> None:
    """The control stream of the device uses the same network as its links."""

    async def run() -> Outcomes:
        async with Proxy(workers["edge1"].address) as proxy:
            path = file.with_name("proxied.toml")
            path.write_text(file.read_text().replace(workers["edge1"].address, proxy.address))
            async with coordinator(plan_of(BUNDLE), path, SendOptions(deadline=1.5)) as made:
                return await outcomes(made, many(40), {20: proxy.open.clear})

    failed = accounted(within(60, run()))

    assert failed
    assert "edge1: no answer within 1.5 s; it sent no message for" in str(failed[0])


# --- attacks ----------------------------------------------------------------------------------------------------


def flipped(at: int) -> Callable[[bytes], list[bytes]]:
    """Return an attack that changes one bit."""

    def change(frame: bytes) -> list[bytes]:
        spoilt = bytearray(frame)
        spoilt[at] ^= 1
        return [bytes(spoilt)]

    return change


ATTACKS: dict[str, tuple[str, Callable[[bytes], list[bytes]]]] = {
    "payload": ("tampered", flipped(60)),
    "tag": ("tampered", flipped(-1)),
    "input": ("tampered", flipped(39)),
    "ordinal": ("tampered", flipped(7)),
    "session": ("foreign session", flipped(10)),
    "magic": ("format", flipped(0)),
    "replay": ("replayed", lambda frame: [frame, frame]),
    "loss": ("reordered", lambda frame: []),
    "truncation": ("truncated", lambda frame: [frame[:-5]]),
    "no header": ("truncated", lambda frame: [frame[:20]]),
    "nothing": ("truncated", lambda frame: [b""]),
    "addition": ("overlong", lambda frame: [frame + b"more"]),
    "wrong length": ("oversized", flipped(43)),
}
"""What is done to a frame, and why it is refused."""


def once(frame: int, attack: Callable[[bytes], list[bytes]]) -> Change:
    """Apply an attack to one of all frames."""
    done: list[int] = []

    def change(number: int, message: bytes) -> list[bytes]:
        if number != frame or done:
            return [message]
        done.append(number)
        return attack(message)

    return change


def swapped(frame: int) -> Change:
    """Swap a frame and the next one, once."""
    kept: list[bytes] = []
    done: list[int] = []

    def change(number: int, message: bytes) -> list[bytes]:
        if number == frame and not done:
            done.append(number)
            kept.append(message)
            return []
        return [message, kept.pop()] if number == frame + 1 and kept else [message]

    return change


def attacked(workers: Machines, file: Path, change: Change, options: SendOptions, count: int = 24) -> Outcomes:
    """Send images while a relay between edge0 and edge1 applies ``change``."""

    async def run() -> Outcomes:
        async with Relay(workers["edge1"].address, change) as relay:
            made = coordinator(plan_of(BUNDLE), file, options)
            made.pool.addresses["edge1"] = relay.address
            async with made:
                return await outcomes(made, many(count))

    return within(60, run())


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_frame_that_was_changed_is_refused_and_the_run_goes_on(
    workers: Machines, file: Path, attack: str
) -> None:
    reason, change = ATTACKS[attack]
    refused = workers["edge1"].count("cloven_refused_total", party="edge0", reason=reason)

    found = attacked(workers, file, once(8, change), SendOptions(deadline=20, retry=30))

    assert len(found) == 24
    assert not accounted(found)
    assert workers["edge1"].count("cloven_refused_total", party="edge0", reason=reason) == refused + 1


def test_frames_that_were_exchanged_are_refused(workers: Machines, file: Path) -> None:
    refused = workers["edge1"].count("cloven_refused_total", party="edge0", reason="reordered")

    assert not accounted(attacked(workers, file, swapped(8), SendOptions(deadline=20, retry=30)))
    assert workers["edge1"].count("cloven_refused_total", party="edge0", reason="reordered") == refused + 1


def test_without_retry_the_link_and_the_reason_are_named(workers: Machines, file: Path) -> None:
    """The worker's log contains the reason too."""
    failed = accounted(attacked(workers, file, once(8, flipped(60)), SendOptions(deadline=20)))

    assert failed
    assert str(failed[0]) == "edge0 -> edge1: frame refused, tampered: its tag is wrong"
    reasons = [line["reason"] for line in workers["edge1"].events("link") if line["party"] == "edge0"]
    assert "frame refused, tampered: its tag is wrong" in reasons


def test_a_message_beyond_all_measure_is_not_even_read(workers: Machines, file: Path) -> None:
    lost = workers["edge1"].count("cloven_link_losses_total", party="edge0")
    change = once(8, lambda frame: [frame + bytes(2**22)])

    assert not accounted(attacked(workers, file, change, SendOptions(deadline=20, retry=30)))
    assert workers["edge1"].count("cloven_link_losses_total", party="edge0") > lost
    assert workers["edge1"].memory() < 2**28


def test_a_handshake_that_was_changed_is_refused(workers: Machines, file: Path) -> None:
    """The dialer tries again, so changing one message only delays the link."""
    refused = workers["edge1"].count("cloven_refused_total", party="edge0", reason="handshake")

    def change(hello: bytes) -> list[bytes]:
        at = hello.index(b'"noise": "') + 12
        return [hello[:at] + (b"0" if hello[at : at + 1] != b"0" else b"1") + hello[at + 1 :]]

    found = attacked(workers, file, once(0, change), SendOptions(deadline=20, retry=30))

    assert not accounted(found)
    assert workers["edge1"].count("cloven_refused_total", party="edge0", reason="handshake") == refused + 1
