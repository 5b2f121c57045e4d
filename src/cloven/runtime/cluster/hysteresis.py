"""When to go back to an earlier plan, so that a worker that comes and goes does not move the run back and forth."""

from __future__ import annotations

SHORTEST, LONGEST = 2.0, 60.0
"""Seconds for which the workers of an earlier plan must have been up before it is used again."""


class Hysteresis:
    """Says when a return is due: once it has been possible for a while.

    The while is ``SHORTEST``, and twice as long after each return within ``LONGEST`` seconds of the last one,
    whether that failed or did not last.
    """

    def __init__(self) -> None:
        self._wait = SHORTEST
        self._since: float | None = None
        self._last: float | None = None

    def due(self, now: float, *, possible: bool) -> bool:
        """Return whether to go back now.

        Args:
            now: the time, in seconds of any clock that does not go back.
            possible: whether all workers of an earlier plan are up.
        """
        if not possible:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if self._last is not None and now - self._last > LONGEST + self._wait:
            self._wait = SHORTEST
        if now - self._since < self._wait:
            return False
        self._wait, self._last, self._since = min(2 * self._wait, LONGEST), now, None
        return True
