"""Run cells in this process, or in worker processes with one thread each, and save each finished cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cloven.attacks.knowledge import MissingKnowledgeError
from cloven.auditing.cell import Cell, attacks
from cloven.auditing.material import Material
from cloven.auditing.store import CELLS, Store
from cloven.parallel import side_by_side

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of finished steps and the number of all steps."""


def run_missing(
    cells: Mapping[str, Cell], material: Material, store: Store, *, jobs: int, progress: Progress
) -> dict[str, str]:
    """Run the cells, given by their keys, that the store does not hold yet.

    Return the keys of the cells that could not run because the attack needs knowledge that the attacker lacks, each
    with the error message.
    """
    finished = store.keys()
    left = [cell for key, cell in cells.items() if key not in finished]
    done = len(cells) - len(left)
    progress("attacking", done, len(cells))
    impossible: dict[str, str] = {}
    for key, missing in run_cells(left, material, store, jobs=jobs):
        if missing is not None:
            impossible[key] = missing
        done += 1
        progress("attacking", done, len(cells))
    return impossible


Ended = tuple[str, str | None]
"""The key of a cell, and an error message if the attacker lacks knowledge that the attack needs."""


def run_cells(cells: Sequence[Cell], material: Material, store: Store, *, jobs: int) -> Iterator[Ended]:
    """Run every cell and save its result; yield each key as the cell finishes.

    Where features are computed for each batch, several cells are trained together on the same batches.
    """
    units = _units(cells, material, jobs)
    if jobs <= 1 or len(units) <= 1:
        for unit in units:
            yield from _finish(unit, material, store)
        return
    for ended in side_by_side(_unit, (units, material, store.folder), len(units), jobs=jobs):
        yield from ended


TOGETHER = 16
"""The largest number of attacks that are trained together; all of them are in memory."""


def _units(cells: Sequence[Cell], material: Material, jobs: int) -> list[tuple[Cell, ...]]:
    """Return the units of work: single cells, or groups of cells that share the features of each batch."""
    if not material.features.computed:
        return [(cell,) for cell in cells]
    alike: dict[tuple[int, int | None, float | None], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.seed, cell.pairs, cell.attack_seconds), []).append(cell)
    size = min(TOGETHER, max(1, -(-len(cells) // jobs)))
    return [tuple(group[i : i + size]) for group in alike.values() for i in range(0, len(group), size)]


def _finish(unit: Sequence[Cell], material: Material, store: Store) -> list[Ended]:
    try:
        outcomes = attacks(unit, material, store.folder / CELLS)
    except MissingKnowledgeError as error:
        if len(unit) > 1:
            return [ended for cell in unit for ended in _finish([cell], material, store)]
        return [(unit[0].key(material), str(error))]
    for outcome in outcomes:
        store.save(outcome)
    return [(outcome.result.key, None) for outcome in outcomes]


def _unit(shared: tuple[Sequence[tuple[Cell, ...]], Material, Path], index: int) -> list[Ended]:
    units, material, folder = shared
    return _finish(units[index], material, Store(folder))
