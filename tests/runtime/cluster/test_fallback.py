"""A fallback answers while a device of the plan is lost; the plan answers again when all of its devices are up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.partition.plan import Plan
from cloven.partition.protection import Protection
from cloven.runtime.cluster.coordinator import Coordinator, Prediction
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.sending import SendOutcome
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
    within,
)
from tests.runtime.cluster.plans import (
    REPEATED,
    accounted,
    alone,
    bundled,
    images,
    keys,
    many,
    plan,
    plan_of,
    whole,
    with_standbys,
)

FIRST = bundled("lenet5", "vertical")  # edge0, edge1, edge2
FALLBACKS = [bundled("lenet5", "rows"), bundled("lenet5", "pair")]  # both: edge0, edge1

Machines = dict[str, Machine]


def folders(name: str) -> Sequence[object]:
    """Return the folders of a worker in the other bundles."""
    return [bundle / name for bundle in FALLBACKS if (bundle / name).is_dir()]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(FIRST, tmp_path_factory.mktemp("workers"), folders) as made:
        yield made


@pytest.fixture
def workers(shared: Machines) -> Iterator[Machines]:
    yield from restored(shared)


def made(workers: Machines, folder: Path, fallbacks: Sequence[Plan] | None = None) -> Coordinator:
    plans = [plan_of(FALLBACKS[0])] if fallbacks is None else fallbacks
    return coordinator(
        plan_of(FIRST), cluster(folder, workers), SendOptions(deadline=20, fallbacks=tuple(plans), follow=True)
    )


@cache
def expected(bundle: Path) -> np.ndarray:
    return alone(bundle, images("lenet5", REPEATED))


def answered(found: Outcomes) -> list[int]:
    """Return which plan answered each image: 0 the plan, 1 and 2 the fallbacks.

    Check that each image is answered once, with the output of the whole model, and of that plan bit for bit.
    """
    bundles = [FIRST, *FALLBACKS]
    plans = [plan_of(bundle) for bundle in bundles]
    outputs = whole("lenet5", images("lenet5", REPEATED))
    which = []
    for i, outcome in enumerate(found):
        assert isinstance(outcome, Prediction), outcome
        which.append(plans.index(outcome.plan))
        assert np.array_equal(outcome.output, expected(bundles[which[-1]])[i % REPEATED])
        assert np.allclose(outcome.output, outputs[i % REPEATED], atol=1e-4)
    assert len({outcome.number for outcome in found if isinstance(outcome, Prediction)}) == len(found)
    return which


async def lost_and_back(run: Coordinator, lose: Event, bring_back: Event) -> Outcomes:
    """Return the outcomes of 200 images, of which a device is lost after 104, and of 80 when it is back."""
    async with run:
        found = await outcomes(run, many(200), {104: lose})
        bring_back()
        await used(run, 0)
        return found + await outcomes(run, many(80))


async def used(run: Coordinator, number: int) -> None:
    """Wait until a run uses a plan."""
    async with asyncio.timeout(20):
        while run.current is not run.plans[number]:
            await asyncio.sleep(0.05)


def test_a_fallback_answers_until_the_lost_device_is_back(
    workers: Machines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cloven")
    run = made(workers, tmp_path)
    states = []

    async def everything() -> Outcomes:
        async with run:
            found = await outcomes(run, many(400), {104: workers["edge2"].kill})
            states.append([plan.state for plan in run.health().plans])
            assert not run.health().upgrade  # although the workers use another bundle for new runs
            workers["edge2"].again()
            await used(run, 0)
            states.append([plan.state for plan in run.health().plans])
            return found + await outcomes(run, many(80))

    found = within(60, everything())
    which = answered(found)
    assert which[:104] == [0] * 104
    assert which[130:400] == [1] * 270
    assert which[400:] == [0] * 80
    assert gap(found[:400]) < 1
    assert states == [["down", "used"], ["used", "ready"]]
    changes = [record.message for record in caplog.records if "changed from" in record.message]
    assert changes == [
        "changed from the plan of edge0, edge1, edge2 to the plan of edge0, edge1: edge2 lost",
        "changed from the plan of edge0, edge1 to the plan of edge0, edge1, edge2: its workers are up again",
    ]
    summary = SendOutcome(tuple(found), 1.0, {}).summary()
    assert [(p.devices, p.images) for p in summary.plans] == [
        (("edge0", "edge1", "edge2"), which.count(0)),
        (("edge0", "edge1"), which.count(1)),
    ]


def test_a_fallback_answers_when_a_device_hangs(workers: Machines, tmp_path: Path) -> None:
    """The device continues later, and the plan is used again."""
    run, lost = made(workers, tmp_path), workers["edge2"]
    found = within(60, lost_and_back(run, lost.pause, lost.resume))
    which = answered(found)
    assert 1 in which[104:200]
    assert which[200:] == [0] * 80
    assert gap(found[:200]) < 3  # 1.6 s on an idle machine


def test_of_several_fallbacks_the_first_one_whose_workers_have_loaded_it_is_used(
    workers: Machines, tmp_path: Path
) -> None:
    unknown = plan("lenet5", "pair").model_copy(update={"reuse": False})
    run = made(workers, tmp_path, [unknown, plan_of(FALLBACKS[1]), plan_of(FALLBACKS[0])])

    async def everything() -> Outcomes:
        async with run:
            found = await outcomes(run, many(200), {104: workers["edge2"].kill})
            health = run.health()
            assert [one.state for one in health.plans] == ["down", "down", "used", "ready"]
            assert "edge0: it has not loaded the bundle of this plan" in health.plans[1].reason
            return found

    assert set(answered(within(60, everything()))) == {0, 2}


@pytest.mark.slow
def test_a_standby_is_preferred_to_a_fallback(tmp_path: Path) -> None:
    first = with_standbys(FIRST, tmp_path, ["edge3"])
    names = ["edge0", "edge1", "edge2", "edge3"]
    with equals(first, tmp_path / "workers", names, lambda _: [FALLBACKS[0]]) as made:
        options = SendOptions(deadline=20, fallbacks=(plan_of(FALLBACKS[0]),))
        run = coordinator(plan_of(first), cluster(tmp_path, made), options)
        used = []

        async def everything() -> Outcomes:
            async with run:
                found = await outcomes(run, many(100), {20: made["edge2"].kill})
                used.append(sorted(run.pool.workers))
                found += await outcomes(run, many(100), {20: made["edge3"].kill})
                used.append(sorted(run.pool.workers))
                return found

        found = within(60, everything())

    assert [type(outcome) for outcome in found] == [Prediction] * 200
    assert used == [["edge0", "edge1", "edge3"], ["edge0", "edge1"]]


def test_without_the_devices_of_the_fallback_the_images_fail_at_once(workers: Machines, tmp_path: Path) -> None:
    run = made(workers, tmp_path)

    async def everything() -> Outcomes:
        async with run:
            return await outcomes(run, many(60), {20: workers["edge0"].kill})

    found = within(15, everything())
    failed = [outcome for outcome in found if not isinstance(outcome, Prediction)]
    assert failed
    assert {failure.device for failure in failed} == {"edge0"}


def test_a_plan_that_is_no_fallback_is_refused_with_all_reasons(workers: Machines, tmp_path: Path) -> None:
    """Nothing is sent."""
    protected = plan_of(FIRST).model_copy(update={"protection": Protection(default="aes-256-gcm")})
    small = plan("resnet20", "pair").model_copy(update={"devices": ("edge0", "edge7")})
    options = SendOptions(fallbacks=(small, plan_of(FALLBACKS[0]), protected, small))
    with pytest.raises(ClovenError) as caught:
        coordinator(protected, cluster(tmp_path, workers), options)

    other = "the fallback of edge0, edge7"
    twice = "is given twice, or is the plan itself; give each plan once"
    refused = [
        f"{other} cannot be used: it takes images of shape (3, 32, 32); expected (1, 28, 28), as the plan",
        f"{other} cannot be used: the cluster file has no address of edge7",
        f"{other} cannot be used: it protects coordinator-edge0, coordinator-edge7, edge0-edge7 less than the "
        "current plan",
        "the fallback of edge0, edge1 cannot be used: it protects coordinator-edge0, coordinator-edge1, "
        "edge0-edge1 less than the current plan",
    ]
    assert str(caught.value).splitlines() == [
        f"the fallback of edge0, edge1, edge2 {twice}",
        f"{other} {twice}",
        *refused,
        *refused[:3],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("protection", ["aes-256-gcm", "mtls"])
def test_protected_links(tmp_path: Path, protection: str) -> None:
    """Both bundles use the keys of the workers."""
    first, other = (bundled("lenet5", strategy, protection) for strategy in ("vertical", "pair"))

    def options(name: str) -> Sequence[object]:
        return [*([other / name] if (other / name).is_dir() else []), "--keys", keys() / name]

    with machines(first, tmp_path / "workers", options) as made:
        settings = SendOptions(deadline=20, fallbacks=(plan_of(other),))
        run = coordinator(plan_of(first), cluster(tmp_path, made, keys()), settings)
        found = within(60, lost_and_back(run, made["edge2"].kill, made["edge2"].again))

    assert not accounted(found)
    assert gap(found[:200]) < 1
