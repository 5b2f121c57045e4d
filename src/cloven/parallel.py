"""Run work in several processes on this machine, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from cloven.errors import ClovenError

THREADS: Mapping[str, str] = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""The environment of a process; with more threads than cores, work is 5 to 10 times slower."""

Shared = TypeVar("Shared")
Made = TypeVar("Made")


KILLED = (
    "a worker process was killed (out of memory?); finished work is kept: run the same command again, with fewer "
    "--jobs if it happens again"
)


def side_by_side(do: Callable[[Shared, int], Made], shared: Shared, count: int, *, jobs: int) -> Iterator[Made]:
    """Yield the results of ``do(shared, 0)`` to ``do(shared, count - 1)``, each as it is finished.

    The arguments are those of `process_pool`.

    Raises:
        ClovenError: if a process is killed.
    """
    with process_pool(do, shared, jobs=jobs) as submit:
        try:
            for done in as_completed([submit(index) for index in range(count)]):
                yield done.result()
        except BrokenProcessPool as error:
            raise ClovenError(KILLED) from error


@contextmanager
def process_pool(
    do: Callable[[Shared, int], Made], shared: Shared, *, jobs: int
) -> Iterator[Callable[[int], Future[Made]]]:
    """Yield a function that calls ``do(shared, index)`` in another process, and returns the future of its result.

    Processes are started as they are needed. If one is killed, the calls that were submitted fail with
    `BrokenProcessPool`; later ones are computed by new processes.

    Args:
        do: a function of a module, which the new processes import by name.
        shared: data that is sent to each process once; it refers to large data by file.
        jobs: the largest number of processes.
    """

    def started() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(jobs, _context(do.__module__), _start, (do, shared))

    pool = started()

    def submit(index: int) -> Future[Made]:
        nonlocal pool
        with _environment(THREADS), _held_back(signal.SIGINT):  # an interrupt during the start prints a traceback
            try:
                return pool.submit(_work, index)
            except BrokenProcessPool:
                pool = started()
                return pool.submit(_work, index)

    try:
        yield submit
    except (KeyboardInterrupt, GeneratorExit):
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _context(module: str) -> BaseContext:
    """Return the start method: on Linux, a fork server that has imported PyTorch, because the import takes seconds.

    The server starts once, with the current environment, and ends with this process.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module, "torch._dynamo"])  # the second is imported by the first optimiser
    return context


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Block a signal, unless the system cannot block signals, such as Windows."""
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


_here: tuple[Callable[[Any, int], Any], Any] | None = None
"""The function and the shared data that this process was started with."""


def _start(do: Callable[[Any, int], Any], shared: Any) -> None:
    global _here  # the only way to pass data from an initializer
    _here = (do, shared)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(index: int) -> Any:
    assert _here is not None
    do, shared = _here
    return do(shared, index)
