"""Emulated links and devices: bandwidth, delay and loss, speed and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from cloven.cost.cluster import Cluster
from cloven.partition.program import Link
from cloven.partition.protection import COORDINATOR
from cloven.runtime.lab.network import LinkQuality
from cloven.runtime.lab.units import FASTEST, LONGEST, SLOWEST


@dataclass(frozen=True, eq=False, kw_only=True)
class Emulation:
    """The links and devices of a laboratory.

    Attributes:
        bandwidth, delay, loss: of every link, in bits per second (None for no limit), in seconds one way, and as
            the probability with which a packet is lost.
        cluster: takes the bandwidth, delay and loss of each link from its profile instead; see `left_out`.
        speeds: of devices, as a share of this machine's speed, above 0, at most 1; others have 1. See
            `cloven.runtime.cluster.slowdown`.
        memory: limits of devices in bytes, for the whole worker process; see `cloven.runtime.lab.memory`.
    """

    bandwidth: int | None = None
    delay: float = 0.0
    loss: float = 0.0
    cluster: Cluster | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)

    def speed(self, device: str) -> float:
        """Return the speed of a device as a share of this machine's."""
        return self.speeds.get(device, 1.0)

    def quality(self, one: str, other: str) -> LinkQuality:
        """Return the properties of the link between two parties; without a profile, it is unlimited."""
        if self.cluster is None:
            return LinkQuality(self.bandwidth, self.delay, self.loss)
        profile = self.cluster.link(one, other).profile
        if profile is None:
            return LinkQuality()
        sending = profile.transmission
        return LinkQuality(round(sending.bandwidth), sending.delay, sending.loss)

    def qualities(self, devices: Sequence[str]) -> dict[Link, LinkQuality]:
        """Return the properties of the links between every two of the coordinator and these devices."""
        return {pair: self.quality(*pair) for pair in combinations((COORDINATOR, *devices), 2)}

    def problems(self, devices: Sequence[str]) -> Iterator[str]:
        """Yield why this cannot be emulated for a plan's devices, one sentence each."""
        known = f"the plan has no such device; its devices are {', '.join(devices)}"
        for device, speed in self.speeds.items():
            if device not in devices:
                yield f"speed of {device}: {known}"
            if not 0 < speed <= 1:
                yield f"speed of {device}: expected a number above 0, at most 1, got {speed:g}"
        for device, limit in self.memory.items():
            if device not in devices:
                yield f"memory of {device}: {known}"
            if limit < 1:
                yield f"memory of {device}: expected a positive number of bytes, got {limit}"
        if self.cluster is None:
            return
        yield from self.cluster.missing(devices)
        for (one, other), link in self.qualities(devices).items():
            if link.bandwidth is not None and not SLOWEST <= link.bandwidth <= FASTEST:
                yield f"{one}-{other}: expected {SLOWEST:,} to {FASTEST:,} bit/s, got {link.bandwidth:,}"
            if link.delay > LONGEST / 10**6:
                yield f"{one}-{other}: expected a delay of at most {LONGEST / 10**6:g} s, got {link.delay:g} s"

    def left_out(self, links: Sequence[Link]) -> Iterator[str]:
        """Yield what the cluster file says about these links and is not emulated, one sentence each."""
        if self.cluster is None:
            return
        named = {"-".join(pair): self.cluster.link(*pair) for pair in links}
        unknown = [name for name, link in named.items() if link.profile is None]
        costly = [name for name, link in named.items() if link.profile and link.profile.transmission.message]
        shared = [name for name, link in named.items() if link.medium is not None]
        if unknown:
            yield f"links without a profile in the cluster file are unlimited: {', '.join(unknown)}"
        if costly:
            yield f"the time of each message in the profile is not emulated: {', '.join(costly)}"
        if shared:
            yield f"the shared medium is not emulated, each link has its full bandwidth: {', '.join(shared)}"
