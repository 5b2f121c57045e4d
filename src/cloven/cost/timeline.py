"""A discrete-event simulation of activities that wait for each other and occupy devices or links."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


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


@dataclass(frozen=True)
class Timing:
    """The begin and end of an activity in seconds, and the index of the activity that it waited for last."""

    start: float
    end: float
    cause: int | None


def simulate(activities: Sequence[Activity]) -> list[Timing]:
    """Return the timing of each activity.

    A resource runs the activity that could begin first; of those at the same time, an urgent one, then the one with
    the lower index. A running activity is not interrupted.

    Raises:
        ValueError: if activities wait for each other in a cycle.
    """
    waiting = [len(set(activity.after)) for activity in activities]
    followers: dict[int, list[int]] = defaultdict(list)
    for index, activity in enumerate(activities):
        for before in set(activity.after):
            followers[before].append(index)
    timings: list[Timing | None] = [None] * len(activities)
    ready = [activity.lag for activity in activities]
    causes: list[int | None] = [None] * len(activities)
    queues: dict[str, list[tuple[float, bool, int]]] = defaultdict(list)
    current: dict[str, int] = {}
    free: dict[str, float] = defaultdict(float)
    events = [(ready[index], index, False) for index, count in enumerate(waiting) if not count]
    heapq.heapify(events)  # (time, activity, whether it ends then; else it is ready)

    def begin(index: int, now: float) -> None:
        resource = activities[index].resource
        end = now + activities[index].seconds
        waited = resource is not None and now > ready[index]
        timings[index] = Timing(now, end, current[resource] if waited and resource is not None else causes[index])
        if resource is not None:
            current[resource], free[resource] = index, end
        heapq.heappush(events, (end, index, True))

    while events:
        now = events[0][0]
        touched: dict[str, None] = {}
        # Process all events of this time before a free resource chooses.
        while events and events[0][0] == now:
            _, index, ended = heapq.heappop(events)
            resource = activities[index].resource
            if ended:
                for follower in followers[index]:
                    waiting[follower] -= 1
                    ready[follower], causes[follower] = now + activities[follower].lag, index
                    if not waiting[follower]:
                        heapq.heappush(events, (ready[follower], follower, False))
            elif resource is not None:
                heapq.heappush(queues[resource], (now, not activities[index].urgent, index))
            else:
                begin(index, now)
            if resource is not None:
                touched[resource] = None
        for resource in touched:
            if queues[resource] and free[resource] <= now:
                begin(heapq.heappop(queues[resource])[-1], now)
    done = [timing for timing in timings if timing is not None]
    if len(done) < len(activities):
        raise ValueError("some activities wait for each other")
    return done


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
