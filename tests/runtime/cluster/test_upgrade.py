"""Workers take a new bundle beside their current one while images are in flight, and go back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cloven.cost.cluster import Cluster
from cloven.errors import ClovenError
from cloven.partition import plan as plans
from cloven.partition.plan import parse
from cloven.partition.protection import COORDINATOR, Protection, weakened
from cloven.runtime.bundle.format import MANIFEST
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.cluster.channels import ACTIVATE, UPGRADE, MessageStream, channel
from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.protocol import VERSION, ActivateRequest, UpgradeOffer
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.upgrading import ClusterUpgrade, UpgradeSummary
from cloven.runtime.cluster.worker_client import ask
from cloven.runtime.link.identity import read
from cloven.zoo.named import make
from tests.runtime.cluster.machines import Machine, Outcomes, cluster, coordinator, machines, outcomes, within
from tests.runtime.cluster.plans import REPEATED, alone, bundled, images, keys, many, plan, plan_of, with_standbys

FIRST = bundled("lenet5", "vertical")

Machines = dict[str, Machine]


@cache
def second() -> Path:
    """Return a bundle of a model with other weights, for the same devices."""
    generator = torch.Generator().manual_seed(1)
    module = make("lenet5", shape=(1, 28, 28), classes=10)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, generator=generator)
    graph = capture(module, torch.zeros(1, 1, 28, 28))
    made = plan("lenet5", "vertical")
    made = parse(made.toml() + "\n# the second version\n")
    folder = FIRST.parent / "second"
    write(plans.compile(graph, made), folder, model="lenet5", plan=made.toml() + "# 2\n")
    return folder


def protected(protection: str, bundle: Path) -> Path:
    """Return a copy of a bundle with another protection of its links."""
    folder = bundle.with_name(f"{bundle.name}-{protection}")
    if not folder.exists():
        shutil.copytree(bundle, folder)
        manifest = json.loads((folder / MANIFEST).read_text())
        made = parse(manifest["plan"]).model_copy(update={"protection": Protection(default=protection)})  # type: ignore[arg-type]
        manifest |= {"protection": made.protection.model_dump(), "plan": made.toml()}
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@cache
def expected() -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs of both models for the images that are repeated."""
    given = images("lenet5", REPEATED)
    return alone(FIRST, given), alone(second(), given)


def versions(found: Outcomes) -> list[int]:
    """Return which model answered each image, 1 or 2; every answer equals one of them bit for bit."""
    first, other = expected()
    answered = []
    for i, outcome in enumerate(found):
        assert isinstance(outcome, Prediction), outcome
        equal = [np.array_equal(outcome.output, one[i % REPEATED]) for one in (first, other)]
        assert equal.count(True) == 1
        answered.append(equal.index(True) + 1)
    assert len({outcome.number for outcome in found if isinstance(outcome, Prediction)}) == len(found)
    return answered


@contextmanager
def upgradable(place: Path, bundle: Path = FIRST, keyed: Path | None = None) -> Iterator[Machines]:
    """Run the workers of a bundle, which accept upgrades."""

    def options(name: str) -> list[object]:
        found: list[object] = ["--upgrades", place / "upgrades" / name]
        return found if keyed is None else [*found, "--keys", keyed / name]

    with machines(bundle, place / "logs", options) as made:
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def running(place: Path) -> Iterator[Machines]:
    with upgradable(place) as made:
        yield made


@pytest.fixture
def workers(running: Machines, tmp_path: Path) -> Machines:
    """Return workers that accept upgrades and use the first bundle."""
    assert within(60, upgrade(cluster(tmp_path, running), FIRST)).done
    return running


@pytest.fixture
def file(workers: Machines, tmp_path: Path) -> Path:
    """Return the cluster file of these workers."""
    return cluster(tmp_path, workers)


def upgrade(file: Path, bundle: Path | None) -> Any:
    """Return the work of an upgrade, or of going back."""
    found = Cluster.load(file)
    work = ClusterUpgrade(found, read(Path(found.keys), COORDINATOR) if found.keys else None)
    return work.roll_back() if bundle is None else work.upgrade(bundle)


def kept(place: Path, device: str) -> set[str]:
    """Return the names in a worker's folder of upgrades."""
    return {path.name for path in (place / "upgrades" / device).iterdir()}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def moved(run: Coordinator, file: Path, bundle: Path | None, summaries: list[UpgradeSummary]) -> Any:
    """Return the work of an upgrade, and of waiting until the coordinator has followed."""

    async def work() -> None:
        before = run.pool
        summaries.append(await upgrade(file, bundle))
        assert summaries[-1].done, summaries[-1]
        await until(lambda: run.pool is not before)

    return work()


def under_load(file: Path, count: int) -> tuple[Outcomes, list[UpgradeSummary]]:
    """Return the answers of a run that sends images without a pause, during an upgrade and the way back."""
    summaries: list[UpgradeSummary] = []
    found: Outcomes = []

    async def work() -> None:
        async with coordinator(plan_of(FIRST), file, SendOptions(follow=True)) as run:

            async def upgrades() -> None:
                await moved(run, file, second(), summaries)
                until_then = len(found) + count // 3
                await until(lambda: len(found) >= until_then)
                await moved(run, file, None, summaries)

            changing = asyncio.create_task(upgrades())

            def given() -> Iterator[Any]:
                for i, image in enumerate(many(100 * count)):
                    if changing.done() and i >= count:
                        return
                    yield image

            async for outcome in run.answers(given()):
                found.append(outcome)
            await changing

    within(500, work())
    return found, summaries


def test_no_image_is_lost_or_mixed_by_an_upgrade_and_the_way_back(file: Path) -> None:
    found, summaries = under_load(file, 300)

    answered = versions(found)
    assert len(found) >= 300
    assert [summary.done for summary in summaries] == [True, True]
    assert [worker.outcome for summary in summaries for worker in summary.workers] == ["upgraded"] * 6
    changes = [i for i in range(1, len(answered)) if answered[i] != answered[i - 1]]
    assert answered[0] == answered[-1] == 1
    assert 2 in answered
    assert len(changes) == 2  # never back and forth


@pytest.mark.slow
def test_ten_thousand_images_with_an_upgrade_and_the_way_back(file: Path) -> None:
    found, summaries = under_load(file, 10_000)

    answered = versions(found)
    assert len(found) >= 10_000
    assert all(summary.done for summary in summaries)
    assert answered[-1] == 1
    assert 2 in answered


# --- workers that do not take a bundle ----------------------------------------------------------------------------


def reasons(summary: UpgradeSummary) -> dict[str, str]:
    """Return the reasons of the workers that failed; check that the upgrade was not done."""
    assert not summary.done
    return {worker.worker: worker.reason for worker in summary.workers if worker.outcome == "failed"}


def test_a_worker_that_accepts_no_upgrades_stops_the_upgrade(workers: Machines, tmp_path: Path) -> None:
    other = Machine(FIRST / "edge1", tmp_path).ready()
    try:
        summary = within(60, upgrade(cluster(tmp_path, workers | {"edge1": other}), second()))
    finally:
        other.kill()

    assert reasons(summary) == {"edge1": "does not accept upgrades: start it with --upgrades FOLDER"}


def test_a_worker_that_is_lost_between_the_phases_sets_the_others_back(workers: Machines, file: Path) -> None:

    class Losing(ClusterUpgrade):
        async def _switch(self, *args: Any) -> UpgradeSummary:
            workers["edge1"].kill()
            return await super()._switch(*args)

    why = reasons(within(60, Losing(Cluster.load(file), None).upgrade(second())))
    assert list(why) == ["edge1"]
    assert "it could not be set back" in why["edge1"]
    workers["edge1"].again()
    workers["edge1"].ready()

    async def first() -> Outcomes:
        async with coordinator(plan_of(FIRST), file) as run:
            return await outcomes(run, many(8))

    assert versions(within(60, first())) == [1] * 8  # as before the upgrade, on all workers
    summary = within(60, upgrade(file, second()))
    assert summary.done


def test_a_worker_that_cannot_change_sets_the_others_back(workers: Machines, file: Path, place: Path) -> None:
    pointer = place / "upgrades" / "edge2" / "active.json"
    pointer.unlink(missing_ok=True)
    pointer.mkdir()
    try:
        summary = within(60, upgrade(file, second()))
    finally:
        pointer.rmdir()

    assert list(reasons(summary)) == ["edge2"]
    assert "cannot write" in reasons(summary)["edge2"]
    assert "set back" not in reasons(summary)["edge2"]
    first = hashlib.sha256((FIRST / MANIFEST).read_bytes()).hexdigest()
    assert [worker.plan for worker in summary.workers] == [first] * 3


def test_a_worker_of_a_whole_bundle_receives_all_parts(workers: Machines, tmp_path: Path) -> None:
    """After the upgrade it can still take the place of any device."""
    spare = Machine(FIRST, tmp_path, ["--upgrades", tmp_path / "upgrades"], name="edge3").ready()
    file = cluster(tmp_path, workers | {"edge3": spare})

    async def work() -> Outcomes:
        assert (await upgrade(file, second())).done
        async with coordinator(plan_of(second()), file) as run:
            await run.change(run.pool_of(run.plan, {"edge1": "edge3"}))
            return await outcomes(run, many(20))

    try:
        assert versions(within(60, work())) == [2] * 20
        assert spare.count("cloven_images_total", outcome="finished") == 20
    finally:
        spare.kill()


def test_a_plan_without_the_standby_that_has_taken_a_place(workers: Machines, tmp_path: Path) -> None:
    """The device, which is back, has its place in the new plan; the standby is not used any more."""
    first = with_standbys(FIRST, tmp_path, ["edge3"])
    spare = Machine(first, tmp_path, ["--upgrades", tmp_path / "upgrades"], name="edge3").ready()
    file = cluster(tmp_path, workers | {"edge3": spare})

    async def work() -> Outcomes:
        assert (await upgrade(file, first)).done
        async with coordinator(plan_of(first), file, SendOptions(deadline=10, follow=True)) as run:
            found = await outcomes(run, many(80), {40: workers["edge1"].kill})
            assert sorted(run.pool.workers) == ["edge0", "edge2", "edge3"]
            workers["edge1"].again()
            await asyncio.to_thread(workers["edge1"].ready)
            found += await outcomes(run, many(80), {40: lambda: moved(run, file, second(), [])})
            assert sorted(run.pool.workers) == ["edge0", "edge1", "edge2"]
            assert [device.device for device in run.health().devices] == ["edge0", "edge1", "edge2"]
            return found

    try:
        answered = versions(within(60, work()))
    finally:
        spare.kill()
    assert answered[:120] == [1] * 120
    assert answered[-1] == 2


def test_a_fallback_is_still_loaded_after_an_upgrade(tmp_path: Path) -> None:
    """The plan that comes back is that of the upgrade, also on the worker that was restarted."""
    other = bundled("lenet5", "pair")  # the first model on edge0 and edge1

    def options(name: str) -> list[object]:
        further = [other / name] if (other / name).is_dir() else []
        return [*further, "--upgrades", tmp_path / "upgrades" / name]

    async def work(workers: Machines) -> Outcomes:
        file = cluster(tmp_path, workers)
        settings = SendOptions(deadline=10, follow=True, fallbacks=(plan_of(other),))
        async with coordinator(plan_of(FIRST), file, settings) as run:
            found = await outcomes(run, many(40), {20: lambda: moved(run, file, second(), [])})
            found += await outcomes(run, many(80), {40: workers["edge2"].kill})
            assert run.current is run.plans[1]
            workers["edge2"].again()
            await until(lambda: run.current is run.plans[0])
            return found + await outcomes(run, many(40))

    with machines(FIRST, tmp_path / "logs", options) as workers:
        answered = versions(within(60, work(workers)))
    assert answered[:20] == [1] * 20
    assert answered[40:80] == [2] * 40
    assert answered[100:120] == [1] * 20
    assert answered[120:] == [2] * 40


def test_a_bundle_for_other_devices(file: Path) -> None:
    """A worker without a part in the plan stays as it is; one plan has edge0 and edge1, the other edge2 too."""
    summary = within(60, upgrade(file, bundled("lenet5", "pair")))
    back = within(60, upgrade(file, None))

    assert [worker.outcome for worker in summary.workers] == ["upgraded", "upgraded", "no part"]
    assert [worker.outcome for worker in back.workers] == ["upgraded", "upgraded", "unchanged"]


# --- the bytes of a bundle ----------------------------------------------------------------------------------------


def offered(manifest: bytes, size: int | None = None) -> bytes:
    name = hashlib.sha256(manifest).hexdigest()
    return UpgradeOffer(cloven=VERSION, plan=name, bytes=size or len(manifest)).encode()


def sent(machine: Machine, messages: list[bytes]) -> list[dict[str, Any]]:
    """Send messages to a worker as an upgrade and end the stream; return its replies."""

    async def work() -> list[dict[str, Any]]:
        replies = []
        async with channel("edge0", machine.address, None, 2**20) as to:
            stream = MessageStream("edge0", to.stream_stream(UPGRADE)())
            with suppress(PartyError):
                for message in messages:
                    await stream.write(message)
                await stream.finish()
            with suppress(PartyError):
                while (reply := await stream.read()) is not None:
                    replies.append(json.loads(reply))
        return replies

    return within(30, work())


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Machine]]:
    """Return the folder of upgrades of a worker, and the worker."""
    place = tmp_path_factory.mktemp("lone")
    machine = Machine(FIRST / "edge0", place, ["--upgrades", place / "upgrades"]).ready()
    try:
        yield place / "upgrades", machine
    finally:
        machine.kill()
        assert not [line for line in machine.lines() if "trace" in line]


def with_files(**files: dict[str, Any]) -> bytes:
    """Return the manifest of the second bundle with other files."""
    manifest = json.loads((second() / MANIFEST).read_text())
    return json.dumps(manifest | {"files": {name.replace("_", "/"): file for name, file in files.items()}}).encode()


FILE = {"sha256": "0" * 64, "bytes": 4}

WRONG = {
    "another hash": ([offered(b"{}"), b"[]"], "the manifest has the hash 4f53cda18c2b; expected 44136fa355b3"),
    "no manifest": ([offered(b"{}"), b"{}"], "the manifest has format None; this cloven reads 4"),
    "too long": ([offered(b"{}"), b"{}" * 9], "got a chunk of 18 bytes of the manifest; expected 1 to 2"),
    "a huge manifest": ([offered(b"{}").replace(b'"bytes": 2', b'"bytes": 99999999')], "less than or equal to"),
    "left": ([offered(b"{}", 2**20), b"{}"], "left before it had sent the bundle"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_manifest_that_is_wrong(name: str, lone: tuple[Path, Machine]) -> None:
    messages, reason = WRONG[name]
    folder, machine = lone

    assert reason in sent(machine, messages)[-1]["refused"]
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "edge0", "edge0/../../x", "other/x", "manifest.json", "edge0/a\\b"]
)
def test_a_file_outside_of_the_bundle_is_refused(name: str, lone: tuple[Path, Machine]) -> None:
    folder, machine = lone
    manifest = json.loads((second() / MANIFEST).read_text())
    text = json.dumps(manifest | {"files": {name: FILE}}).encode()

    assert "expected files in the folders of the devices" in sent(machine, [offered(text), text])[-1]["refused"]
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([b"abcd"], "edge0/x has the hash 88d4266fd4e6; expected 000000000000"),
        ([b"abcde"], "got a chunk of 5 bytes; expected 1 to 4 bytes of edge0/x"),
        ([b"ab"], "left before it had sent the bundle"),
        ([], "left before it had sent the bundle"),
    ],
)
def test_files_that_differ_from_the_manifest_leave_nothing_behind(
    chunks: list[bytes], reason: str, lone: tuple[Path, Machine]
) -> None:
    folder, machine = lone
    text = with_files(edge0_x=FILE)

    assert reason in sent(machine, [offered(text), text, *chunks])[-1]["refused"]
    assert not list(folder.iterdir())


def test_a_coordinator_that_is_killed_leaves_nothing_behind(lone: tuple[Path, Machine]) -> None:
    folder, machine = lone
    manifest = (second() / MANIFEST).read_bytes()

    async def work() -> None:
        async with channel("edge0", machine.address, None, 2**20) as to:
            stream = MessageStream("edge0", to.stream_stream(UPGRADE)())
            for message in (offered(manifest), manifest, (second() / "edge0" / "part.json").read_bytes()[:100]):
                await stream.write(message)
            await until(lambda: any(folder.iterdir()))
            stream.cancel()
        await until(lambda: not any(folder.iterdir()))

    within(30, work())


def test_sizes_beyond_the_limits_are_refused(lone: tuple[Path, Machine]) -> None:
    _, machine = lone
    huge, negative = with_files(edge0_x=FILE | {"bytes": 2**50}), with_files(edge0_x=FILE | {"bytes": -1})

    assert "expected at most" in sent(machine, [offered(huge), huge])[-1]["refused"]
    assert "is negative" in sent(machine, [offered(negative), negative])[-1]["refused"]


def test_messages_that_are_changed_at_random_leave_nothing_behind(lone: tuple[Path, Machine]) -> None:
    folder, machine = lone
    chance = random.Random(0)
    text = (second() / MANIFEST).read_bytes()
    files = [(second() / name).read_bytes() for name in json.loads(text)["files"] if name.startswith("edge0/")]
    for _ in range(30):
        messages = [bytearray(message) for message in (offered(text), text, *files)]
        hurt = chance.choice(messages)
        hurt[chance.randrange(len(hurt))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            del messages[chance.randrange(len(messages)) :]
        replies = sent(machine, [bytes(message) for message in messages])
        assert not any(reply.get("ready") for reply in replies)
        assert all(reply["refused"].isprintable() for reply in replies if "refused" in reply)
    assert not list(folder.iterdir())


# --- who may send one, and which plans are followed ---------------------------------------------------------------


def test_with_tls_only_the_coordinator_upgrades_and_weaker_protection_is_not_followed(tmp_path: Path) -> None:
    strong = bundled("lenet5", "vertical", "mtls")
    with upgradable(tmp_path, strong, keys()) as made:
        file = cluster(tmp_path, made, keys())

        async def work() -> tuple[str, str]:
            request = ActivateRequest(cloven=VERSION, plan="0" * 64).encode()
            with pytest.raises(ClovenError) as caught:
                await ask("edge0", made["edge0"].address, read(keys() / "edge1", "edge1"), ACTIVATE, request, 10)
            async with coordinator(plan_of(strong), file, SendOptions(follow=True)) as run:
                assert (await upgrade(file, second())).done
                await until(lambda: bool(run.health().upgrade))
                assert versions(await outcomes(run, many(8))) == [1] * 8
                return str(caught.value), run.health().upgrade

        forged, weaker = within(60, work())

    assert "the certificate is of edge1; expected coordinator" in forged
    assert "it protects coordinator-edge0, coordinator-edge1, " in weaker


def test_a_run_that_does_not_follow_keeps_its_plan_and_a_later_run_is_told(file: Path) -> None:

    async def work() -> str:
        async with coordinator(plan_of(FIRST), file) as run:
            assert (await upgrade(file, second())).done
            await until(lambda: bool(run.health().upgrade))
            assert versions(await outcomes(run, many(20))) == [1] * 20
            return run.health().upgrade

    async def later(bundle: Path) -> Outcomes:
        async with coordinator(plan_of(bundle), file) as run:
            return await outcomes(run, many(8))

    assert "see --follow-upgrades" in within(60, work())
    assert versions(within(60, later(second()))) == [2] * 8


def test_a_later_run_of_the_old_plan_is_told_how_to_go_back(file: Path) -> None:
    other = bundled("lenet5", "hybrid")
    assert within(60, upgrade(file, other)).done

    with pytest.raises(ClovenError, match="it was upgraded; use the plan of that upgrade, or go back") as caught:
        within(60, coordinator(plan_of(FIRST), file).__aenter__())
    assert "`cloven upgrade --rollback --cluster FILE`" in str(caught.value)


def test_a_run_that_follows_begins_with_the_plan_of_the_upgrade(file: Path) -> None:
    """A service that is started again need not be given another plan."""
    other = bundled("lenet5", "hybrid")

    async def later() -> Outcomes:
        async with coordinator(plan_of(FIRST), file, SendOptions(follow=True)) as run:
            assert run.plan == plan_of(other)
            found = await outcomes(run, many(8))
            assert (await upgrade(file, None)).done
            await until(lambda: run.plan == plan_of(FIRST))
            return found + await outcomes(run, many(8))

    assert within(60, upgrade(file, other)).done
    assert versions(within(60, later())) == [1] * 16


def test_a_worker_starts_again_with_the_bundle_of_the_last_upgrade(
    workers: Machines, file: Path, place: Path
) -> None:
    """It keeps the bundle before, and drops older ones."""
    third = protected("none", second())
    for bundle in (second(), third):
        assert within(60, upgrade(file, bundle)).done
    names = [hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest() for bundle in (second(), third)]
    assert kept(place, "edge0") == {"active.json", *names}
    for machine in workers.values():
        machine.stop()
        machine.again()
    for machine in workers.values():
        machine.ready()
    summary = within(60, upgrade(file, None))

    assert summary.done
    assert summary.plan == names[0]
    assert [line["given"] for line in workers["edge0"].events("using the bundle of the last upgrade")]


@pytest.mark.parametrize(
    ("before", "after", "links"),
    [
        ("none", "mtls", []),
        ("aes-128-gcm", "ascon-aead128", []),
        ("aes-256-gcm", "aes-128-gcm", ["a-b"]),
        ("mtls", "aes-256-gcm", ["a-b"]),
        ("aes-128-gcm", "mtls", ["a-b"]),
        ("ascon-128", "none", ["a-b"]),
    ],
)
def test_which_protection_is_weaker(before: str, after: str, links: list[str]) -> None:
    one, other = (Protection(default=name) for name in (before, after))  # type: ignore[arg-type]

    assert weakened(one, other, ["a", "b"]) == links
