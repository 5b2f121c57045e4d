"""A coordinator moves to other workers while images are in flight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloven.errors import ClovenError
from cloven.runtime.cluster.coordinator import Coordinator
from tests.runtime.cluster.machines import Machine, Outcomes, cluster, coordinator, machines, outcomes, within
from tests.runtime.cluster.plans import accounted, bundled, many, plan_of

BUNDLE = bundled("lenet5", "vertical")

Machines = dict[str, Machine]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Return the workers of a plan of edge0, edge1 and edge2, and edge3, which can take any place."""
    logs = tmp_path_factory.mktemp("workers")
    with machines(BUNDLE, logs) as made:
        spare = Machine(BUNDLE, logs, name="edge3")
        try:
            yield made | {"edge3": spare.ready()}
        finally:
            spare.kill()


@pytest.fixture
def run(workers: Machines, tmp_path: Path) -> Coordinator:
    return coordinator(plan_of(BUNDLE), cluster(tmp_path, workers))


def test_another_worker_takes_a_place_and_gives_it_back(run: Coordinator, workers: Machines) -> None:
    """Each image is answered by workers of one pool, and all images are answered."""
    before = {name: worker.count("cloven_images_total", outcome="finished") for name, worker in workers.items()}

    async def work() -> Outcomes:
        async with run:
            events = {
                100: lambda: run.change(run.pool_of(run.plan, {"edge1": "edge3"})),
                200: lambda: run.change(run.pool_of(run.plan)),
            }
            return await outcomes(run, many(300), events)

    found = within(60, work())

    assert len(found) == 300
    assert not accounted(found)
    done = {n: int(w.count("cloven_images_total", outcome="finished") - before[n]) for n, w in workers.items()}
    assert done["edge0"] == done["edge2"] == done["edge1"] + done["edge3"] == 300
    assert 80 <= done["edge3"] <= 120


def test_workers_that_cannot_take_over_change_nothing(run: Coordinator, workers: Machines) -> None:
    refusals = []

    async def refused(names: dict[str, str]) -> None:
        with pytest.raises(ClovenError) as caught:
            await run.change(run.pool_of(run.plan, names))
        refusals.append(str(caught.value))

    async def work() -> Outcomes:
        async with run:
            return await outcomes(run, many(60), {20: lambda: refused({"edge2": "edge0", "edge0": "edge2"})})

    assert not accounted(within(60, work()))
    assert refusals == [
        "edge2 (ADDRESS2) is the worker of edge2; expected edge0: correct the cluster file\n"
        "edge0 (ADDRESS0) is the worker of edge0; expected edge2: correct the cluster file".replace(
            "ADDRESS2", workers["edge2"].address
        ).replace("ADDRESS0", workers["edge0"].address)
    ]


def test_the_workers_of_a_run_refuse_other_coordinators(
    run: Coordinator, workers: Machines, tmp_path: Path
) -> None:
    other = coordinator(plan_of(BUNDLE), cluster(tmp_path, workers))

    async def work() -> None:
        async with run:
            with pytest.raises(ClovenError, match=f"edge0 .* is busy with run {run.pool.run}"):
                await other.__aenter__()

    within(60, work())
