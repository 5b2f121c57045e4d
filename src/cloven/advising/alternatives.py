"""Candidates with a choice of encrypted links, and their estimated costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf
from typing import Literal, get_args

from cloven.advising.candidates import Candidate
from cloven.advising.taps import ExposedTap, taps
from cloven.cost.cluster import Cluster
from cloven.cost.estimate import Cost, DeviceCost, Estimate, Estimator
from cloven.cost.profile import CipherTime
from cloven.cost.tasks import SegmentRun, Workload
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide, problems
from cloven.partition.division import device_names
from cloven.partition.plan import Plan
from cloven.partition.program import Link, Program
from cloven.partition.protection import COORDINATOR, Name, Protection, pair

Objective = Literal["latency", "throughput", "energy", "traffic"]

RECENT = 64
"""The number of programs that are kept: thousands of them would not fit into memory."""

CIPHERS: tuple[Name, ...] = tuple(name for name in get_args(Name) if name != "none")


@dataclass(frozen=True, eq=False)
class Alternative:
    """A candidate with a choice of encrypted links, and its estimated costs for one image.

    Attributes:
        candidate: the candidate.
        pricing: estimates the costs.
        protection: the protection of each link.
        source: the device that receives the image.
        sink: the device that sends the answer.
        value: what is minimised, infinite if it is unknown.
        latency: the seconds of one image; None if unknown.
        energy: the joules of one image; None if unknown.
        traffic: the bytes on all links.
        devices: the cost on each device.
        unknown: a sentence for each number that is missing.
    """

    candidate: Candidate
    pricing: Pricing
    protection: Protection
    source: str
    sink: str
    value: float
    latency: float | None
    energy: float | None
    traffic: int
    devices: tuple[DeviceCost, ...]
    unknown: tuple[str, ...]

    @property
    def is_known(self) -> bool:
        """True if what is minimised and the latency are known; a division is recommended only then."""
        return self.value < inf and self.latency is not None

    @cached_property
    def cost(self) -> Cost:
        """All costs as a document."""
        return self.pricing.estimate(self.candidate, self.protection).cost

    @cached_property
    def throughput(self) -> float | None:
        """The images per second; None if unknown."""
        return self.pricing.estimate(self.candidate, self.protection).throughput

    @property
    def program(self) -> Program:
        """The program, with its links protected."""
        return self.pricing.recent(self.candidate, tuple(self.protection.links.items()))[0]

    @property
    def taps(self) -> tuple[ExposedTap, ...]:
        """The taps, as if no link was encrypted."""
        return self.pricing.recent(self.candidate, tuple(self.protection.links.items()))[1]

    @property
    def plan(self) -> Plan:
        """The plan."""
        return Plan(strategy=self.candidate.strategies, devices=self.candidate.devices, protection=self.protection)

    @property
    def encrypted(self) -> tuple[str, ...]:
        """The encrypted links, each as ``A-B``."""
        return tuple(self.protection.links)

    @property
    def memory(self) -> int | None:
        """The bytes on the device that needs the most; None if those of one are unknown."""
        known = [device.memory for device in self.devices if device.memory is not None]
        return max(known) if len(known) == len(self.devices) else None

    def is_encrypted(self, tap: ExposedTap) -> bool:
        """Return whether a listener at a tap sees only ciphertext."""
        return tap.pair is not None and self.protection.of(*tap.pair) != "none"


class Pricing:
    """Estimates the costs of divisions of a model over a cluster; equal programs are divided once.

    Args:
        model: the model.
        cluster: the cluster.
        minimise: the objective.
    """

    def __init__(self, model: Graph, cluster: Cluster, minimise: Objective) -> None:
        self.model, self.cluster, self.minimise = model, cluster, minimise
        self.estimator = Estimator(cluster)
        self.workloads: dict[Candidate, Workload | None] = {}
        self.recent = lru_cache(RECENT)(self._divided)
        self.alternatives: dict[Candidate, Alternative | None] = {}

    def alternative(self, candidate: Candidate) -> Alternative | None:
        """Return a candidate with the coordinator's exposed links encrypted; None if it does not fit the model."""
        if candidate not in self.alternatives:
            self.alternatives[candidate] = self._first(candidate)
        return self.alternatives[candidate]

    def _first(self, candidate: Candidate) -> Alternative | None:
        workload = self.workload(candidate)
        if workload is None:
            return None
        names = dict(zip(workload.devices, candidate.devices, strict=True))
        source, sink = names[workload.source], names[workload.sink]
        return self._priced(candidate, source, sink, ((COORDINATOR, source), (COORDINATOR, sink)))

    def encrypting(self, division: Alternative, links: Iterable[Link]) -> Alternative:
        """Return a division with some more of its links encrypted."""
        more = [link for link in links if division.protection.of(*link) == "none"]
        if not more:
            return division
        parties = (COORDINATOR, *division.candidate.devices)
        before = [pair(name, parties) for name in division.encrypted]
        return self._priced(division.candidate, division.source, division.sink, (*before, *more))

    def all_encrypted(self, division: Alternative) -> Alternative:
        """Return a division with every link encrypted that others can listen to."""
        workload = self.workload(division.candidate)
        assert workload is not None
        links = (tuple(link) for link in _traffic(workload, division.candidate.devices))
        return self.encrypting(division, [(a, b) for a, b in links if self.cluster.link(a, b).exposed])

    def estimate(self, candidate: Candidate, protection: Protection) -> Estimate:
        """Return the estimated costs of a candidate that fits the model."""
        workload = self.workload(candidate)
        assert workload is not None
        return self.estimator.estimate(workload, candidate.devices, protection)

    def workload(self, candidate: Candidate) -> Workload | None:
        """Return the workload of a candidate, with general names of devices.

        It is None if the candidate does not fit the model, or if one of its devices computes nothing.
        """
        general = generalised(candidate)
        if general not in self.workloads:
            found = None
            if not problems(self.model, general.strategies, general.devices):
                workload = Workload.of(divide(self.model, general.strategies, general.devices))
                if {task.device for task in workload.tasks if isinstance(task, SegmentRun)} == {*workload.devices}:
                    found = workload
            self.workloads[general] = found
        return self.workloads[general]

    def _divided(
        self, candidate: Candidate, links: tuple[tuple[str, Name], ...]
    ) -> tuple[Program, tuple[ExposedTap, ...]]:
        """Return the program of a candidate with protected links, and its taps."""
        program = divide(self.model, candidate.strategies, candidate.devices)
        program = replace(program, protection=Protection(links=dict(links)))
        return program, taps(program, self.cluster)

    def _priced(self, candidate: Candidate, source: str, sink: str, links: Iterable[Link]) -> Alternative:
        workload = self.workload(candidate)
        assert workload is not None
        parties = (COORDINATOR, *candidate.devices)
        pairs = {tuple(sorted(link, key=parties.index)) for link in links if self.cluster.link(*link).exposed}
        sizes = _traffic(workload, candidate.devices)
        ciphers = {
            f"{one}-{other}": self.cipher((one, other), source, *sizes[frozenset((one, other))])
            for one, other in sorted(pairs)
        }
        protection = Protection(links=ciphers)
        cost = self.estimator.estimate(workload, candidate.devices, protection)
        value = getattr(cost, self.minimise)
        if value is not None and self.minimise == "throughput":
            value = -value
        return Alternative(
            candidate=candidate,
            pricing=self,
            protection=protection,
            source=source,
            sink=sink,
            value=inf if value is None else float(value),
            latency=cost.latency,
            energy=cost.energy,
            traffic=cost.traffic,
            devices=cost.devices,
            unknown=tuple(cost.notes.unknown),
        )

    def cipher(self, link: Link, source: str, size: int, messages: int) -> Name:
        """Return the cipher with the least time for both parties of a link, of those that both have measured.

        If they have none in common, it is one for which the fewest times are missing; the cost is then unknown.
        """
        ends = [self._ciphers(party, source) for party in link]

        def seconds(name: Name) -> tuple[int, float]:
            times = [known[name] for known in ends if name in known]
            return len(ends) - len(times), sum(messages * time.message + size * time.byte for time in times)

        return min(CIPHERS, key=seconds)

    def _ciphers(self, party: str, source: str) -> Mapping[str, CipherTime]:
        """Return the times of ciphers of a party; those of the source for a coordinator without an entry."""
        name = source if party == COORDINATOR and party not in self.cluster.devices else party
        profile = self.cluster.devices[name].profile
        return {} if profile is None else profile.ciphers


def generalised(candidate: Candidate) -> Candidate:
    """Return a candidate for devices named edge0, edge1, ..., which other candidates can share."""
    names = dict(zip(candidate.devices, device_names(len(candidate.devices)), strict=True))
    strategies = tuple(
        stage if stage.on is None else replace(stage, on=tuple(names[name] for name in stage.on))
        for stage in candidate.strategies
    )
    return Candidate(strategies, tuple(names.values()))


def _traffic(workload: Workload, devices: Sequence[str]) -> dict[frozenset[str], tuple[int, int]]:
    """Return the bytes and the messages of one image between each two parties, if ``devices`` run a workload."""
    names = {COORDINATOR: COORDINATOR, **dict(zip(workload.devices, devices, strict=True))}
    found: dict[frozenset[str], tuple[int, int]] = {}
    for message in workload.messages:
        link = frozenset(names[party] for party in message.link)
        size, count = found.get(link, (0, 0))
        found[link] = size + message.bytes, count + 1
    return found
