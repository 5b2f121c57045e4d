"""Standbys take the places of devices that die or hang: every image is answered once, and exactly."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.runtime.cluster.coordinator import Coordinator
from cloven.runtime.cluster.send_options import SendOptions
from tests.runtime.cluster.machines import (
    Event,
    Machine,
    Outcomes,
    cluster,
    coordinator,
    equals,
    gap,
    machines,
    outcomes,
    restored,
    with_keys,
    within,
)
from tests.runtime.cluster.plans import accounted, bundled, keys, many, plan_of, with_standbys

NAMES = ["edge0", "edge1", "edge2", "edge3"]
STANDBYS = ("edge3", "edge4")

Machines = dict[str, Machine]


BUNDLE = with_standbys(bundled("lenet5", "vertical"), Path(tempfile.mkdtemp()), STANDBYS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Return the workers of edge0 to edge4; each test leaves them in any state."""
    with equals(BUNDLE, tmp_path_factory.mktemp("workers"), [*NAMES, "edge4"]) as made:
        yield made


@pytest.fixture
def workers(shared: Machines) -> Iterator[Machines]:
    yield from restored(shared)


def made(
    workers: Machines, folder: Path, standby: tuple[str, ...] = ("edge3",), deadline: float = 10
) -> Coordinator:
    """Return a coordinator of edge0 to edge2 with standbys."""
    return coordinator(plan_of(BUNDLE), cluster(folder, workers), SendOptions(deadline=deadline, standby=standby))


async def sent(run: Coordinator, count: int, events: dict[int, Event]) -> Outcomes:
    """Return the outcomes of images; trigger events after some of them."""
    async with run:
        return await outcomes(run, many(count), events)


@pytest.mark.parametrize("device", ["edge0", "edge1", "edge2"])
def test_a_standby_takes_the_place_of_a_killed_device(workers: Machines, tmp_path: Path, device: str) -> None:
    run = made(workers, tmp_path)
    found = within(60, sent(run, 400, {100: workers[device].kill}))

    assert len(found) == 400
    assert not accounted(found)
    assert "edge3" in run.pool.workers
    assert device not in run.pool.workers
    assert gap(found) < 3  # 0.4 s on an idle machine; see benchmarks/failover.py


def test_a_standby_takes_the_place_of_a_device_that_hangs(workers: Machines, tmp_path: Path) -> None:
    found = within(60, sent(made(workers, tmp_path, deadline=30), 300, {100: workers["edge1"].pause}))

    assert len(found) == 300
    assert not accounted(found)
    assert gap(found) < 6  # 2 s on an idle machine


def both(first: Event, second: Event) -> Event:
    """Return an event that triggers two events at once."""

    def event() -> None:
        first()
        second()

    return event


def test_the_log_says_who_takes_which_place(
    workers: Machines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that is back has its own place at the next loss, and its standby takes that of the lost one."""
    run = made(workers, tmp_path)

    async def everything() -> Outcomes:
        async with run:
            found = await outcomes(run, many(64), {20: workers["edge1"].kill})
            workers["edge1"].again()
            while "edge1" not in run.current.ready:
                await asyncio.sleep(0.1)
            return found + await outcomes(run, many(64), {20: workers["edge0"].kill})

    assert not accounted(within(60, everything()))
    places = [
        record.message for record in caplog.records if record.message.endswith("again") or "takes" in record.message
    ]
    assert places == [
        "edge3 takes the place of edge1",
        "edge1 has its own place again",
        "edge3 takes the place of edge0",
    ]


def test_a_standby_that_hangs_holds_up_no_other(workers: Machines, tmp_path: Path) -> None:
    """The coordinator still takes edge3 to be ready when edge1 is lost."""
    run = made(workers, tmp_path, STANDBYS)
    found = within(60, sent(run, 400, {100: both(workers["edge3"].pause, workers["edge1"].kill)}))

    assert len(found) == 400
    assert not accounted(found)
    assert sorted(run.pool.workers) == ["edge0", "edge2", "edge4"]
    assert gap(found) < 3  # 0.7 s on an idle machine


@pytest.mark.slow
def test_a_standby_and_a_device_that_hang_at_once(workers: Machines, tmp_path: Path) -> None:
    run = made(workers, tmp_path, STANDBYS, deadline=30)
    found = within(60, sent(run, 300, {100: both(workers["edge3"].pause, workers["edge1"].pause)}))

    assert len(found) == 300
    assert not accounted(found)
    assert "edge4" in run.pool.workers
    assert gap(found) < 4  # 2.1 s on an idle machine


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_standbys_take_the_places_of_two_devices_that_are_lost_at_once(
    workers: Machines, tmp_path: Path, how: str
) -> None:
    run = made(workers, tmp_path, STANDBYS, deadline=30)
    event = both(workers["edge0"].kill, getattr(workers["edge2"], how))
    found = within(60, sent(run, 400, {100: event}))

    assert len(found) == 400
    assert not accounted(found)
    assert sorted(run.pool.workers) == ["edge1", "edge3", "edge4"]
    assert gap(found) < (3 if how == "kill" else 4)  # 0.1 s and 1.6 s on an idle machine


def test_a_standby_keeps_its_place_when_another_device_is_lost(workers: Machines, tmp_path: Path) -> None:
    run = made(workers, tmp_path, STANDBYS)
    found = within(60, sent(run, 400, {100: workers["edge1"].kill, 250: workers["edge0"].kill}))

    assert not accounted(found)
    assert run.pool.devices == {"edge4": "edge0", "edge3": "edge1", "edge2": "edge2"}


def test_with_too_few_standbys_for_the_devices_that_are_lost_the_images_fail_at_once(
    workers: Machines, tmp_path: Path
) -> None:
    run = made(workers, tmp_path)
    found = within(60, sent(run, 60, {20: both(workers["edge0"].kill, workers["edge1"].kill)}))

    failed = accounted(found)
    assert failed
    assert {failure.device for failure in failed} <= {"edge0", "edge1"}
    assert {"edge0", "edge1"} <= {device.device for device in run.health().devices if device.state == "down"}


def test_a_device_that_has_come_back_takes_its_place_again(workers: Machines, tmp_path: Path) -> None:
    async def everything() -> Outcomes:
        async with made(workers, tmp_path) as run:
            first = await outcomes(run, many(80), {40: workers["edge1"].kill})
            workers["edge1"].again()
            while run.current.ready != ["edge1"]:
                await asyncio.sleep(0.1)
            second = await outcomes(run, many(80), {40: workers["edge3"].kill})
            assert sorted(run.pool.workers) == ["edge0", "edge1", "edge2"]
            return first + second

    found = within(60, everything())
    assert not accounted(found)
    assert len(found) == 160


def test_without_a_standby_left_the_lost_device_is_named_at_once(workers: Machines, tmp_path: Path) -> None:
    async def everything() -> tuple[Outcomes, list[tuple[str, str]]]:
        async with made(workers, tmp_path) as run:
            workers["edge3"].kill()
            while run.current.ready:
                await asyncio.sleep(0.1)
            found = await outcomes(run, many(60), {20: workers["edge1"].kill})
            return found, [(device.device, device.state) for device in run.health().devices]

    found, states = within(30, everything())
    failed = accounted(found)
    assert failed
    assert "edge1" in {failure.device for failure in failed}
    assert ("edge3", "down") in states


def test_a_standby_that_loaded_one_part_is_not_used(tmp_path: Path) -> None:
    bundle = BUNDLE
    with machines(bundle, tmp_path / "parts") as three:
        (tmp_path / "spare").mkdir()
        spare = Machine(bundle / "edge1", tmp_path / "spare")
        try:
            all_of_them = three | {"edge3": spare.ready()}
            run = made(all_of_them, tmp_path)

            async def reason() -> str:
                async with run:
                    return run.current.reasons["edge3"]

            assert within(30, reason()).startswith("it has loaded the part of edge1 only; start it on the whole")
        finally:
            spare.kill()


def test_encrypted_links(tmp_path: Path) -> None:
    bundle = with_standbys(bundled("lenet5", "vertical", "aes-256-gcm"), tmp_path, STANDBYS)
    with equals(bundle, tmp_path / "workers", NAMES, with_keys(keys())) as four:
        file = cluster(tmp_path, four, keys())
        run = coordinator(plan_of(bundle), file, SendOptions(deadline=10, standby=("edge3",)))
        found = within(60, sent(run, 200, {100: four["edge1"].kill}))

    assert not accounted(found)
    assert "edge3" in run.pool.workers


@pytest.mark.slow
def test_ten_rounds_of_devices_that_are_killed_and_restarted_at_random(workers: Machines, tmp_path: Path) -> None:
    """One worker at a time is down; the standby may be the one."""
    chance = random.Random(0)

    async def round_of_a_thousand() -> Outcomes:
        async with made(workers, tmp_path) as run:

            async def all_ready() -> None:
                for worker in workers.values():
                    await asyncio.to_thread(worker.ready)
                while len(run.current.ready) + len(run.pool.workers) < len(NAMES) or not run.health().ready:
                    await asyncio.sleep(0.05)

            events: dict[int, Event] = {}
            for at in range(100, 1000, 200):
                victim = workers[chance.choice(NAMES)]
                events |= {at: victim.kill, at + chance.randrange(20, 100): victim.again, at + 150: all_ready}
            return await outcomes(run, many(1000), events)

    for _ in range(10):
        for worker in workers.values():
            worker.ready()
        found = within(200, round_of_a_thousand())
        assert len(found) == 1000
        assert not accounted(found)


BUSY = "while True: pass"


@pytest.mark.slow
def test_busy_cores_are_not_taken_for_a_loss(workers: Machines, tmp_path: Path) -> None:
    run = made(workers, tmp_path)
    burning = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2 * (os.cpu_count() or 2))]
    try:
        found = within(600, sent(run, 10_000, {}))
    finally:
        for process in burning:
            process.kill()
            process.wait()

    assert not accounted(found)
    assert sorted(run.pool.workers) == ["edge0", "edge1", "edge2"]


def test_a_standby_without_an_address(workers: Machines, tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match="the address of edge3 is missing"):
        made({name: worker for name, worker in workers.items() if name != "edge3"}, tmp_path)


def test_a_standby_that_the_plan_does_not_name(workers: Machines, tmp_path: Path) -> None:
    with pytest.raises(
        ClovenError, match="edge9 is not a standby of the plan; write the plan with `cloven plan --"
    ):
        made(workers, tmp_path, standby=("edge9",))
