"""Audits of images, captures and captured tensors that are large: the numbers are those of small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch import Generator, Tensor

import cloven
from cloven import rows
from cloven.attacks import Attack, Augmented, Knowledge, Nearest, Probe, Reconstructor, Screen
from cloven.auditing.results import Results
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.partition.transform import Transform, Transforms
from cloven.partition.vertical import Vertical
from cloven.row_files import StoredArray
from cloven.zoo import images as zoo_images
from cloven.zoo.images import Images, new_pixels, put_pixels
from tests.auditing.small import Small, small

ATTACKS = [Screen(epochs=1), Nearest(), Probe(), Augmented(Screen(epochs=1), copies=2)]


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every set of images and every captured tensor be large."""
    monkeypatch.setattr(zoo_images, "LARGE", 1)
    monkeypatch.setattr(rows, "IN_MEMORY", 0)


def in_a_file(images: Images) -> Images:
    pixels = put_pixels(new_pixels(len(images), images.shape), images.array)
    assert isinstance(pixels, StoredArray)
    return Images(images.name, pixels, images.labels, images.classes, images.sources)


def numbers(results: Results) -> dict[str, Any]:
    """Return everything that is saved of each cell, by its key, except for times."""
    found = {}
    for key in results.store.keys():  # noqa: SIM118 - not a mapping
        cell = results.store.cell(key).model_dump(exclude={"wall_seconds": True, "training": {"seconds"}})
        found[key] = cell | {name: t.tolist() for name, t in results.store.tensors(key).items()}
    return found


def audited(made: Small, program: Program, attacks: Sequence[Attack], change: Callable[[Images], Images]) -> Any:
    """Return the numbers of an audit of the first link."""
    seen = cloven.observe(program, links=["edge0->edge1"])
    sets = {"auxiliary": made.auxiliary, "victims": made.victims, "domain": made.training}
    images: dict[str, Any] = {name: change(each) for name, each in sets.items()}
    return numbers(cloven.audit(seen, attacks, **images))


def test_an_audit_of_large_sets_finds_the_numbers_of_small_ones(request: pytest.FixtureRequest) -> None:
    made = small()
    expected = audited(made, made.program, ATTACKS, lambda images: images)

    request.getfixturevalue("in_files")

    assert audited(made, made.program, ATTACKS, in_a_file) == expected


def test_so_does_one_of_links_that_transform_what_they_carry(request: pytest.FixtureRequest) -> None:
    made = small()
    transform = Transforms(default=Transform.parse("int8"))
    plan = Plan(strategy=Vertical(("conv1",)), devices=("edge0", "edge1"), transform=transform)
    program = cloven.compile(made.graph, plan)
    expected = audited(made, program, [Screen(epochs=1)], lambda images: images)

    request.getfixturevalue("in_files")

    assert audited(made, program, [Screen(epochs=1)], in_a_file) == expected


@pytest.mark.usefixtures("in_files")
def test_worker_processes_read_the_same_files() -> None:
    made = small()
    seen = cloven.observe(made.program, links=["edge0->edge1"])
    images: dict[str, Any] = {"auxiliary": in_a_file(made.auxiliary), "victims": in_a_file(made.victims)}

    alone, together = (cloven.audit(seen, [Screen(epochs=1), Probe()], **images, jobs=jobs) for jobs in (1, 2))

    assert numbers(alone) == numbers(together)


@pytest.mark.usefixtures("in_files")
def test_an_attack_that_defines_only_fit_gets_its_images_in_memory() -> None:
    made = small()

    class Mean:
        def fit(self, knowledge: Knowledge, *, generator: Generator, device: str) -> Reconstructor:
            assert isinstance(knowledge.auxiliary, Tensor)
            mean = knowledge.auxiliary.mean(0)
            return lambda captured: mean.expand(len(captured[0]), *mean.shape)

    own, victims = in_a_file(made.auxiliary), in_a_file(made.victims)
    results = cloven.audit(made.seen(), Mean(), auxiliary=own, victims=victims)

    assert results.findings[0].ssim is not None
