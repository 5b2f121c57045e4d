"""A discrete-event simulation of activities that wait for each other and occupy devices or links."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple


@dataclass(frozen=True)
class Activity:
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
    the lower index. A running activity is not interrupted. The last activity of an image is its answer. The first
    activity of each image waits for the answer of the image that is ``window`` images before.
    """

    def __init__(self, activities: Sequence[Activity], images: int = 1, window: int = 1) -> None:
        self.activities, self.images, self.window = activities, images, window
        total = images * len(activities)
        self.starts, self.ends = [-1.0] * total, [0.0] * total
        self.causes: list[int | None] = [None] * total

    def timings(self) -> list[Timing]:
        """Return the timings of the activities of the first image, then of the second, and so on.

        Raises:
            ValueError: if activities wait for each other in a cycle.
        """
        deque(self.answers(), maxlen=0)
        if min(self.starts, default=0.0) < 0:
            raise ValueError("some activities wait for each other")
        return list(map(Timing, self.starts, self.ends, self.causes))

    def answers(self) -> Iterator[float]:
        """Yield the time of each answer, in order."""
        images, count, total = self.images, len(self.activities), len(self.starts)
        seconds, lag = [a.seconds for a in self.activities] * images, [a.lag for a in self.activities] * images
        resources = {name: number for number, name in enumerate(dict.fromkeys(a.resource for a in self.activities))}
        resource = [resources[a.resource] for a in self.activities] * images
        later = [not a.urgent for a in self.activities] * images
        waiting = [len(set(a.after)) for a in self.activities] * images
        followers: list[list[int]] = [[] for _ in self.activities]
        for index, activity in enumerate(self.activities):
            for before in set(activity.after):
                followers[before].append(index)
        followers[-1].append(self.window * count)
        for first in range(self.window * count, total, count):
            waiting[first] += 1
        starts, ends, causes, ready = self.starts, self.ends, self.causes, list(lag)
        queues: list[list[tuple[float, bool, int]]] = [[] for _ in resources]
        current, free = [0] * len(resources), [0.0] * len(resources)
        events = [(ready[index], index, False) for index, number in enumerate(waiting) if not number]
        heapify(events)  # (time, activity, whether it ends then; else it is ready)
        while events:
            now = events[0][0]
            touched: dict[int, None] = {}
            # Process all events of this time before a free resource chooses.
            while events and events[0][0] == now:
                _, index, ended = heappop(events)
                touched[resource[index]] = None
                if not ended:
                    heappush(queues[resource[index]], (now, later[index], index))
                    continue
                place = index % count
                if place == count - 1:
                    yield now
                for follower in followers[place]:
                    follower += index - place
                    if follower >= total:
                        continue
                    waiting[follower] -= 1
                    if waiting[follower]:
                        continue
                    causes[follower], ready[follower] = index, now + lag[follower]
                    if ready[follower] > now:
                        heappush(events, (ready[follower], follower, False))
                    else:
                        heappush(queues[resource[follower]], (now, later[follower], follower))
                        touched[resource[follower]] = None
            for used in touched:
                if queues[used] and free[used] <= now:
                    index = heappop(queues[used])[-1]
                    if now > ready[index]:
                        causes[index] = current[used]
                    starts[index], ends[index] = now, now + seconds[index]
                    current[used], free[used] = index, ends[index]
                    heappush(events, (ends[index], index, True))


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
