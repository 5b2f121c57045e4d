"""Run cells: in this process, or in worker processes with one thread each. A finished cell is in the store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from cloven.audit.cell import Cell, attacks
from cloven.audit.material import Material
from cloven.audit.store import CELLS, Store
from cloven.errors import ClovenError

THREADS: Mapping[str, str] = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""What a worker process starts with: more threads than cores make each other 5 to 10 times slower."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and of how much."""


def run_missing(
    cells: Mapping[str, Cell], material: Material, store: Store, *, jobs: int, progress: Progress
) -> None:
    """Attack the cells, by their keys, that the store does not hold yet."""
    finished = store.keys()
    left = [cell for key, cell in cells.items() if key not in finished]
    done = len(cells) - len(left)
    progress("attacking", done, len(cells))
    for _ in run_cells(left, material, store, jobs=jobs):
        done += 1
        progress("attacking", done, len(cells))


def run_cells(cells: Sequence[Cell], material: Material, store: Store, *, jobs: int) -> Iterator[str]:
    """Attack every cell and keep its finding; yields each key as it is finished.

    Where features are computed anew for each batch, cells are trained side by side on the same ones.
    """
    units = _units(cells, material, jobs)
    if jobs <= 1 or len(units) <= 1:
        for unit in units:
            yield from _finish(unit, material, store)
        return
    yield from _in_processes(units, material, store, min(jobs, len(units)))


TOGETHER = 16
"""How many attacks are trained side by side, at most: all of them are in memory."""


def _units(cells: Sequence[Cell], material: Material, jobs: int) -> list[tuple[Cell, ...]]:
    """What is done at once: a cell, or cells that share what is computed for a batch."""
    if not material.features.computed:
        return [(cell,) for cell in cells]
    alike: dict[tuple[int, int | None], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.seed, cell.pairs), []).append(cell)
    size = min(TOGETHER, max(1, -(-len(cells) // jobs)))
    return [tuple(group[i : i + size]) for group in alike.values() for i in range(0, len(group), size)]


def _finish(unit: Sequence[Cell], material: Material, store: Store) -> list[str]:
    findings = attacks(unit, material, store.folder / CELLS)
    for finding in findings:
        store.save(finding)
    return [finding.key for finding in findings]


def _in_processes(units: Sequence[tuple[Cell, ...]], material: Material, store: Store, jobs: int) -> Iterator[str]:
    """In worker processes with one thread each; what they need lies in files of the store's folder."""
    with _environment(THREADS):
        pool = ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), _start, (tuple(units), material, store.folder)
        )
        try:
            with _held_back(signal.SIGINT):  # a process that is interrupted while it is spawned says so at length
                waiting = [pool.submit(_work, index) for index in range(len(units))]
            for done in as_completed(waiting):
                yield from done.result()
        except KeyboardInterrupt:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        except BrokenProcessPool as error:
            raise ClovenError(
                "a worker process was killed (out of memory?); finished cells are kept: run the same command "
                "again, with fewer --jobs if it happens again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Let a signal wait; where that cannot be had, as on Windows, it does not."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


_here: tuple[tuple[tuple[Cell, ...], ...], Material, Store] | None = None
"""What a worker process was started with."""


def _start(units: tuple[tuple[Cell, ...], ...], material: Material, folder: Path) -> None:
    global _here  # an initialiser has no other way to hand things to the work
    _here = (units, material, Store(folder))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed has nobody to answer to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(index: int) -> list[str]:
    assert _here is not None
    units, material, store = _here
    return _finish(units[index], material, store)
