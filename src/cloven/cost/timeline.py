"""A discrete-event simulation of activities that wait for each other and occupy devices or links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple


@dataclass(frozen=True)
class Activity:
    """An activity that takes time.

    Attributes:
        name: the name for messages.
        resource: the device or link that it occupies exclusively; None if it occupies none.
        seconds: its duration.
        after: the activities that must have ended, by their indices.
        lag: the seconds from the end of the last of these until it can begin, such as the delay of a link.
        urgent: whether it has priority over others that could begin at the same time, as messages do.
    """

    name: str
    resource: str | None
    seconds: float
    after: tuple[int, ...] = ()
    lag: float = 0.0
    urgent: bool = False


class Timing(NamedTuple):
    """The begin and end of an activity in seconds, and the index of the activity that it waited for last."""

    start: float
    end: float
    cause: int | None


def simulate(activities: Sequence[Activity], images: int = 1, window: int = 1) -> list[Timing]:
    """Return the timing of each activity for each image: first those of the first image, then of the second, ...

    A resource runs the activity that could begin first; of those at the same time, an urgent one, then the one with
    the lower index. A running activity is not interrupted. The first activity of an image waits for the last one of
    the image that is ``window`` images before.

    Raises:
        ValueError: if activities wait for each other in a cycle.
    """
    count = len(activities)
    seconds, lag = [a.seconds for a in activities] * images, [a.lag for a in activities] * images
    resource, later = [a.resource for a in activities] * images, [not a.urgent for a in activities] * images
    waiting = [len(set(a.after)) for a in activities] * images
    followers: list[list[int]] = [[] for _ in activities]
    for index, activity in enumerate(activities):
        for before in set(activity.after):
            followers[before].append(index)
    for image in range(window, images):
        waiting[image * count] += 1
    ready, starts, ends = list(lag), [-1.0] * (images * count), [0.0] * (images * count)
    causes: list[int | None] = [None] * (images * count)
    queues: dict[str, list[tuple[float, bool, int]]] = defaultdict(list)
    current: dict[str, int] = {}
    free: dict[str, float] = defaultdict(float)
    events = [(ready[index], index, False) for index, number in enumerate(waiting) if not number]
    heapify(events)  # (time, activity, whether it ends then; else it is ready)

    def begin(index: int, now: float) -> None:
        ends[index] = end = now + seconds[index]
        starts[index] = now
        if (used := resource[index]) is not None:
            if now > ready[index]:
                causes[index] = current[used]
            current[used], free[used] = index, end
        heappush(events, (end, index, True))

    while events:
        now = events[0][0]
        touched: dict[str, None] = {}
        # Process all events of this time before a free resource chooses.
        while events and events[0][0] == now:
            _, index, ended = heappop(events)
            used = resource[index]
            if ended:
                place = index % count
                found = [index - place + follower for follower in followers[place]]
                if place == count - 1 and index + 1 + (window - 1) * count < len(waiting):
                    found.append(index + 1 + (window - 1) * count)
                for follower in found:
                    waiting[follower] -= 1
                    ready[follower], causes[follower] = now + lag[follower], index
                    if not waiting[follower]:
                        heappush(events, (ready[follower], follower, False))
            elif used is not None:
                heappush(queues[used], (now, later[index], index))
            else:
                begin(index, now)
            if used is not None:
                touched[used] = None
        for used in touched:
            if queues[used] and free[used] <= now:
                begin(heappop(queues[used])[-1], now)
    if min(starts, default=0.0) < 0:
        raise ValueError("some activities wait for each other")
    return list(map(Timing, starts, ends, causes))


def busy(activities: Sequence[Activity]) -> dict[str, float]:
    """Return the seconds for which each resource is occupied."""
    found: dict[str, float] = defaultdict(float)
    for activity in activities:
        if activity.resource is not None:
            found[activity.resource] += activity.seconds
    return dict(found)


def critical_path(timings: Sequence[Timing], index: int) -> list[int]:
    """Return the chain of activities, each of which the next one waited for, that ends with an activity."""
    path = [index]
    while (cause := timings[path[-1]].cause) is not None:
        path.append(cause)
    return path[::-1]
