"""A thread that runs one piece of work at a time, the smallest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from queue import PriorityQueue
from typing import Any, TypeVar

Made = TypeVar("Made")


class PriorityWorker:
    """Runs work in one thread in the order of its size, so that a small piece waits for at most one large piece."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "picture")
        self._waiting: PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any]]] = PriorityQueue()
        self._numbers = count()

    async def run(self, size: int, work: Callable[[], Made]) -> Made:
        """Return the result of the work; if cancelled before its turn, the work does not run."""
        made: Future[Made] = Future()
        self._waiting.put((size, next(self._numbers), made, work))
        self._thread.submit(self._smallest)
        return await asyncio.wrap_future(made)

    def _smallest(self) -> None:
        _, _, made, work = self._waiting.get()
        if not made.set_running_or_notify_cancel():
            return
        try:
            made.set_result(work())
        except BaseException as error:
            made.set_exception(error)
