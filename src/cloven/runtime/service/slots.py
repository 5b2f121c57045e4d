"""Reserve the service for one user at a time.

In Mehrafrooz et al. (2025, section 4), a user reserves a time slot, in which the system serves nobody else.

    POST   /slot   reserve the service, or a place in the queue -> a token
    GET    /slot   the state of the reservation; a user in the queue must ask at least every `PATIENCE` seconds
    DELETE /slot   give the reservation back

The token is sent as ``Authorization: Bearer TOKEN``, also with each picture.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Literal

from pydantic import BaseModel, Field

from cloven.runtime.service.contract import RequestRefused

PATIENCE = 30.0
"""Seconds after which a user in the queue who has not asked for the state loses the place."""
SCHEME = "bearer"
BOOK = "reserve the service with POST /slot, and send its token as 'Authorization: Bearer TOKEN'"


class Slot(BaseModel):
    """A reservation of the service."""

    token: str
    state: Literal["held", "waiting"]
    ahead: int = Field(description="The number of users before this one: the one being served, and the queue")
    seconds: float = Field(
        description="Seconds until a held slot ends, or until a waiting one begins at the latest"
    )


@dataclass(eq=False)
class _Reservation:
    token: str
    asked: float
    ends: float | None = None  # None while it waits


class Slots:
    """The reservations of the service: one user is served, and others wait in a queue.

    Args:
        seconds: the duration of a slot. A picture that was sent in time is still answered.
        queue: the maximum number of users who wait.
        clock: returns the time in seconds.
    """

    def __init__(self, seconds: float, queue: int = 16, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._queue, self._clock = seconds, queue, clock
        self._every: list[_Reservation] = []  # the first one is served

    def reserve(self) -> Slot:
        """Return a new reservation, which is held if nobody else holds one.

        Raises:
            RequestRefused: if the queue is full (429).
        """
        self._update()
        if len(self._every) > self._queue:
            raise RequestRefused(429, f"{self._queue} users are waiting already; try again later")
        self._every.append(_Reservation(secrets.token_urlsafe(24), self._clock()))
        self._update()
        return self._slot(len(self._every) - 1)

    def state(self, authorization: str | None) -> Slot:
        """Return the state of a reservation.

        Raises:
            RequestRefused: if there is no token, or if its reservation has ended (401).
        """
        place = self._place(authorization)
        self._every[place].asked = self._clock()
        return self._slot(place)

    def release(self, authorization: str | None) -> None:
        """End a reservation; the next user is served.

        Raises:
            RequestRefused: as in `state`.
        """
        place = self._place(authorization)
        del self._every[place]

    def admit(self, authorization: str | None) -> None:
        """Refuse a request unless its user holds the slot.

        Raises:
            RequestRefused: as in `state`; or if another user holds the slot (423).
        """
        if place := self._place(authorization):
            raise RequestRefused(423, f"another user holds the slot; users before you: {place}")

    def _update(self) -> None:
        """Remove the reservations that have ended, and let the first of the others hold the slot."""
        now = self._clock()
        self._every = [
            one for one in self._every if (now < one.ends if one.ends is not None else now < one.asked + PATIENCE)
        ]
        if self._every and self._every[0].ends is None:
            self._every[0].ends = now + self._seconds

    def _place(self, authorization: str | None) -> int:
        self._update()
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != SCHEME or not token:
            raise RequestRefused(401, f"the service is reserved for one user at a time; {BOOK}")
        for place, one in enumerate(self._every):
            if compare_digest(one.token.encode(), token.strip().encode()):
                return place
        raise RequestRefused(401, f"this reservation has ended; {BOOK}")

    def _slot(self, place: int) -> Slot:
        """Return the state of the reservation at a place in the list."""
        held = self._every[0].ends
        assert held is not None
        left = held - self._clock() + max(0, place - 1) * self._seconds
        return Slot(
            token=self._every[place].token,
            state="waiting" if place else "held",
            ahead=place,
            seconds=math.ceil(10 * max(left, 0.0)) / 10,
        )
