"""Streams whose other side has not yet said, or proved, who it is."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HalfOpen:
    """A few places for streams that wait for their first messages: each for a time, the newest before the oldest.

    Whoever opens streams and says nothing fills no memory and keeps nobody out: a peer that answers at once loses
    its place only to as many others that come within the time of its answer.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self.places, self.seconds = places, seconds
        self._waiting: deque[asyncio.Timeout] = deque()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait in a place.

        Raises:
            TimeoutError: when the time is up, or a newer stream has taken the place.
        """
        async with asyncio.timeout(self.seconds) as place:
            while len(self._waiting) >= self.places:
                oldest = self._waiting.popleft()
                if not oldest.expired():
                    oldest.reschedule(0)
            self._waiting.append(place)
            try:
                yield
            finally:
                if place in self._waiting:
                    self._waiting.remove(place)
