"""Run cells: in this process, or in worker processes with one thread each. A finished cell is in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cloven.attacks.knowledge import MissingKnowledgeError
from cloven.auditing.cell import Cell, attacks
from cloven.auditing.material import Material
from cloven.auditing.store import CELLS, Store
from cloven.parallel import side_by_side

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and of how much."""


def run_missing(
    cells: Mapping[str, Cell], material: Material, store: Store, *, jobs: int, progress: Progress
) -> dict[str, str]:
    """Attack the cells, by their keys, that the store does not hold yet.

    Return the keys of those whose attacker lacks what the attack needs, each with what that is.
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
"""The key of a cell that was attacked, and what the attacker lacks for the attack, if anything."""


def run_cells(cells: Sequence[Cell], material: Material, store: Store, *, jobs: int) -> Iterator[Ended]:
    """Attack every cell and keep its finding; yields each key as it is finished.

    Where features are computed anew for each batch, cells are trained side by side on the same ones.
    """
    units = _units(cells, material, jobs)
    if jobs <= 1 or len(units) <= 1:
        for unit in units:
            yield from _finish(unit, material, store)
        return
    for ended in side_by_side(_unit, (units, material, store.folder), len(units), jobs=jobs):
        yield from ended


TOGETHER = 16
"""How many attacks are trained side by side, at most: all of them are in memory."""


def _units(cells: Sequence[Cell], material: Material, jobs: int) -> list[tuple[Cell, ...]]:
    """Return what is done at once: a cell, or cells that share what is computed for a batch."""
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
