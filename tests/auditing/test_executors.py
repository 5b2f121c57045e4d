"""Executors: what they share is sent once and checked, and a cell that fails or kills its process fails alone."""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cloven.attacks.knowledge import Knowledge, Reconstructor
from cloven.attacks.nearest import Nearest
from cloven.auditing import ray_executor
from cloven.auditing.cell import Cell, Outcome, attacks
from cloven.auditing.classifier import WholeModel
from cloven.auditing.executor import AuditCells, AuditSteps, Executor, LocalExecutor, Unfinished, run_audits
from cloven.auditing.finding import CellResult
from cloven.auditing.material import ImageSets, Material, prepare
from cloven.auditing.ray_executor import RayCluster
from cloven.auditing.store import Store, opened
from cloven.auditing.summary import Summary
from cloven.progress import no_progress
from tests.auditing.small import small

SUMMARY = cast(Summary, "what an audit returns")


@dataclass(frozen=True)
class Ending:
    """Ends its process, as if it had used too much memory."""

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        os._exit(9)


@dataclass(frozen=True)
class Failing:
    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor:
        raise RuntimeError("out of luck")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "run", {"x": 1}) as store:
        yield store


@pytest.fixture
def shared(store: Store) -> Iterator[Material]:
    made = small()
    images = ImageSets(made.auxiliary, made.victims, made.training)
    with store.shelf() as shelf:
        yield prepare(WholeModel(made.graph), [made.seen(0), made.seen(1)], images, shelf=shelf)


def run(cells: list[Cell], shared: Material, store: Store, executor: Executor) -> dict[str, Unfinished]:
    """Run cells as an audit, and return those without a result."""
    lacking: dict[str, Unfinished] = {}

    def steps() -> AuditSteps:
        lacking.update((yield AuditCells({cell.key(shared): cell for cell in cells}, shared, store)))
        return SUMMARY

    assert list(run_audits({"audit": steps()}, executor, no_progress)) == [("audit", SUMMARY)]
    return lacking


def results(store: Store) -> dict[str, CellResult]:
    """Return the results in a store, without times."""
    cells = {key: store.cell(key) for key in sorted(store.keys())}
    return {
        key: cell.model_copy(update={"wall_seconds": 0.0, "training": None, "tensors": ""})
        for key, cell in cells.items()
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_fails_does_not_stop_the_others(store: Store, shared: Material, jobs: int) -> None:
    made = small()
    cells = [
        Cell(made.seen(0), Failing()),
        *(Cell(made.seen(i), Nearest(), seed) for i in (0, 1) for seed in (0, 1)),
    ]

    lacking = run(cells, shared, store, LocalExecutor(jobs))

    assert [one.failed for one in lacking.values()] == [True]
    assert lacking[cells[0].key(shared)].reason.startswith("Failing: fit failed with RuntimeError: out of luck")
    assert store.keys() == {cell.key(shared) for cell in cells[1:]}


@pytest.mark.parametrize("jobs", [1, 2])
def test_cells_can_be_left_for_a_later_run(store: Store, shared: Material, jobs: int) -> None:
    cells = [Cell(small().seen(i), Nearest(), seed) for i in (0, 1) for seed in (0, 1)]

    left = run(cells, shared, store, LocalExecutor(jobs, later=lambda cell: cell.seed > 0))

    assert left.keys() == {cell.key(shared) for cell in cells if cell.seed > 0}
    assert all(one.later and not one.failed for one in left.values())
    assert store.keys() == {cell.key(shared) for cell in cells if cell.seed == 0}
    assert not run(cells, shared, store, LocalExecutor(jobs))
    assert len(store.keys()) == 4


def test_results_of_equal_cells_are_taken_from_other_stores(
    store: Store, shared: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [Cell(small().seen(0), Nearest(), seed) for seed in (0, 1)]
    with opened(tmp_path / "other", {"x": 2}) as other:
        run(cells[:1], shared, other, LocalExecutor())
    computed: list[int] = []

    def counted(of: Sequence[Cell], material: Material, checkpoints: Path | None) -> list[Outcome]:
        computed.extend(cell.seed for cell in of)
        return attacks(of, material, checkpoints)

    monkeypatch.setattr("cloven.auditing.executor.attacks", counted)
    run(cells, shared, store, LocalExecutor(elsewhere=(other,)))

    assert computed == [1]
    key = cells[0].key(shared)
    assert store.cell(key) == other.cell(key)
    assert store.tensors(key).keys() == other.tensors(key).keys()


def test_a_cell_that_kills_its_process_fails_alone(store: Store, shared: Material) -> None:
    made = small()
    cells = [Cell(made.seen(i), Nearest(), seed) for i in (0, 1) for seed in range(3)]
    cells.insert(1, Cell(made.seen(0), Ending()))

    lacking = run(cells, shared, store, LocalExecutor(2))

    assert list(lacking) == [cells[1].key(shared)]
    assert "a worker process was killed" in lacking[cells[1].key(shared)].reason
    assert store.keys() == {cell.key(shared) for cell in cells} - lacking.keys()


class FakeRay:
    """Has the functions of Ray that the executor uses, in this process; what it stores is pickled."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []
        self.read: Counter[int] = Counter()

    def put(self, value: object) -> int:
        self.objects.append(pickle.dumps(value))
        return len(self.objects) - 1

    def get(self, reference: int) -> Any:
        self.read[reference] += 1
        value = pickle.loads(self.objects[reference])
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
        return value

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def remote(self, **options: object) -> Callable[[Callable[..., Any]], Any]:
        def make(function: Callable[..., Any]) -> Any:
            def call(*arguments: object) -> Any:
                future: Future[Any] = Future()
                future.set_result(function(*pickle.loads(pickle.dumps(arguments))))
                return SimpleNamespace(future=lambda: future)

            return SimpleNamespace(remote=call)

        return make


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    ray_executor._received.cache_clear()
    return fake


def test_findings_on_a_cluster_are_those_of_one_process(
    store: Store, shared: Material, tmp_path: Path, ray: FakeRay
) -> None:
    made = small()
    cells = [Cell(made.seen(i), attack) for i in (0, 1) for attack in (Nearest(), Failing())]
    with opened(tmp_path / "inline", {"x": 1}) as inline:
        failed = run(cells, shared, inline, LocalExecutor())

    lacking = run(cells, shared, store, RayCluster(ray, 0.0))

    assert lacking == failed
    assert results(store) == results(inline)
    stored = len(ray.objects)
    assert max(ray.read.values()) == 1, "a node receives everything once"
    store.tensors(cells[0].key(shared))
    with opened(tmp_path / "again", {"x": 1}) as again:
        cluster = RayCluster(ray, 0.0)
        group = AuditCells({cells[0].key(shared): cells[0]}, shared, again).group(cluster)
        with cluster.sharing(group), cluster.sharing(group):
            pass
    assert len(ray.objects) == 2 * stored + 1, "two groups with the same images store them once"


def test_a_node_with_other_content_or_versions_computes_nothing(
    store: Store, shared: Material, ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small()
    cells = [Cell(made.seen(i), Nearest()) for i in (0, 1)]
    damaged = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", damaged)
    get = damaged.get

    def changed(reference: int) -> Any:
        value = get(reference)
        return value + 1 if isinstance(value, np.ndarray) else value

    monkeypatch.setattr(damaged, "get", changed)

    lacking = run(cells, shared, store, RayCluster(damaged, 0.0))

    assert {one.failed for one in lacking.values()} == {True}
    assert all("does not match its digest" in one.reason for one in lacking.values())

    ray_executor._received.cache_clear()
    monkeypatch.setitem(sys.modules, "ray", ray)
    other = replace(shared, hashes={**shared.hashes, "model": "0" * 64})
    lacking = run([replace(cell, seed=1) for cell in cells], other, store, RayCluster(ray, 0.0))
    assert all("are not those of the model" in one.reason for one in lacking.values())

    ray_executor._received.cache_clear()
    versions = iter([{"cloven": "1", "torch": "2", "numpy": "3"}, {"cloven": "1", "torch": "4", "numpy": "3"}])
    monkeypatch.setattr(ray_executor, "_versions", lambda: next(versions))
    lacking = run([cells[0]], shared, store, RayCluster(ray, 0.0))
    (one,) = lacking.values()
    assert "this node has torch 4, the driver 2; install the same versions" in one.reason
    assert not store.keys()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed; it comes with the extra ray")
def test_nothing_is_lost_and_findings_are_equal_although_two_nodes_are_killed(tmp_path: Path) -> None:
    from benchmarks.studies import lost

    assert lost(tmp_path, 40, 0.5)
