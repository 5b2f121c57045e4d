"""Images that a worker computes together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.runtime.bundle.engine import Array
from cloven.runtime.bundle.schedule import Job
from cloven.runtime.cluster import sending
from cloven.runtime.cluster.batches import Batches, Computed
from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.send_options import SendOptions
from tests.runtime.cluster.machines import Outcomes, cluster, coordinator, machines, outcomes, within
from tests.runtime.cluster.plans import alone, bundled, images, plan

FIRST, SECOND = Job(0, "first.onnx", (), ()), Job(1, "second.onnx", (), ())


def picture(number: float) -> dict[str, Array]:
    return {"x": np.full((1, 2), number, np.float32)}


class Computer:
    """Doubles its inputs once the gate is open, and keeps the images of each batch; 13 cannot be computed."""

    def __init__(self) -> None:
        self.gate, self.batches = asyncio.Event(), list[tuple[int, list[float]]]()

    async def compute(self, job: Job, inputs: dict[str, Array]) -> Computed:
        self.batches.append((job.step, inputs["x"][:, 0].tolist()))
        await self.gate.wait()
        if 13 in inputs["x"]:
            raise ValueError("13")
        made: Mapping[str, Array] = {"y": 2 * inputs["x"]}
        return made, 1.0


def test_images_that_wait_for_the_same_segment_are_computed_together() -> None:
    async def run() -> tuple[list[tuple[int, list[float]]], list[Computed]]:
        computer = Computer()
        batches = Batches(computer.compute, 3)
        wanted = [(FIRST, 0), (FIRST, 1), (SECOND, 2), (FIRST, 3), (FIRST, 4), (FIRST, 5)]
        tasks = [asyncio.create_task(batches.run(job, picture(number))) for job, number in wanted]
        await asyncio.sleep(0)
        tasks[4].cancel()  # an image that is dropped while it waits
        await asyncio.sleep(0)
        computer.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return computer.batches, [one for one in found if isinstance(one, tuple)]

    computed, found = within(5, run())

    assert computed == [(0, [0, 1, 3]), (1, [2]), (0, [5])]
    assert [made["y"].tolist() for made, _ in found] == [[[2 * n, 2 * n]] for n in (0, 1, 2, 3, 5)]
    assert [seconds for _, seconds in found] == [1 / 3, 1 / 3, 1, 1 / 3, 1]


def test_a_batch_that_fails_does_not_stop_the_next() -> None:
    async def run() -> list[object]:
        computer = Computer()
        computer.gate.set()
        batches = Batches(computer.compute, 1)
        return await asyncio.gather(*(batches.run(FIRST, picture(n)) for n in (13, 1)), return_exceptions=True)

    failed, answered = within(5, run())

    assert isinstance(failed, ValueError)
    assert isinstance(answered, tuple)


@pytest.mark.parametrize("strategy", ["vertical", "rows"])
def test_workers_answer_batches_as_they_do_single_images(strategy: str, tmp_path: Path) -> None:
    given = images("resnet20", 24)

    async def run(to: Coordinator) -> Outcomes:
        async with to:
            return await outcomes(to, given)

    bundle = bundled("resnet20", strategy)
    with machines(bundle, tmp_path / "workers") as workers:
        options = SendOptions(window=16, batch=4)
        found = within(60, run(coordinator(plan("resnet20", strategy), cluster(tmp_path, workers), options)))

    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    np.testing.assert_allclose(outputs, alone(bundle, given), rtol=1e-4, atol=1e-5)


def test_tasks_are_not_computed_in_batches(tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match="--batch cannot be combined with --steal"):
        sending.coordinator(plan("lenet5", "pair"), tmp_path / "cluster.toml", SendOptions(steal=True, batch=2))
