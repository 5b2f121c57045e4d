"""Streams whose peer has not been identified yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class HalfOpen:
    """Limits the streams that wait for their first message; at the limit, a new stream replaces the oldest.

    A client that opens streams and sends nothing can neither fill the memory nor keep others out: a peer that
    answers at once loses its place only if that many other streams arrive before its answer.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self.places, self.seconds = places, seconds
        self._waiting: deque[asyncio.Timeout] = deque()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for the duration of the context.

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
