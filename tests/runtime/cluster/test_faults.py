"""Workers and coordinators that die, hang, stop or restart: every image is answered, or fails with a reason."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cloven.errors import ClovenError
from cloven.runtime.cluster.channels import DESCRIBE
from cloven.runtime.cluster.coordinator import Coordinator
from cloven.runtime.cluster.send_options import SendOptions
from tests.runtime.cluster.machines import (
    Machine,
    Outcomes,
    all_up,
    cluster,
    coordinator,
    machines,
    outcomes,
    within,
)
from tests.runtime.cluster.plans import accounted, bundled, many, plan_of

BUNDLE = bundled("lenet5", "vertical")

Machines = dict[str, Machine]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Return the workers of all tests in this module; each test leaves them running."""
    with machines(BUNDLE, tmp_path_factory.mktemp("workers")) as made:
        yield made


@pytest.fixture
def file(workers: Machines, tmp_path: Path) -> Path:
    """Return the cluster file of the workers, all of which run."""
    for worker in workers.values():
        if worker.process.poll() is not None:
            worker.again()
    for worker in workers.values():
        worker.ready()
    return cluster(tmp_path, workers)


def made(file: Path, deadline: float = 10, retry: float = 0) -> Coordinator:
    return coordinator(plan_of(BUNDLE), file, SendOptions(deadline=deadline, retry=retry))


def test_a_thousand_images_and_a_killed_worker(workers: Machines, file: Path) -> None:
    """Images in flight fail and name the worker; after its restart, images are answered again."""

    async def run() -> Outcomes:
        async with made(file) as run:
            first = await outcomes(run, many(600), {300: workers["edge1"].kill, 500: workers["edge1"].again})
            await all_up(run)
            return first + await outcomes(run, many(400))

    found = within(60, run())
    failed = accounted(found[:600]) + accounted(found[600:])

    assert len(found) == 1000
    assert 0 < len(failed) <= 300
    # If a neighbour notices before the coordinator, its link to the worker is named.
    assert all(failure.device == "edge1" or "edge1" in (failure.link or ()) for failure in failed)
    assert "edge1" in {failure.device for failure in failed}


def test_a_thousand_images_and_a_killed_worker_with_retry(workers: Machines, file: Path) -> None:
    def kill_and_start() -> None:
        workers["edge1"].kill()
        workers["edge1"].again()

    async def run() -> Outcomes:
        async with made(file, retry=40) as run:
            return await outcomes(run, many(1000), {300: kill_and_start})

    found = within(90, run())

    assert len(found) == 1000
    assert not accounted(found)


@pytest.mark.parametrize("device", ["edge0", "edge2"])
def test_whoever_is_killed_and_comes_back(workers: Machines, file: Path, device: str) -> None:
    """The tests cover the first and the last device."""

    def kill_and_start() -> None:
        workers[device].kill()
        workers[device].again()

    async def run() -> Outcomes:
        async with made(file, retry=40) as run:
            return await outcomes(run, many(100), {30: kill_and_start})

    assert not accounted(within(90, run()))


def test_a_worker_that_does_not_come_back_is_waited_for_once(workers: Machines, file: Path) -> None:
    """The time to wait applies once, not to each window of images."""

    async def run() -> Outcomes:
        async with made(file, retry=1) as run:
            return await outcomes(run, many(200), {50: workers["edge1"].kill})

    start = time.monotonic()
    failed = accounted(within(60, run()))

    assert 100 < len(failed) < 151
    assert {failure.device for failure in failed} == {"edge1"}
    assert time.monotonic() - start < 20, "200 images in windows of 8 would wait 18 times"


def test_a_hung_worker_is_named_at_the_deadline(workers: Machines, file: Path) -> None:
    async def run() -> Outcomes:
        async with made(file, deadline=1.5) as run:
            first = await outcomes(run, many(60), {20: workers["edge1"].pause})
            workers["edge1"].resume()
            await all_up(run)
            return first + await outcomes(run, many(20))

    try:
        found = within(60, run())
    finally:
        workers["edge1"].resume()
    failed = accounted(found[:60])

    assert failed
    assert "edge1: no answer within 1.5 s; it sent no message for" in str(failed[0])
    assert {failure.device for failure in failed} == {"edge1"}
    assert not accounted(found[60:])


def test_a_hung_worker_with_retry(workers: Machines, file: Path) -> None:
    async def run() -> Outcomes:
        async with made(file, deadline=1, retry=40) as run:

            def pause() -> None:
                workers["edge1"].pause()
                asyncio.get_running_loop().call_later(2, workers["edge1"].resume)

            return await outcomes(run, many(60), {20: pause})

    try:
        assert not accounted(within(60, run()))
    finally:
        workers["edge1"].resume()


def test_a_worker_that_is_stopped_says_so_and_exits_at_once(workers: Machines, file: Path) -> None:
    async def run() -> Outcomes:
        async with made(file) as run:
            return await outcomes(run, many(200), {50: workers["edge1"].process.terminate})

    failed = accounted(within(60, run()))
    start = time.monotonic()

    assert workers["edge1"].process.wait(20) == 0
    assert time.monotonic() - start < 5
    assert failed
    assert str(failed[0]) == "edge1: was stopped"
    assert [line["event"] for line in workers["edge1"].lines()][-2:] == ["left", "stopped"]


def test_a_coordinator_that_is_busy_itself_blames_nobody(file: Path) -> None:
    async def run() -> Outcomes:
        async with made(file) as run:
            return await outcomes(run, many(60), {20: lambda: time.sleep(3.5)})

    assert not accounted(within(60, run()))


def test_an_idle_worker_stops(workers: Machines, file: Path) -> None:
    assert workers["edge2"].stop() == 0


COORDINATOR = """
import asyncio, sys
from pathlib import Path
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.sending import coordinator
from cloven.partition.plan import parse

async def main():
    async with coordinator(parse(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), SendOptions()):
        print("in", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_workers_are_free_when_their_coordinator_was_killed(file: Path, tmp_path: Path) -> None:
    """Until then, a second coordinator is refused, as the workers are busy."""
    plan = plan_of(BUNDLE)
    (tmp_path / "plan.toml").write_text(plan.toml())
    command = [sys.executable, "-c", COORDINATOR, tmp_path / "plan.toml", file]
    other = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ClovenError) as busy:
            within(60, _nothing(file))
    finally:
        other.kill()
        other.communicate(timeout=20)
    time.sleep(0.5)

    assert len(busy.value.problems) == 3
    assert all("is busy with run" in problem for problem in busy.value.problems)
    within(60, _nothing(file))


async def _runs(machines: Machines) -> set[str | None]:
    """Return the runs that the workers report to take part in."""
    found = set()
    for machine in machines.values():
        async with grpc.aio.insecure_channel(machine.address) as to:
            ask: Any = to.unary_unary(DESCRIBE)
            found.add(json.loads(await ask(b"", timeout=10))["run"])
    return found


async def _seconds_until(done: Callable[[], Awaitable[bool]]) -> float:
    start = time.monotonic()
    while not await done():
        await asyncio.sleep(0.1)
    return time.monotonic() - start


@pytest.mark.slow
def test_workers_are_free_within_10_s_when_their_coordinator_hangs(
    workers: Machines, file: Path, tmp_path: Path
) -> None:
    """The connections of a hung coordinator stay open; when it resumes, it joins its workers again."""
    plan = plan_of(BUNDLE)
    (tmp_path / "plan.toml").write_text(plan.toml())
    command = [sys.executable, "-c", COORDINATOR, tmp_path / "plan.toml", file]
    other = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE)

    async def free() -> bool:
        return await _runs(workers) == {None}

    async def busy() -> bool:
        return None not in await _runs(workers)

    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        other.send_signal(signal.SIGSTOP)
        assert 5 < within(30, _seconds_until(free)) < 10
        other.send_signal(signal.SIGCONT)
        within(30, _seconds_until(busy))
    finally:
        other.kill()
        other.communicate(timeout=20)
    assert "sent no message for" in workers["edge1"].events("lost")[-1]["reason"]


@pytest.mark.slow
def test_a_worker_that_hangs_is_given_up_within_12_s_by_coordinator_and_neighbours(
    workers: Machines, file: Path
) -> None:
    """Images in flight fail before their deadline; when the worker resumes, it joins again."""

    async def run() -> tuple[float, Outcomes]:
        async with made(file, deadline=60) as run:
            assert not accounted(await outcomes(run, many(8)))
            workers["edge1"].pause()
            start = time.monotonic()
            failed = await outcomes(run, many(8))
            took = time.monotonic() - start

            async def apart() -> bool:
                count = workers["edge0"].count
                return not await asyncio.to_thread(count, "cloven_link_up", party="edge1")

            await _seconds_until(apart)
            assert time.monotonic() - start < 12
            workers["edge1"].resume()
            await all_up(run)
            assert not accounted(await outcomes(run, many(8)))
            return took, failed

    try:
        took, failed = within(60, run())
    finally:
        workers["edge1"].resume()

    assert took < 12
    assert len(accounted(failed)) == 8
    assert {failure.device for failure in accounted(failed)} == {"edge1"}


SLOW = """
import asyncio, sys, time
from dataclasses import replace
from pathlib import Path
from cloven.runtime.cluster.logs import to_stderr
from cloven.runtime.cluster.worker import Addresses, load, serve

bundle, seen = load(Path(sys.argv[1]), None), []
((name, part),) = bundle.parts.items()

def slow(job, inputs):
    seen.append(job)
    if len(seen) == 8 * len(part.schedule.jobs):
        time.sleep(30)
    return part.engine(job, inputs)

to_stderr()
slowed = replace(bundle, parts={name: replace(part, engine=slow)})
asyncio.run(serve(name, [slowed], None, Addresses(("127.0.0.1", int(sys.argv[2]))), tls=False))
"""
"""A worker that computes for 30 s on its eighth image, in its event loop, as all images before were quick."""


@pytest.mark.slow
def test_a_worker_that_computes_for_long_does_not_hang(workers: Machines, file: Path) -> None:
    worker = workers["edge1"]
    worker.stop()
    port = worker.address.rpartition(":")[2]
    other = subprocess.Popen([sys.executable, "-c", SLOW, str(worker.folder), port], stderr=subprocess.PIPE)

    async def run() -> Outcomes:
        async with made(file, deadline=60, retry=20) as run:
            return await outcomes(run, many(24))

    try:
        start = time.monotonic()
        assert not accounted(within(90, run()))
        assert time.monotonic() - start > 30
    finally:
        other.kill()
        _, log = other.communicate(timeout=20)
    assert log.count(b'"event": "joined"') == 1


async def _nothing(file: Path) -> None:
    async with made(file):
        pass


def test_the_next_run_can_follow_at_once(file: Path) -> None:
    for _ in range(5):
        within(60, _nothing(file))
