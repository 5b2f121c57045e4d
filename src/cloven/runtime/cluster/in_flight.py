"""The images that a coordinator waits for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cloven.runtime.bundle.engine import Array
from cloven.runtime.cluster.errors import FrameFailed


@dataclass(frozen=True, eq=False)
class Attempt:
    """An image that was sent, or a task of one: the future of its output, and the time of sending (monotonic).

    ``worker`` is the only worker that it was sent to; None if it passes through all of them.
    """

    number: int
    output: asyncio.Future[Array]
    began: float
    worker: str | None = None


class InFlight:
    """The attempts in flight by number; what is sent again gets a new number.

    Attributes:
        late_after: the seconds after which an attempt counts as late; the other argument gives ascending numbers.
        kinds: the number of kinds of attempts; the number of an attempt, modulo this, is its kind.
    """

    def __init__(self, late_after: float, numbers: Iterator[int]) -> None:
        self.late_after = late_after
        self.kinds = 1
        self._numbers = numbers
        self._attempts: dict[int, Attempt] = {}
        self._last = -1
        self._empty = asyncio.Event()
        self._empty.set()

    def __contains__(self, number: int) -> bool:
        return number in self._attempts

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers in flight."""
        return list(self._attempts)

    @property
    def oldest(self) -> int:
        """Return the lowest number in flight, or the next one if there is none."""
        return min(self._attempts, default=self._last + 1)

    @property
    def late(self) -> list[int]:
        """Return the numbers of the late attempts."""
        before = time.monotonic() - self.late_after
        return [number for number, attempt in self._attempts.items() if attempt.began < before]

    def of(self, workers: Collection[str]) -> list[int]:
        """Return the numbers of the attempts that pass through some of these workers."""
        return [number for number in self._attempts if self.passes(number, workers)]

    def passes(self, number: int, workers: Collection[str]) -> bool:
        """Return whether an attempt is in flight and passes through some of these workers."""
        attempt = self._attempts.get(number)
        return attempt is not None and (attempt.worker is None or attempt.worker in workers)

    def begin(self, kind: int = 0, worker: str | None = None) -> Attempt:
        """Add an attempt."""
        self._last = next(self._numbers) * self.kinds + kind
        attempt = Attempt(self._last, asyncio.get_running_loop().create_future(), time.monotonic(), worker)
        self._attempts[attempt.number] = attempt
        self._empty.clear()
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Remove an attempt."""
        del self._attempts[attempt.number]
        if not self._attempts:
            self._empty.set()

    async def wait_until_empty(self) -> None:
        """Wait until no attempt is in flight."""
        await self._empty.wait()

    def answer(self, number: int, output: Array) -> None:
        """Set the output of an attempt that is still in flight."""
        if (attempt := self._waiting(number)) is not None:
            attempt.output.set_result(output)

    def fail(self, number: int, error: FrameFailed) -> None:
        """Fail an attempt that is still in flight."""
        if (attempt := self._waiting(number)) is not None:
            attempt.output.set_exception(error)

    def _waiting(self, number: int) -> Attempt | None:
        attempt = self._attempts.get(number)
        return attempt if attempt is not None and not attempt.output.done() else None
