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

from cloven.audit.cell import Cell, attack
from cloven.audit.material import Material
from cloven.audit.store import Store
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

    With more than one job, worker processes are spawned; what they need lies in a file of the store's folder
    while they run.
    """
    if jobs <= 1 or len(cells) <= 1:
        for cell in cells:
            yield _finish(cell, material, store)
        return
    shared = store.folder / ".material.part"
    try:
        yield from _in_processes(cells, material.on_disk(shared), store, min(jobs, len(cells)))
    finally:
        shared.unlink(missing_ok=True)


def _finish(cell: Cell, material: Material, store: Store) -> str:
    finding = attack(cell, material)
    store.save(finding)
    return finding.key


def _in_processes(cells: Sequence[Cell], material: Material, store: Store, jobs: int) -> Iterator[str]:
    with _environment(THREADS):
        pool = ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), _start, (tuple(cells), material, store.folder)
        )
        try:
            with _held_back(signal.SIGINT):  # a process that is interrupted while it is spawned says so at length
                waiting = [pool.submit(_work, index) for index in range(len(cells))]
            for done in as_completed(waiting):
                yield done.result()
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


_here: tuple[tuple[Cell, ...], Material, Store] | None = None
"""What a worker process was started with."""


def _start(cells: tuple[Cell, ...], material: Material, folder: Path) -> None:
    global _here  # an initialiser has no other way to hand things to the work
    _here = (cells, material, Store(folder))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed has nobody to answer to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(index: int) -> str:
    assert _here is not None
    cells, material, store = _here
    return _finish(cells[index], material, store)
