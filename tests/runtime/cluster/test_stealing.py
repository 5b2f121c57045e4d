"""Workers that take any task: exact results, more work for faster workers, and what happens if one is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.partition.protection import Protection
from cloven.runtime.bundle.task_graph import AssembledBox, TaskGraph
from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.task_pool import TaskPool
from cloven.runtime.cluster.task_record import TaskRecord
from cloven.runtime.cluster.worker import load
from cloven.runtime.link.identity import read
from tests.runtime.cluster.machines import (
    Outcomes,
    cluster,
    coordinator,
    equals,
    machines,
    outcomes,
    send,
    with_keys,
    within,
)
from tests.runtime.cluster.plans import PROTECTIONS, alone, bundled, images, keys, plan_of, with_standbys

STEAL = SendOptions(steal=True)


def record(run: Coordinator) -> TaskRecord:
    assert isinstance(run.pool, TaskPool)
    return run.pool.record()


def recorded(bundle: Path, file: Path, count: int, options: SendOptions = STEAL) -> tuple[Outcomes, TaskRecord]:
    """Send images, and return the outcomes and the record of the run."""

    async def everything() -> tuple[Outcomes, TaskRecord]:
        async with coordinator(plan_of(bundle), file, options) as run:
            return await outcomes(run, images("lenet5", count)), record(run)

    return within(60, everything())


def exact(bundle: Path, found: Outcomes) -> None:
    """Check that each image has the output of the bundle in one process."""
    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    assert np.array_equal(outputs, alone(bundle, images("lenet5", len(found))))


@pytest.mark.parametrize(
    ("strategy", "protection"),
    [("grid", "none"), ("hybrid", "aes-256-gcm"), ("rows", "mtls")],
)
def test_any_worker_computes_any_task_and_the_outputs_are_exact(
    strategy: str, protection: str, tmp_path: Path
) -> None:
    assert protection in PROTECTIONS
    bundle, keyed = bundled("lenet5", strategy, protection), keys() if protection != "none" else None
    with equals(bundle, tmp_path, ["edge2", "edge3"], with_keys(keyed) if keyed else lambda _: ()) as made:
        found, tasks = recorded(bundle, cluster(tmp_path, made, keyed), 12)

    exact(bundle, found)
    once = Counter((one.image, one.task) for one in tasks.given)
    assert set(once) == {(image, task) for image in range(12) for task in range(len(tasks.tasks))}
    assert set(once.values()) == {1}
    assert {one.worker for one in tasks.given} == {"edge2", "edge3"}


def test_a_standby_takes_tasks_from_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cloven")
    bundle = with_standbys(bundled("lenet5", "grid"), tmp_path, ["edge4"])
    with equals(bundle, tmp_path, ["edge0", "edge4"]) as made:
        found, tasks = recorded(bundle, cluster(tmp_path, made), 12)

    exact(bundle, found)
    assert {one.worker for one in tasks.given} == {"edge0", "edge4"}
    assert "standbys take tasks from the start, if they are in the cluster file: edge4" in caplog.text


def test_a_slow_worker_takes_fewer_tasks(tmp_path: Path) -> None:
    bundle = bundled("lenet5", "grid")
    speeds = {"fast": 1.0, "slow": 0.002}
    with equals(bundle, tmp_path, list(speeds), lambda name: ("--speed", speeds[name])) as made:
        file = cluster(tmp_path, made)
        send(bundle, file, images("lenet5", 12), STEAL)  # the slow worker measures its tasks first
        found, tasks = recorded(bundle, file, 40)

    exact(bundle, found)
    counts = {row.worker: row.answered for row in tasks.workers()}
    assert counts["fast"] > 2 * counts["slow"] > 0


def test_tasks_of_a_lost_worker_go_to_the_others_and_no_image_fails(tmp_path: Path) -> None:
    bundle = bundled("lenet5", "grid")
    with equals(bundle, tmp_path, ["edge0", "edge1"], lambda _: ("--speed", 0.02)) as made:
        file, given = cluster(tmp_path, made), images("lenet5", 30)

        async def run() -> tuple[Outcomes, TaskRecord]:
            async with coordinator(plan_of(bundle), file, STEAL) as run:
                found = await outcomes(run, given, {5: made["edge1"].kill})
                made["edge1"].again()
                await all_workers(run)
                found += await outcomes(run, given[:10])
                return found, record(run)

        found, tasks = within(60, run())

    assert [outcome for outcome in found if not isinstance(outcome, Prediction)] == []
    exact(bundle, found[:30])
    lost = [one for one in tasks.given if not one.answered]
    assert lost
    assert {one.worker for one in lost} == {"edge1"}
    answered = Counter((one.image, one.task) for one in tasks.given if one.answered)
    assert answered == Counter((image, task) for image in range(40) for task in range(len(tasks.tasks)))
    assert "edge1" in {one.worker for one in tasks.given if one.image >= 30}, "it takes tasks once it is back"


async def all_workers(run: Coordinator) -> None:
    """Wait until all workers are up."""
    while run.pool.troubles():
        await asyncio.sleep(0.05)


@pytest.mark.slow
def test_tasks_of_a_worker_that_hangs_go_to_the_others(tmp_path: Path) -> None:
    bundle = bundled("lenet5", "grid")
    with equals(bundle, tmp_path, ["edge0", "edge1"]) as made:
        file = cluster(tmp_path, made)

        async def run() -> Outcomes:
            async with coordinator(plan_of(bundle), file, STEAL) as run:
                return await outcomes(run, images("lenet5", 30), {5: made["edge1"].pause})

        found = within(60, run())
        made["edge1"].resume()

    exact(bundle, found)


@pytest.mark.slow
def test_without_any_worker_images_fail_with_the_reason_or_wait_for_one(tmp_path: Path) -> None:
    bundle = bundled("lenet5", "grid")
    with equals(bundle, tmp_path, ["edge0", "edge1"]) as made:
        file = cluster(tmp_path, made)

        def kill() -> None:
            for machine in made.values():
                machine.kill()

        async def run(options: SendOptions, *, back: bool) -> Outcomes:
            async with coordinator(plan_of(bundle), file, options) as run:

                def lose() -> None:
                    kill()
                    if back:
                        made["edge0"].again()

                return await outcomes(run, images("lenet5", 30), {5: lose})

        found = within(60, run(STEAL, back=False))
        failed = [outcome for outcome in found if isinstance(outcome, FrameFailed)]
        assert failed
        assert {outcome.device or outcome.link for outcome in failed} <= {
            "edge0", "edge1", ("coordinator", "edge0"), ("coordinator", "edge1"),
        }  # fmt: skip

        for machine in made.values():
            machine.again()
            machine.ready()
        exact(bundle, within(90, run(SendOptions(steal=True, retry=60), back=True)))


def test_a_task_that_fails_fails_its_image_and_names_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundled("lenet5", "grid")
    with equals(bundle, tmp_path, ["edge0", "edge1"]) as made:
        file, wrong = cluster(tmp_path, made), iter([True])
        assembled = TaskGraph.assembled

        def short(self: TaskGraph, given: AssembledBox, held: Any) -> Any:
            return assembled(self, given, held)[:, :, 1:] if next(wrong, False) else assembled(self, given, held)

        monkeypatch.setattr(TaskGraph, "assembled", short)
        found, _ = recorded(bundle, file, 6)

    (failed,) = (outcome for outcome in found if isinstance(outcome, FrameFailed))
    assert failed.link == ("coordinator", "edge0")
    assert "message 0 has" in failed.reason
    assert sum(isinstance(outcome, Prediction) for outcome in found) == 5


def refused(bundle: Path, file: Path) -> str:
    with pytest.raises(ClovenError) as error:
        send(bundle, file, images("lenet5", 1), STEAL)
    return str(error.value)


def test_bad_clusters_are_refused_with_what_to_do(tmp_path: Path) -> None:
    bundle = bundled("lenet5", "grid")
    with equals(bundle, tmp_path / "whole", ["edge0"]) as whole, machines(bundle, tmp_path / "parts") as parts:
        one_part = cluster(tmp_path, {"edge0": whole["edge0"], "edge1": parts["edge1"]})
        assert "edge1" in (said := refused(bundle, one_part))
        assert "start it with `cloven worker BUNDLE --name edge1`" in said

        misnamed = cluster(tmp_path, {"edge3": whole["edge0"]})
        assert "is the worker of edge0; expected edge3: correct the cluster file" in refused(bundle, misnamed)

        many = "".join(f'more{i} = "127.0.0.1:{7000 + i}"\n' for i in range(5))
        (tmp_path / "many.toml").write_text(f"[devices]\n{many}")
        assert "the plan has 4 devices and the cluster 5 workers" in refused(bundle, tmp_path / "many.toml")

        (tmp_path / "no.toml").write_text('[devices]\nedge0 = "127.0.0.1:7001"\n[devices.edge1]\ntrusted = true\n')
        assert "the address of edge1 is missing" in refused(bundle, tmp_path / "no.toml")

        other = bundled("lenet5", "tiles")
        assert "has the bundle of another plan" in refused(other, cluster(tmp_path, whole))


def test_different_protections_of_links_are_refused_by_both_ends(tmp_path: Path) -> None:
    mixed = Protection(default="aes-128-gcm", links={"edge0-edge1": "none"})
    bundle = bundled("lenet5", "grid", mixed)
    with equals(bundle, tmp_path, ["edge0", "edge1"], with_keys(keys())) as made:
        said = refused(bundle, cluster(tmp_path, made, keys()))
    assert "the plan protects edge0-edge1 with another cipher than aes-128-gcm" in said
    assert "remove protection.links" in said

    one = read(keys() / "edge0")
    with pytest.raises(ClovenError, match=r"remove protection\.links"):
        load(bundle, one).tasks.link("run", "edge0", one)  # type: ignore[union-attr]


def test_the_record_says_how_much_of_each_image_a_worker_received(tmp_path: Path) -> None:
    bundle = bundled("lenet5", "grid")
    with equals(bundle, tmp_path, ["edge0", "edge1"]) as made:
        _, tasks = recorded(bundle, cluster(tmp_path, made), 8)

    height, width = tasks.image[1:]
    for row in tasks.workers():
        shares = []
        for numbers in tasks.received()[row.worker].values():
            seen = np.zeros((height, width), bool)
            for number in numbers:
                for _, rows, columns in tasks.tasks[number].image:
                    seen[slice(*rows), slice(*columns)] = True
            shares.append(seen.mean())
        assert row.images == len(shares)
        assert row.mean_pixels == pytest.approx(np.mean(shares), abs=1e-4)
        assert row.most_pixels == pytest.approx(max(shares), abs=1e-4)
        assert sum(row.devices.values()) == row.tasks
