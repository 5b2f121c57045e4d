"""Estimate the costs of a divided model on a cluster by simulating its devices and links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from pydantic import Field

from cloven.cost.cluster import Cluster
from cloven.cost.operators import FEWEST, OperatorTimes
from cloven.cost.profile import DeviceProfile, MemorySize, Sourced, Transmission
from cloven.cost.tasks import SegmentRun, Workload
from cloven.cost.timeline import Activity, SteadyRate, Timeline, busy, critical_path, steady_rate
from cloven.documents import Document
from cloven.errors import ClovenError, check_type
from cloven.partition.program import Link, Program
from cloven.partition.protection import COORDINATOR, Protection
from cloven.partition.usage import Usage
from cloven.remembered import remembered
from cloven.tables import Value, html_table, text_table

WINDOW = 8
"""The number of images in flight: the default of `cloven run` and `cloven serve`."""


class DeviceCost(Document):
    """The costs of one image on a device; None means unknown.

    ``busy`` is in seconds: computing, encrypting, and handling messages. ``energy`` is in joules, with the time in
    which the device waits for others. ``memory`` is in bytes: the worker, the weights, and the values that are held
    at a time; ``available`` is the bytes that the device has for it, None if it also runs what does not fit.
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
        energy: the joules of the plan's devices and links, without the coordinator; None if unknown.
        traffic: the bytes of the values on all links, including those of the image and the answer, without what
            frames and ciphers add to each message.
        window: the number of images in flight.
        devices: the cost on each device.
        links: the cost of each link, in order of first use.
        critical: the critical path of one image.
        unknown: a sentence for each number that is missing.
        assumptions: a sentence for each table of numbers that was not measured, and one if the throughput is a
            mean, since the simulation did not repeat itself.
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
    return Estimator(cluster, window).estimate(Workload.of(program)).cost


class Estimator:
    """Estimates programs on a cluster.

    Args:
        cluster: the cluster.
        window: the number of images in flight for the throughput, 1 to 256.
    """

    def __init__(self, cluster: Cluster, window: int = WINDOW) -> None:
        self.cluster, self.window = cluster, window

    def estimate(
        self,
        workload: Workload,
        devices: Sequence[str] | None = None,
        protection: Protection | None = None,
    ) -> Estimate:
        """Return the estimate of a program.

        Args:
            workload: the workload of the program. One workload serves all clusters, devices and protections.
            devices: the devices of the cluster that run the program's parts, in order (default: those it names).
            protection: the protection of the links (default: the program's).

        Raises:
            ClovenError: if a device is not in the cluster, or the window is out of range.
        """
        names = workload.devices if devices is None else tuple(devices)
        problems = self.cluster.missing(names)
        if len(names) != len(workload.devices):
            problems.append(f"the program has {len(workload.devices)} devices; got {len(names)}")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or not 1 <= self.window <= 256:
            problems.append(f"window must be between 1 and 256, got {self.window}")
        if problems:
            raise ClovenError(problems)
        chosen = workload.protection if protection is None else protection
        return Estimate(self, workload, dict(zip(workload.devices, names, strict=True)), chosen)


@remembered
def operator_times(cluster: Cluster, device: str) -> OperatorTimes:
    """Return the times of operators on a device that has a profile; they are fitted once for each cluster."""
    profile = cluster.devices[device].profile
    assert profile is not None
    return OperatorTimes(profile.compute)


Table = TypeVar("Table", bound=Sourced)

Rate = tuple[float, float]
"""The seconds for each message, and for each byte of it."""


@dataclass(frozen=True)
class Notes:
    """The sentences about numbers that are missing, and about tables that were not measured."""

    unknown: dict[str, None] = field(default_factory=dict)
    assumptions: dict[str, None] = field(default_factory=dict)

    def noted(self, table: Table | None, owner: str, name: str) -> Table | None:
        """Return a table of a profile, and record it if it is missing or was not measured."""
        if table is None:
            self.unknown[f"the profile of {owner} has no table [{name}]"] = None
        elif table.origin != "measured":
            note = f": {table.note}" if table.note else ""
            origin = "assumed" if table.origin == "assumed" else "taken from a source"
            self.assumptions[f"[{name}] of {owner} is {origin}{note}"] = None
        return table


@dataclass(frozen=True)
class LinkPrice:
    """The cost of messages on a link, for their sender, the link and their receiver."""

    source: str
    target: str
    resource: str
    sends: tuple[Rate, ...]
    transmission: Transmission | None
    receives: tuple[Rate, ...]

    def activities(self, size: int, after: tuple[int, ...], first: int) -> tuple[Activity, Activity, Activity]:
        """Return the activities of a message of ``size`` bytes; the first of them gets the index ``first``."""
        name = f"{self.source}->{self.target}"
        sending, receiving = _seconds(self.sends, size), _seconds(self.receives, size)
        delay = 0.0 if self.transmission is None else self.transmission.delay
        return (
            Activity(f"{name}: sent", self.source, sending, after, urgent=True),
            Activity(f"{name}: transmitted", self.resource, self.occupied(size, 1) or 0.0, (first,), delay),
            Activity(f"{name}: received", self.target, receiving, (first + 1,), urgent=True),
        )

    def occupied(self, size: int, messages: int) -> float | None:
        """Return the seconds for which messages of ``size`` bytes in total occupy the link; None if unknown."""
        if self.transmission is None:
            return None
        return 8 * size / self.transmission.bandwidth + messages * self.transmission.message


class Estimate:
    """The estimated costs of a program on a cluster, with the attributes of `Cost`.

    The throughput takes longer to estimate than all others, and is estimated when it is first read.
    """

    def __init__(
        self, estimator: Estimator, workload: Workload, names: Mapping[str, str], protection: Protection
    ) -> None:
        self.estimator, self.cluster, self.workload = estimator, estimator.cluster, workload
        self.names, self.protection = {COORDINATOR: COORDINATOR, **names}, protection
        self.notes = Notes()
        self.prices: dict[Link, LinkPrice] = {}
        self.activities = self._activities()
        self.timings = Timeline(self.activities).timings()
        self.latency = self.timings[-1].end if not self.notes.unknown else None
        self.devices = self._devices()
        self.links = self._links()
        self.energy = _sum([*(device.energy for device in self.devices), *(link.energy for link in self.links)])
        self.traffic = sum(link.bytes for link in self.links)

    @cached_property
    def steady(self) -> SteadyRate | None:
        """The throughput, and whether it is exact; None if it is unknown."""
        return None if self.latency is None else steady_rate(self.activities, self.estimator.window)

    @property
    def throughput(self) -> float | None:
        """The images per second with the estimator's window of images in flight, in the long run; None if unknown.

        The next image enters when the oldest is answered.
        """
        return None if self.steady is None else self.steady.rate

    @property
    def cost(self) -> Cost:
        """All costs as a document."""
        path = critical_path(self.timings, len(self.timings) - 1) if self.latency is not None else []
        return Cost(
            latency=self.latency,
            throughput=self.throughput,
            energy=self.energy,
            traffic=self.traffic,
            window=self.estimator.window,
            devices=self.devices,
            links=self.links,
            critical=tuple(
                CriticalStep(
                    name=self.activities[i].name, start=self.timings[i].start, seconds=self.activities[i].seconds
                )
                for i in path
                if self.activities[i].seconds
            ),
            unknown=tuple(self.notes.unknown),
            assumptions=(*self.notes.assumptions, *self._averaged()),
        )

    def _averaged(self) -> Iterator[str]:
        """Yield that the throughput is a mean, if it is."""
        if self.steady is not None and not self.steady.repeats:
            yield (
                f"the throughput is the mean over {self.steady.images:,} simulated images: the simulation did not "
                "repeat itself, and the rate in the long run may differ by some percent"
            )

    def _profile(self, party: str) -> DeviceProfile | None:
        """Return the profile of a party; that of the source for a coordinator without an entry."""
        if party == COORDINATOR and party not in self.cluster.devices:
            party = self.names[self.workload.source]
            self.notes.assumptions[f"the cluster has no {COORDINATOR}: it is assumed to be as fast as {party}"] = (
                None
            )
        profile = self.cluster.devices[party].profile
        if profile is None:
            self.notes.unknown[f"{party} has no profile; name one in the cluster file"] = None
        return profile

    def _activities(self) -> list[Activity]:
        """Return the activities of tasks: computing a segment; sending, transmitting and receiving a message."""
        found: list[Activity] = []
        ends: list[int] = []
        for task in self.workload.tasks:
            after = tuple(ends[before] for before in task.after)
            if isinstance(task, SegmentRun):
                device = self.names[task.device]
                name = f"{device} computes {task.value}"
                found.append(Activity(name, device, self._computing(device, task), after))
            else:
                found += self._price(task.link).activities(task.bytes, after, len(found))
            ends.append(len(found) - 1)
        return found

    def _computing(self, device: str, run: SegmentRun) -> float:
        """Return the seconds of a segment."""
        profile = self._profile(device)
        if profile is None:
            return 0.0
        self.notes.noted(profile.compute, profile.name, "compute")
        times = operator_times(self.cluster, device)
        for family in times.uncovered(run.works):
            known = f"the profile of {profile.name} has fewer than {FEWEST} times of {family!r}"
            self.notes.assumptions[f"{known}: estimated from its other operators"] = None
        return profile.compute.segment + times.total(run.works) + self._paging(profile.memory, run)

    def _paging(self, memory: MemorySize | None, run: SegmentRun) -> float:
        """Return the seconds for the weights of a segment that do not fit into the memory of its device."""
        if memory is None or memory.available is None or memory.paging is None:
            return 0.0
        total = next(used.weight_bytes for used in self.workload.usage if used.device == run.device)
        beyond = max(0, memory.worker + total - memory.available)
        return memory.paging * beyond * run.weights.held / total if total else 0.0

    def _price(self, link: Link) -> LinkPrice:
        """Return the price of messages on a link of the program."""
        if link not in self.prices:
            source, target = self.names[link[0]], self.names[link[1]]
            transmission = self._transmission(source, target)
            self.prices[link] = LinkPrice(
                source=source,
                target=target,
                resource=self.cluster.link(source, target).medium or f"{source}->{target}",
                transmission=transmission,
                sends=self._handling(source, source, target),
                receives=self._handling(target, source, target),
            )
        return self.prices[link]

    def _transmission(self, source: str, target: str) -> Transmission | None:
        """Return the transmission of a link."""
        profile = self.cluster.link(source, target).profile
        if profile is None:
            self.notes.unknown[f"the link {source}-{target} has no profile; name one in the cluster file"] = None
            return None
        if profile.transmission.loss:
            lost = f"{100 * profile.transmission.loss:g} % of the packets of {profile.name} are lost"
            self.notes.assumptions[f"{lost}: the time to send them again is left out"] = None
        return self.notes.noted(profile.transmission, profile.name, "transmission")

    def _handling(self, party: str, source: str, target: str) -> tuple[Rate, ...]:
        """Return the rates at which messages occupy their sender or receiver: handling them, and the cipher."""
        profile = self._profile(party)
        if profile is None:
            return ()
        rates: list[Rate] = []
        if (cost := self.notes.noted(profile.messages, profile.name, "messages")) is not None:
            sends = party == source
            rates.append((cost.send, cost.send_byte) if sends else (cost.receive, cost.receive_byte))
        name = self.protection.of(source, target)
        if name != "none":
            cipher = self.notes.noted(profile.ciphers.get(name), profile.name, f"ciphers.{name}")
            rates += [] if cipher is None else [(cipher.message, cipher.byte)]
        return tuple(rates)

    def _devices(self) -> tuple[DeviceCost, ...]:
        """Return the cost on each device."""
        occupied, found = busy(self.activities), []
        for used in self.workload.usage:
            name = self.names[used.device]
            device = self.cluster.devices[name]
            profile = device.profile
            power = memory = energy = needed = None
            if profile is not None:
                power = self.notes.noted(profile.power, profile.name, "power")
                memory = self.notes.noted(profile.memory, profile.name, "memory")
            seconds = None if self.latency is None else occupied.get(name, 0.0)
            if power is not None and self.latency is not None and seconds is not None:
                energy = power.idle * self.latency + (power.busy - power.idle) * seconds
            if memory is not None:
                needed = self._memory(memory, used)
            found.append(
                DeviceCost(
                    device=name,
                    busy=seconds,
                    energy=energy,
                    memory=needed,
                    available=None if memory is None or memory.paging is not None else memory.available,
                    trusted=device.trusted,
                )
            )
        return tuple(found)

    def _memory(self, memory: MemorySize, used: Usage) -> int:
        """Return the most bytes that a worker holds: while it loads its segments, one after another, or later.

        Later, it holds what it has loaded, its links, and for an image the values, the largest messages that it
        receives and sends, and the inputs and outputs of a segment once more: onnxruntime rearranges them.
        """
        held = most = 0.0
        boundary = 0
        for task in self.workload.tasks:
            if isinstance(task, SegmentRun) and task.device == used.device:
                held += memory.segment + memory.operator * len(task.works) + memory.weights * task.weights.held
                most = max(most, held + memory.loading * task.weights.loading)
                boundary = max(boundary, task.boundary_bytes)
        received = [message for message in self.workload.messages if message.link[1] == used.device]
        sent = [message for message in self.workload.messages if message.link[0] == used.device]
        largest = sum(max((message.bytes for message in either), default=0) for either in (received, sent))
        others = {party for message in (*received, *sent) for party in message.link} - {used.device, COORDINATOR}
        running = held + used.memory_bytes + boundary + memory.message * largest + memory.link * len(others)
        starting = memory.worker if memory.starting is None else memory.starting
        return round(max(starting + most, memory.worker + running))

    def _links(self) -> tuple[LinkCost, ...]:
        """Return the cost of each link."""
        found = []
        sizes: dict[Link, list[int]] = {link: [] for link in self.prices}
        for message in self.workload.messages:
            sizes[message.link].append(message.bytes)
        for link, price in self.prices.items():
            sent = sum(sizes[link])
            entry = self.cluster.link(price.source, price.target)
            energy = None
            if entry.profile is not None:
                energy = self.notes.noted(entry.profile.energy, entry.profile.name, "energy")
            found.append(
                LinkCost(
                    source=price.source,
                    target=price.target,
                    bytes=sent,
                    messages=len(sizes[link]),
                    busy=price.occupied(sent, len(sizes[link])),
                    energy=None if energy is None else energy.byte * sent,
                    protection=self.protection.of(price.source, price.target),
                    exposed=entry.exposed,
                )
            )
        return tuple(found)


def _seconds(rates: Sequence[Rate], size: int) -> float:
    """Return the seconds of a message of ``size`` bytes."""
    return sum([once + byte * size for once, byte in rates], 0.0)


def _sum(parts: Sequence[float | None]) -> float | None:
    """Return a sum, or None if a part of it is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
