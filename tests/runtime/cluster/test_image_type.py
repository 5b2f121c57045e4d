"""Images that the coordinator sends as their pixels: equal outputs for a quarter of the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cloven.partition import plan as plans
from cloven.partition.protection import COORDINATOR
from cloven.partition.transform import Transforms
from cloven.runtime.bundle.writer import write
from cloven.runtime.cluster.coordinator import Coordinator, PartyReport, Prediction
from cloven.runtime.cluster.errors import FrameFailed, ImageRefused
from cloven.runtime.unit_images import unit
from tests.runtime.cluster.machines import cluster, coordinator, machines, outcomes, within
from tests.runtime.cluster.plans import SHAPES, alone, bundled, graph, images, plan


def test_workers_answer_pixels_as_they_do_numbers(tmp_path: Path) -> None:
    made = plan("lenet5", "pair").model_copy(update={"transform": Transforms(image="uint8")})
    bundle = tmp_path / "bundle"
    write(plans.compile(graph("lenet5"), made), bundle, model="lenet5", plan=made.toml())
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPES["lenet5"]), dtype=np.uint8)
    other = images("lenet5", 1)

    async def run(to: Coordinator) -> tuple[list[Prediction | FrameFailed], dict[str, PartyReport]]:
        async with to:
            return await outcomes(to, [*unit(pixels), *pixels, *other]), await to.reports()

    with machines(bundle, tmp_path / "workers") as workers:
        found, reports = within(60, run(coordinator(made, cluster(tmp_path, workers))))

    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    assert np.array_equal(outputs, np.tile(alone(bundle, unit(pixels)), (2, 1)))
    assert reports[COORDINATOR].report.bytes["edge0"] == 2 * pixels.nbytes
    (refused,) = (answer for answer in found if isinstance(answer, FrameFailed))
    assert isinstance(refused, ImageRefused)
    assert str(refused).startswith("coordinator: the image has numbers other than 0/255")


def test_pixels_are_scaled_for_a_plan_that_sends_numbers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *SHAPES["lenet5"]), dtype=np.uint8)
    bundle = bundled("lenet5", "pair")

    async def run(to: Coordinator) -> list[Prediction | FrameFailed]:
        async with to:
            return await outcomes(to, pixels)

    with machines(bundle, tmp_path / "workers") as workers:
        found = within(60, run(coordinator(plan("lenet5", "pair"), cluster(tmp_path, workers))))

    outputs = np.stack([answer.output for answer in found if isinstance(answer, Prediction)])
    assert np.array_equal(outputs, alone(bundle, unit(pixels)))
