"""Estimate the costs of a divided model on a cluster by simulating its devices and links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TypeVar

from pydantic import Field

from cloven.cost.cluster import Cluster
from cloven.cost.operators import FEWEST, OperatorTimes, work
from cloven.cost.profile import DeviceProfile, Sourced, Transmission
from cloven.cost.tasks import LinkMessage, SegmentRun, Task, tasks
from cloven.cost.timeline import Activity, busy, critical_path, simulate
from cloven.documents import Document
from cloven.errors import ClovenError, check_type
from cloven.partition.program import Link, Program
from cloven.partition.protection import COORDINATOR
from cloven.partition.usage import usage
from cloven.tables import Value, html_table, text_table

IMAGES = 24
"""The minimum number of images in the estimate of the throughput."""

WINDOW = 8
"""The number of images in flight: the default of `cloven run` and `cloven serve`."""


class DeviceCost(Document):
    """The costs of one image on a device; None means unknown.

    ``busy`` is in seconds: computing, encrypting, and handling messages. ``energy`` is in joules, with the time in
    which the device waits for others. ``memory`` is in bytes: the worker, the weights, and the values that are held
    at a time; ``available`` is the bytes that the device has for it.
    """

    device: str
    busy: float | None
    energy: float | None
    memory: int | None
    available: int | None
    trusted: bool


class LinkCost(Document):
    """The costs of one image on a link in one direction; ``busy`` is in seconds, None if unknown."""

    source: str
    target: str
    bytes: int
    messages: int
    busy: float | None
    energy: float | None
    protection: str
    exposed: bool


class CriticalStep(Document):
    """An activity on the critical path of one image."""

    name: str
    start: float
    seconds: float


class Cost(Document):
    """The cost of a divided model, for one image.

    Attributes:
        latency: the seconds from sending a single image to its answer; None if unknown.
        throughput: the images per second with ``window`` images in flight; None if unknown.
        energy: the joules of all devices and links; None if unknown.
        traffic: the bytes on all links, including those of the image and the answer.
        window: the number of images in flight.
        devices: the cost on each device.
        links: the cost of each link, in order of first use.
        critical: the critical path of one image.
        unknown: a sentence for each number that is missing.
        assumptions: a sentence for each table of numbers that was not measured.
    """

    latency: float | None
    throughput: float | None
    energy: float | None
    traffic: int
    window: int = Field(ge=1)
    devices: tuple[DeviceCost, ...]
    links: tuple[LinkCost, ...]
    critical: tuple[CriticalStep, ...]
    unknown: tuple[str, ...]
    assumptions: tuple[str, ...]

    def __repr__(self) -> str:
        return text_table(*self._table())

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[Value, ...]]]:
        latency = "unknown" if self.latency is None else f"{1000 * self.latency:.4g} ms"
        throughput = "unknown" if self.throughput is None else f"{self.throughput:.4g} images/s"
        rows: list[tuple[Value, ...]] = [(d.device, d.busy, None, d.memory, d.energy) for d in self.devices]
        rows += [(f"{link.source}->{link.target}", link.busy, link.bytes, None, None) for link in self.links]
        title = f"Cost of one image: latency {latency}, throughput {throughput}"
        return title, ("device or link", "busy s", "bytes sent", "memory bytes", "energy J"), rows


def estimate(program: Program, cluster: Cluster, *, window: int = WINDOW) -> Cost:
    """Return the estimated costs of a program on a cluster.

    Each device runs its segments one after another and handles each message that it sends or receives; each link
    carries one message at a time in each direction; links that share a medium carry one message in total. Messages
    have priority over computations, as in a worker.

    Args:
        program: the program that `divide` or `compile` returned.
        cluster: the cluster, with the devices of the program; costs that need a missing profile are unknown.
        window: the number of images in flight for the throughput, 1 to 256.

    Raises:
        ClovenError: if a device is not in the cluster, or the window is out of range.
    """
    check_type(program, Program, "program", "the program that cloven.divide(...) returns")
    check_type(cluster, Cluster, "cluster", "cloven.Cluster.load('cluster.toml')")
    problems = cluster.missing(program.devices)
    if isinstance(window, bool) or not isinstance(window, int) or not 1 <= window <= 256:
        problems.append(f"window must be between 1 and 256, got {window}")
    if problems:
        raise ClovenError(problems)
    made = tasks(program)
    prices = _Prices(program, cluster)
    activities = prices.activities(made)
    timings = simulate(activities)
    known = not prices.unknown
    latency = timings[-1].end if known else None
    devices = prices.devices(busy(activities), latency)
    links = prices.links(made)
    path = critical_path(timings, len(timings) - 1) if known else []
    return Cost(
        latency=latency,
        throughput=_throughput(activities, window) if known else None,
        energy=_sum([*(device.energy for device in devices), *(link.energy for link in links)]),
        traffic=sum(link.bytes for link in links),
        window=window,
        devices=devices,
        links=links,
        critical=tuple(
            CriticalStep(name=activities[i].name, start=timings[i].start, seconds=activities[i].seconds)
            for i in path
            if activities[i].seconds
        ),
        unknown=tuple(prices.unknown),
        assumptions=tuple(prices.assumptions),
    )


def _sum(parts: Sequence[float | None]) -> float | None:
    """Return a sum, or None if a part of it is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _throughput(activities: Sequence[Activity], window: int) -> float:
    """Return images a second with ``window`` images in flight: the next one enters when the oldest is answered.

    Only whole windows are counted, without the first and the last one, in which not all devices are busy.
    """
    count, windows = len(activities), ceil(IMAGES / window)
    many = []
    for image in range((windows + 2) * window):
        for index, activity in enumerate(activities):
            after = tuple(before + image * count for before in activity.after)
            if index == 0 and image >= window:
                after = ((image - window + 1) * count - 1,)
            many.append(replace(activity, after=after))
    answered = sorted(timing.end for timing in simulate(many)[count - 1 :: count])
    rate = windows * window / (answered[-window - 1] - answered[window - 1])
    busiest = max(busy(activities).values())  # answers that come in bursts may be counted at their edges
    return min(rate, 1 / busiest) if busiest else rate


Table = TypeVar("Table", bound=Sourced)


class _Prices:
    """Looks up the costs of tasks, and records which numbers are missing or were not measured."""

    def __init__(self, program: Program, cluster: Cluster) -> None:
        self.program, self.cluster = program, cluster
        self.unknown: dict[str, None] = {}
        self.assumptions: dict[str, None] = {}
        self.times: dict[str, OperatorTimes] = {}

    def profile(self, party: str) -> DeviceProfile | None:
        """Return the profile of a party; that of the source for a coordinator without an entry."""
        if party == COORDINATOR and party not in self.cluster.devices:
            party = self.program.source
            self.assumptions[f"the cluster has no {COORDINATOR}: it is assumed to be as fast as {party}"] = None
        profile = self.cluster.devices[party].profile
        if profile is None:
            self.unknown[f"{party} has no profile; name one in the cluster file"] = None
        return profile

    def noted(self, table: Table | None, owner: str, name: str) -> Table | None:
        """Return a table of a profile, and record it if it is missing or was not measured."""
        if table is None:
            self.unknown[f"the profile of {owner} has no table [{name}]"] = None
        elif table.origin != "measured":
            note = f": {table.note}" if table.note else ""
            origin = "assumed" if table.origin == "assumed" else "taken from a source"
            self.assumptions[f"[{name}] of {owner} is {origin}{note}"] = None
        return table

    def activities(self, made: Sequence[Task]) -> list[Activity]:
        """Return the activities of tasks: computing a segment; sending, transmitting and receiving a message."""
        found: list[Activity] = []
        ends: list[int] = []
        for task in made:
            after = tuple(ends[before] for before in task.after)
            if isinstance(task, SegmentRun):
                name = f"{task.device} computes {task.segment.computes[-1].value}"
                found.append(Activity(name, task.device, self.computing(task), after))
            else:
                found += self.message(task, after, len(found))
            ends.append(len(found) - 1)
        return found

    def computing(self, run: SegmentRun) -> float:
        """Return the seconds of a segment."""
        profile = self.profile(run.device)
        if profile is None:
            return 0.0
        self.noted(profile.compute, profile.name, "compute")
        times = self.times.setdefault(profile.name, OperatorTimes(profile.compute))
        works = [work(self.program.graph, step) for step in run.segment.computes]
        for family in dict.fromkeys(what.family for what in works if not times.covers(what)):
            known = f"the profile of {profile.name} has fewer than {FEWEST} times of {family!r}"
            self.assumptions[f"{known}: estimated from its other operators"] = None
        return profile.compute.segment + sum(map(times.seconds, works))

    def message(
        self, message: LinkMessage, after: tuple[int, ...], first: int
    ) -> tuple[Activity, Activity, Activity]:
        """Return the activities of a message; the first of them gets the index ``first``."""
        source, target = message.link
        name = f"{source}->{target}"
        transmission = self.transmission(message.link)
        occupied, delay = 0.0, 0.0
        if transmission is not None:
            occupied = 8 * message.bytes / transmission.bandwidth + transmission.message
            delay = transmission.delay
        sends, receives = self.handling(source, message), self.handling(target, message)
        return (
            Activity(f"{name}: sent", source, sends, after, urgent=True),
            Activity(f"{name}: transmitted", self.cluster.link(source, target).medium or name, occupied, (first,)),
            Activity(f"{name}: received", target, receives, (first + 1,), lag=delay, urgent=True),
        )

    def transmission(self, link: Link) -> Transmission | None:
        """Return the transmission of a link."""
        profile = self.cluster.link(*link).profile
        if profile is None:
            self.unknown[f"the link {link[0]}-{link[1]} has no profile; name one in the cluster file"] = None
            return None
        return self.noted(profile.transmission, profile.name, "transmission")

    def handling(self, party: str, message: LinkMessage) -> float:
        """Return the seconds for which a message occupies its sender or receiver: handling it, and the cipher."""
        profile = self.profile(party)
        if profile is None:
            return 0.0
        seconds = 0.0
        if (cost := self.noted(profile.messages, profile.name, "messages")) is not None:
            sends = party == message.link[0]
            once, byte = (cost.send, cost.send_byte) if sends else (cost.receive, cost.receive_byte)
            seconds += once + byte * message.bytes
        name = self.program.protection.of(*message.link)
        if name != "none":
            cipher = self.noted(profile.ciphers.get(name), profile.name, f"ciphers.{name}")
            seconds += 0.0 if cipher is None else cipher.message + cipher.byte * message.bytes
        return seconds

    def devices(self, occupied: Mapping[str, float], latency: float | None) -> tuple[DeviceCost, ...]:
        """Return the cost on each device; ``occupied`` are the seconds for which each is busy."""
        found = []
        for used in usage(self.program):
            device = self.cluster.devices[used.device]
            profile = device.profile
            power = memory = energy = needed = None
            if profile is not None:
                power = self.noted(profile.power, profile.name, "power")
                memory = self.noted(profile.memory, profile.name, "memory")
            seconds = None if latency is None else occupied.get(used.device, 0.0)
            if power is not None and latency is not None and seconds is not None:
                energy = power.idle * latency + (power.busy - power.idle) * seconds
            if memory is not None:
                needed = memory.worker + used.weight_bytes + used.memory_bytes
            found.append(
                DeviceCost(
                    device=used.device,
                    busy=seconds,
                    energy=energy,
                    memory=needed,
                    available=None if memory is None else memory.available,
                    trusted=device.trusted,
                )
            )
        return tuple(found)

    def links(self, made: Sequence[Task]) -> tuple[LinkCost, ...]:
        """Return the cost of each link."""
        messages = [task for task in made if isinstance(task, LinkMessage)]
        found = []
        for link in dict.fromkeys(message.link for message in messages):
            mine = [message for message in messages if message.link == link]
            sent = sum(message.bytes for message in mine)
            entry = self.cluster.link(*link)
            energy = None
            if entry.profile is not None:
                energy = self.noted(entry.profile.energy, entry.profile.name, "energy")
            transmission = self.transmission(link)
            found.append(
                LinkCost(
                    source=link[0],
                    target=link[1],
                    bytes=sent,
                    messages=len(mine),
                    busy=None
                    if transmission is None
                    else 8 * sent / transmission.bandwidth + len(mine) * transmission.message,
                    energy=None if energy is None else energy.byte * sent,
                    protection=self.program.protection.of(*link),
                    exposed=entry.exposed,
                )
            )
        return tuple(found)
