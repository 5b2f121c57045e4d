"""A limit on the memory of an audit: how many cells fit it, and what is refused."""

from __future__ import annotations

import pytest

from cloven.attacks import Probe, Screen
from cloven.auditing import memory_limit
from cloven.auditing.cell import Cell
from cloven.auditing.classifier import WholeModel
from cloven.auditing.material import ImageSets, Material, prepare
from cloven.auditing.memory_limit import Capacity, capacity
from cloven.errors import ClovenError
from cloven.process_memory import Resident
from tests.auditing.small import small

MB = 10**6
MOST = Capacity(jobs=8, together=16)


@pytest.fixture(scope="module")
def material() -> Material:
    made = small()
    return prepare(WholeModel(made.graph), [made.seen()], ImageSets(made.auxiliary, made.victims))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process use 400 MB, and have used 500 MB; a cell needs 1,000 MB, or 1,200 MB with what is spare."""
    needs = {"screen": 1000 * MB, "probe": MB}
    monkeypatch.setattr(memory_limit, "resident", lambda: Resident(400 * MB, 500 * MB, 0))
    monkeypatch.setattr(memory_limit, "_rehearsed", lambda cell, _: needs[cell.attack.name])
    monkeypatch.setattr(memory_limit, "SCORED", 0)


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("limit", "jobs", "together"),
    [
        (1_600, 1, 1),  # this process and one cell in it
        (3_900, 1, 2),  # two processes would be 4,000: this one, the fork server, and twice 400 and 1,200
        (4_000, 2, 1),
        (7_200, 4, 1),
        (100_000, 8, 10),
    ],
)
def test_as_many_cells_run_at_a_time_as_fit(material: Material, limit: int, jobs: int, together: int) -> None:
    cells = [Cell(small().seen(), attack) for attack in (Probe(), Screen(epochs=1))]

    assert capacity(cells, material, limit=limit * MB, most=MOST) == Capacity(jobs, together)


@pytest.mark.usefixtures("used")
def test_a_limit_below_what_one_cell_needs_is_refused_with_the_need(material: Material) -> None:
    cells = [Cell(small().seen(), attack) for attack in (Probe(), Screen(epochs=1))]

    with pytest.raises(ClovenError) as refused:
        capacity(cells, material, limit=1_500 * MB, most=MOST)
    assert str(refused.value) == (
        "--memory is 1.5 GB; this audit needs 1.7 GB: up to 500 MB before its attacks, then 400 MB and for screen "
        "1.2 GB more; allow that much, or leave out this attack or its observations"
    )


def test_what_a_cell_needs_is_measured_and_changes_no_number(material: Material) -> None:
    cell = Cell(small().seen(), Screen(epochs=1))
    key, generator = cell.key(material), cell.generator(material).get_state()

    large = Capacity(jobs=1, together=1)

    assert capacity([cell], material, limit=10**12, most=large) == large
    assert 0 < memory_limit._rehearsed(cell, material) < 10**9
    assert (cell.key(material), cell.generator(material).get_state().tolist()) == (key, generator.tolist())
