"""A discrete-event simulation of activities that wait for each other and occupy devices or links."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import cycle
from math import frexp, inf, ldexp
from typing import NamedTuple

LONGEST = 15_000
"""The maximum number of activities that are simulated for the rate in the long run."""

EXACT, ROUNDED = 60, 36
"""The binary digits of times, after those of the time for one image: more than floats have, and rounded."""

NUMBERS = 28
"""The binary digits of an activity's number. It fits into one digit of a Python integer, and no longer simulation
would fit into memory."""


class Activity(NamedTuple):
    """An activity that takes time.

    Attributes:
        name: the name for messages.
        resource: the device or link that it occupies exclusively.
        seconds: its duration.
        after: the activities that must have ended, by their indices.
        lag: the seconds from its end until those that wait for it can begin, such as the delay of a link.
        urgent: whether it has priority over others that could begin at the same time, as messages do.
    """

    name: str
    resource: str
    seconds: float
    after: tuple[int, ...] = ()
    lag: float = 0.0
    urgent: bool = False


class Timing(NamedTuple):
    """The begin and end of an activity in seconds, and the index of the activity that it waited for last."""

    start: float
    end: float
    cause: int | None


class Timeline:
    """The simulated activities of one image, repeated for several images.

    A resource runs the activity that could begin first; of those at the same time, an urgent one, then the one with
    the lower index. A running activity is not interrupted. The last activity of an image is its answer, after which
    the next image enters: ``window`` images are in flight. No image overtakes another one.

    Times are integers, so that their sums are exact. They are multiples of ``2 ** NUMBERS``: an event is the sum of
    its time and of its activity's number, counted over all images. One integer takes less time to make and to
    compare than a pair.

    Args:
        activities: the activities of one image.
        images: the number of images; None for images without end.
        window: the number of images that enter at the start.
        digits: the binary digits of times, after those of the time for one image.
    """

    def __init__(
        self, activities: Sequence[Activity], images: int | None = 1, window: int = 1, digits: int = EXACT
    ) -> None:
        self.activities, self.images, self.window = activities, images, window
        self.exponent = frexp(sum(activity.seconds + activity.lag for activity in activities))[1] - digits
        self.starts: list[int] = []
        self.causes: list[int | None] = []
        self.events: list[int] = []  # when each activity that began has ended and its lag has passed
        self.answered = self.now = 0

    def timings(self) -> list[Timing]:
        """Return the timings of the activities of the first image, then of the second, and so on.

        Raises:
            ValueError: if activities wait for each other in a cycle.
        """
        deque(self.answers(), maxlen=0)
        if min(self.starts, default=0) < 0:
            raise ValueError("some activities wait for each other")
        every = zip(map(self._seconds, self.starts), cycle(self.activities), self.causes)
        return [Timing(start, start + activity.seconds, cause) for start, activity, cause in every]

    def answers(self) -> Iterator[tuple[int, float]]:
        """Yield the number of answered images and the time, whenever the number grows."""
        count, step = len(self.activities), 1 << NUMBERS
        numbers = step - 1
        resources = {name: i for i, name in enumerate(dict.fromkeys(a.resource for a in self.activities))}
        # For each activity: its resource, its duration, and that with its lag.
        spans: list[tuple[int, int, int]] = []
        for activity in self.activities:
            duration = self._time(activity.seconds)
            span = duration + self._time(activity.lag) if activity.lag else duration
            spans.append((resources[activity.resource], duration, span))
        # Of activities that can begin at the same time, the one with the lowest sum of rank and number is first.
        ranks = [0 if a.urgent else step for a in self.activities]
        roots = [index + ranks[index] for index, a in enumerate(self.activities) if not a.after]
        needed = [len(set(a.after)) for a in self.activities]
        # For each activity: the distances and the ranks of those that wait for it.
        followers: list[list[tuple[int, int]]] = [[] for _ in self.activities]
        for index, activity in enumerate(self.activities):
            for before in set(activity.after):
                followers[before].append((index - before, ranks[index]))
        starts, causes, events = self.starts, self.causes, self.events
        waiting: list[int] = []
        able: list[int] = []
        free = [0] * len(resources)
        latest: list[int | None] = [None] * len(resources)

        def enter(cause: int | None) -> None:
            first = len(starts)
            if self.images is None or first < self.images * count:
                starts.extend([-1] * count)
                causes.extend([cause] * count)
                waiting.extend(needed)
                able.extend([first + root for root in roots])

        for _ in range(self.window):
            enter(None)
        now = answered = 0
        while True:
            able.sort()
            for key in able:
                # What can begin later comes later in the queue of the resource, so the start is known already.
                number = key & numbers
                resource, duration, span = spans[number % count]
                start = free[resource]
                if start > now:
                    causes[number] = latest[resource]
                else:
                    start = now
                starts[number] = start
                free[resource], latest[resource] = start + duration, number
                heappush(events, start + span + number)
            able.clear()
            if answered > self.answered:
                self.answered, self.now = answered, now
                yield answered, self._seconds(now)
            if not events:
                return
            now = events[0] & ~numbers
            end = now + step
            # Process all events of this time before activities begin.
            while events and events[0] < end:
                number = heappop(events) & numbers
                index = number % count
                for distance, rank in followers[index]:
                    follower = number + distance
                    left = waiting[follower] = waiting[follower] - 1
                    if not left:
                        causes[follower] = number
                        able.append(rank + follower)
                if index == count - 1:
                    answered += 1
                    enter(number)

    def state(self) -> Hashable:
        """Return what has begun, relative to the answered images and their time; what follows depends on it."""
        origin = self.now + self.answered * len(self.activities)
        return frozenset([event - origin for event in self.events])

    def _time(self, seconds: float) -> int:
        return round(ldexp(seconds, -self.exponent)) << NUMBERS

    def _seconds(self, time: int) -> float:
        return ldexp(time >> NUMBERS, self.exponent)


class SteadyRate(NamedTuple):
    """The images per second in the long run; a mean over ``images``, or exact, if the simulation repeats itself."""

    rate: float
    images: int
    repeats: bool


def steady_rate(activities: Sequence[Activity], window: int) -> SteadyRate:
    """Return the rate at which ``window`` images in flight are answered in the long run.

    Once the state of the simulation repeats, so does all that follows: the rate is that of the images between the
    two. If it has not repeated after `LONGEST` activities and three windows, the rate is that of whole windows of
    images in the last two thirds, at most that of the busiest resource.
    """
    most = max(LONGEST // len(activities), 3 * window)
    # Rounded, times that differ by the error of a sum of floats are the same.
    timeline, times = Timeline(activities, None, window, ROUNDED), list[float]()
    seen: dict[Hashable, int] = {}
    for answered, now in timeline.answers():
        times += [now] * (answered - len(times))
        since = seen.setdefault(timeline.state(), answered)
        if since < answered:
            seconds = now - times[since - 1]
            return SteadyRate((answered - since) / seconds if seconds else inf, answered - since, repeats=True)
        if answered >= most:
            images = 2 * answered // 3 // window * window
            seconds = max(now - times[-images - 1], images * max(busy(activities).values()))
            return SteadyRate(images / seconds, images, repeats=False)
    raise ValueError("some activities wait for each other")


def busy(activities: Sequence[Activity]) -> dict[str, float]:
    """Return the seconds for which each resource is occupied."""
    found: dict[str, float] = defaultdict(float)
    for activity in activities:
        found[activity.resource] += activity.seconds
    return dict(found)


def critical_path(timings: Sequence[Timing], index: int) -> list[int]:
    """Return the chain of activities, each of which the next one waited for, that ends with an activity."""
    path = [index]
    while (cause := timings[path[-1]].cause) is not None:
        path.append(cause)
    return path[::-1]
