"""Workers that take any task: exact results, more work for faster workers, and what happens if one is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.task_pool import TaskPool
from cloven.runtime.cluster.task_record import TaskRecord
from tests.runtime.cluster.machines import (
    Outcomes,
    cluster,
    coordinator,
    equals,
    outcomes,
    with_keys,
    within,
)
from tests.runtime.cluster.plans import PROTECTIONS, alone, bundled, images, keys, plan_of

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
    [("grid", "none"), ("grid", "ascon-128"), ("rows", "mtls"), ("hybrid", "aes-256-gcm")],
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
