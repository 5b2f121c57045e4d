"""Run cells in this process, or in worker processes with one thread each, and save each finished cell."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloven.attacks.knowledge import MissingKnowledgeError
from cloven.auditing.cell import Cell, attacks
from cloven.auditing.material import Material
from cloven.auditing.memory_limit import Capacity, capacity
from cloven.auditing.store import CELLS, Store
from cloven.errors import ClovenError
from cloven.parallel import side_by_side

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of finished steps and the number of all steps."""


@dataclass(frozen=True)
class Unfinished:
    """The reason why a cell has no result.

    It has ``failed``, or else the attacker lacks knowledge that the attack needs.
    """

    reason: str
    failed: bool = False


def run_missing(
    cells: Mapping[str, Cell],
    material: Material,
    store: Store,
    *,
    jobs: int,
    progress: Progress,
    memory: int | None = None,
) -> dict[str, Unfinished]:
    """Run the cells, given by their keys, that the store does not hold yet; return those without a result.

    A cell that fails does not stop the others. At most ``jobs`` processes run, and fewer if they do not fit the
    limit on ``memory``, in bytes.

    Raises:
        ClovenError: if one cell does not fit that limit.
    """
    finished = store.keys()
    left = [cell for key, cell in cells.items() if key not in finished]
    done = len(cells) - len(left)
    progress("attacking", done, len(cells))
    unfinished: dict[str, Unfinished] = {}
    fits = Capacity(jobs, TOGETHER)
    if memory is not None and left:
        fits = capacity(left, material, limit=memory, most=fits)
    for key, reason in run_cells(left, material, store, jobs=fits.jobs, together=fits.together):
        if reason is not None:
            unfinished[key] = reason
        done += 1
        progress("attacking", done, len(cells))
    return unfinished


Ended = tuple[str, Unfinished | None]
"""The key of a cell, and why it has no result; None if it has one."""


TOGETHER = 16
"""The largest number of attacks that are trained together; all of them are in memory."""


def run_cells(
    cells: Sequence[Cell], material: Material, store: Store, *, jobs: int, together: int = TOGETHER
) -> Iterator[Ended]:
    """Run every cell and save its result; yield each key as the cell ends.

    Where features are computed for each batch, up to ``together`` cells are trained on the same batches.
    """
    units = _units(cells, material, jobs, together)
    if jobs <= 1 or len(units) <= 1:
        for unit in units:
            yield from _finish(unit, material, store)
        return
    for ended in side_by_side(_unit, (units, material, store.folder), len(units), jobs=jobs):
        yield from ended


def _units(cells: Sequence[Cell], material: Material, jobs: int, together: int) -> list[tuple[Cell, ...]]:
    """Return the units of work: single cells, or groups of cells that share the features of each batch."""
    if not material.features.computed:
        return [(cell,) for cell in cells]
    alike: dict[tuple[int, int | None, float | None], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.seed, cell.pairs, cell.attack_seconds), []).append(cell)
    size = min(together, max(1, -(-len(cells) // jobs)))
    return [tuple(group[i : i + size]) for group in alike.values() for i in range(0, len(group), size)]


def _finish(unit: Sequence[Cell], material: Material, store: Store) -> list[Ended]:
    try:
        outcomes = attacks(unit, material, store.folder / CELLS)
    except Exception as error:  # an attack may be the user's own, and raise anything
        if len(unit) > 1:
            return [ended for cell in unit for ended in _finish([cell], material, store)]
        return [(unit[0].key(material), _reason(error))]
    for outcome in outcomes:
        store.save(outcome)
    return [(outcome.result.key, None) for outcome in outcomes]


def _reason(error: Exception) -> Unfinished:
    """Return why a cell has no result; an error without a message for the user has its type and its place."""
    if isinstance(error, ClovenError):
        return Unfinished(str(error), failed=not isinstance(error, MissingKnowledgeError))
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Unfinished(
        f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})", failed=True
    )


def _unit(shared: tuple[Sequence[tuple[Cell, ...]], Material, Path], index: int) -> list[Ended]:
    units, material, folder = shared
    return _finish(units[index], material, Store(folder))
