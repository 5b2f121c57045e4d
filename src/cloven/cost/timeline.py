"""A discrete-event simulation of activities that wait for each other and occupy devices or links."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import cycle
from math import frexp, inf, ldexp
from typing import NamedTuple

LONGEST = 20_000
"""The maximum number of activities that are simulated for the rate in the long run."""

DIGITS = 36
"""The binary digits of times in that simulation, after those of the time for one image."""


class Activity(NamedTuple):
    """An activity that takes time.

    Attributes:
        name: the name for messages.
        resource: the device or link that it occupies exclusively.
        seconds: its duration.
        after: the activities that must have ended, by their indices.
        lag: the seconds from the end of the last of these until it can begin, such as the delay of a link.
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

    Args:
        activities: the activities of one image.
        images: the number of images; None for images without end.
        window: the number of images that enter at the start.
    """

    def __init__(self, activities: Sequence[Activity], images: int | None = 1, window: int = 1) -> None:
        self.activities, self.images, self.window = activities, images, window
        self.resources = {name: i for i, name in enumerate(dict.fromkeys(a.resource for a in activities))}
        self.starts: list[float] = []
        self.causes: list[int | None] = []
        self.queues: list[list[tuple[float, bool, int]]] = [[] for _ in self.resources]  # (ready, later, activity)
        self.running: list[int | None] = [None] * len(self.resources)
        self.events: list[tuple[float, int]] = []  # (time, activity that ends then, or that could begin then)

    def timings(self) -> list[Timing]:
        """Return the timings of the activities of the first image, then of the second, and so on.

        Raises:
            ValueError: if activities wait for each other in a cycle.
        """
        deque(self.answers(), maxlen=0)
        if min(self.starts, default=0.0) < 0:
            raise ValueError("some activities wait for each other")
        every = zip(self.starts, cycle(self.activities), self.causes)
        return [Timing(start, start + activity.seconds, cause) for start, activity, cause in every]

    def answers(self) -> Iterator[tuple[int, float]]:
        """Yield the number of answered images and the time, whenever the number grows."""
        count = len(self.activities)
        seconds, later = [a.seconds for a in self.activities], [not a.urgent for a in self.activities]
        resource = [self.resources[a.resource] for a in self.activities]
        needed = [len(set(a.after)) for a in self.activities]
        roots = [index for index, a in enumerate(self.activities) if not a.after]
        # For each activity: the distances of its followers, their resources, whether they go later, their lags.
        followers: list[list[tuple[int, int, bool, float]]] = [[] for _ in self.activities]
        for index, activity in enumerate(self.activities):
            for before in set(activity.after):
                followers[before].append((index - before, resource[index], later[index], activity.lag))
        starts, causes, events = self.starts, self.causes, self.events
        queues, running = self.queues, self.running
        waiting: list[int] = []
        latest: list[int | None] = [None] * len(queues)

        def enter(now: float, cause: int | None) -> None:
            first = len(starts)
            if self.images is None or first < self.images * count:
                starts.extend([-1.0] * count)
                causes.extend([cause] * count)
                waiting.extend(needed)
                for root in roots:
                    ready = now + self.activities[root].lag
                    heappush(queues[resource[root]], (ready, later[root], first + root))
                    heappush(events, (ready, first + root))

        for _ in range(self.window):
            enter(0.0, None)
        answered, last = 0, count - 1
        while events:
            now, known = events[0][0], answered
            free: list[int] = []
            # Process all events of this time before a free resource chooses.
            while events and events[0][0] == now:
                _, index = heappop(events)
                place = index % count
                used = resource[place]
                if running[used] == index:
                    running[used] = None
                    for distance, next_used, is_later, lag in followers[place]:
                        follower = index + distance
                        waiting[follower] -= 1
                        if not waiting[follower]:
                            causes[follower] = index
                            heappush(queues[next_used], (now + lag, is_later, follower))
                            if running[next_used] is None:
                                free.append(next_used)
                    if place == last:
                        answered += 1
                        enter(now, index)
                if queues[used]:
                    free.append(used)
            for used in free:
                if running[used] is not None:
                    continue
                ready, _, index = queues[used][0]
                if ready > now:
                    heappush(events, (ready, index))
                    continue
                heappop(queues[used])
                if now > ready:
                    causes[index] = latest[used]
                starts[index] = now
                running[used] = latest[used] = index
                heappush(events, (now + seconds[index % count], index))
            if answered > known:
                yield answered, now

    def state(self, answered: int, now: float) -> Hashable:
        """Return what runs and waits, relative to the answered images and the time; what follows depends on it."""
        first = answered * len(self.activities)
        return (
            frozenset([(time - now, index - first) for time, index in self.events if index in self.running]),
            frozenset([(time - now, index - first) for queue in self.queues for time, _, index in queue]),
        )


class SteadyRate(NamedTuple):
    """The images per second in the long run; a mean over ``images``, or exact, if the simulation repeats itself."""

    rate: float
    images: int
    repeats: bool


def steady_rate(activities: Sequence[Activity], window: int) -> SteadyRate:
    """Return the rate at which ``window`` images in flight are answered in the long run.

    Once the state of the simulation repeats, so does all that follows: the rate is that of the images between the
    two. If it has not repeated after `LONGEST` activities and four windows, the rate is that of whole windows of
    images in the second half, at most that of the busiest resource.
    """
    rounded = _rounded(activities)
    busiest, most = max(busy(rounded).values()), max(LONGEST // len(rounded), 4 * window)
    timeline, times, seen = Timeline(rounded, None, window), list[float](), dict[Hashable, int]()
    for answered, now in timeline.answers():
        times += [now] * (answered - len(times))
        since = seen.setdefault(timeline.state(answered, now), answered)
        repeats = since < answered
        if not repeats:
            if answered < most:
                continue
            since = answered - answered // 2 // window * window
        images = answered - since
        seconds = max(now - times[since - 1], images * busiest)
        return SteadyRate(images / seconds if seconds else inf, images, repeats)
    raise ValueError("some activities wait for each other")


def _rounded(activities: Sequence[Activity]) -> list[Activity]:
    """Return the activities with times rounded to a multiple of a power of two, so that sums of them are exact."""
    exponent = frexp(sum(activity.seconds + activity.lag for activity in activities))[1] - DIGITS
    unit = ldexp(1.0, exponent)
    return [a._replace(seconds=round(a.seconds / unit) * unit, lag=round(a.lag / unit) * unit) for a in activities]


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
