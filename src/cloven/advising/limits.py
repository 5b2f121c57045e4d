"""Limits that a division must meet, in SI units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Protocol

from cloven.auditing.finding import Axis
from cloven.cost.cluster import Cluster
from cloven.cost.estimate import DeviceCost
from cloven.errors import ClovenError, shown
from cloven.partition.protection import COORDINATOR
from cloven.quantities import written


@dataclass(frozen=True)
class Excess:
    """A cost that exceeds a limit, or may exceed it because it is unknown (None)."""

    name: str
    value: float | None
    limit: float
    unit: str
    below: bool = False

    @property
    def relative(self) -> float:
        """The part of the limit by which the cost exceeds it; infinite if it is unknown."""
        if not self.value:
            return inf
        return self.limit / self.value - 1 if self.below else self.value / self.limit - 1

    @property
    def reached(self) -> str:
        """The cost with its unit."""
        return "unknown" if self.value is None else written(self.value, self.unit, 4)

    @property
    def allowed(self) -> str:
        """The limit with its unit."""
        return written(self.limit, self.unit, 4)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} is unknown, and its limit is {self.allowed}"
        return f"{self.name} is {self.reached}, {'below' if self.below else 'above'} the limit of {self.allowed}"


class Costs(Protocol):
    """The costs of a division that limits apply to."""

    @property
    def latency(self) -> float | None:
        """The seconds of one image."""

    @property
    def throughput(self) -> float | None:
        """The images per second."""

    @property
    def energy(self) -> float | None:
        """The joules of one image."""

    @property
    def devices(self) -> tuple[DeviceCost, ...]:
        """The cost on each device."""


@dataclass(frozen=True)
class Limits:
    """Limits on what a division may cost and leak; those that are None do not apply.

    Attributes:
        latency: the most seconds from sending an image to its answer.
        throughput: the fewest images a second.
        energy: the most joules of one image on all devices and links.
        memory: the most bytes on any device.
        pixel_leakage: the most that a tap may leak of the pixels, from 0 to 1.
        label_leakage: the most that a tap may leak of the labels, from 0 to 1.

    Raises:
        ClovenError: for every limit that is not a number, or out of its range.
    """

    latency: float | None = None
    throughput: float | None = None
    energy: float | None = None
    memory: float | None = None
    pixel_leakage: float | None = None
    label_leakage: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        if problems := list(wrong_limits(given)):
            raise ClovenError(problems)

    @property
    def leakage(self) -> dict[Axis, float]:
        """The limits on leakage that apply, by axis."""
        found: dict[Axis, float | None] = {"pixels": self.pixel_leakage, "labels": self.label_leakage}
        return {axis: limit for axis, limit in found.items() if limit is not None}

    def exceeded_by(self, cost: Costs) -> tuple[Excess, ...]:
        """Return the limits on cost that a cost exceeds, or may exceed because it is unknown.

        The memory that a device has is a limit too.
        """
        checked: list[tuple[str, float | None, float | None, str, bool]] = [
            ("latency", cost.latency, self.latency, "s", False),
            ("energy", cost.energy, self.energy, "J", False),
        ]
        if self.throughput is not None:  # which takes time to estimate
            checked.append(("throughput", cost.throughput, self.throughput, "images/s", True))
        for device in cost.devices:
            most = min((m for m in (self.memory, device.available) if m is not None), default=None)
            checked.append((f"memory of {device.device}", device.memory, most, "bytes", False))
        return tuple(
            Excess(name, value, limit, unit, below)
            for name, value, limit, unit, below in checked
            if limit is not None and (value is None or (value < limit if below else value > limit))
        )


def wrong_limits(given: Mapping[str, object], names: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield the problems of limits by their names in `Limits`; messages may have other ``names`` for them."""
    for name, value in given.items():
        shown_as = (names or {}).get(name, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{shown_as} must be a number or None, got {shown(value)}"
        elif name.endswith("leakage"):
            if not 0 <= value <= 1:
                yield f"{shown_as} must be between 0 and 1, got {value:g}"
        elif not (isfinite(value) and value > 0):
            yield f"{shown_as} must be a number above 0, got {value:g}"


def unreachable(limits: Limits, minimise: str, cluster: Cluster) -> Iterator[str]:
    """Yield why no division over a cluster can meet the limits, as far as that shows without a division.

    A limit that needs numbers which a profile lacks is one: divisions with that device could not be compared.
    """
    devices = {name: device for name, device in cluster.devices.items() if name != COORDINATOR}
    if not devices:
        yield f"the cluster has no devices besides {COORDINATOR}; add one that runs a part of the model"
        return
    if not any(device.trusted for device in devices.values()) and limits.pixel_leakage not in (None, 1):
        yield (
            "no device of the cluster is trusted, and the first one receives the image: every division leaks all "
            "pixels, above the limit on pixel leakage; trust a device, or remove the limit"
        )
    profiles = {name: device.profile for name, device in devices.items() if device.profile is not None}
    if limits.memory is not None:
        for name, profile in profiles.items():
            if profile.memory is None:
                yield f"the limit on memory requires a table [memory] in the profile of {name} ({profile.name})"
        sizes = [profile.memory.worker for profile in profiles.values() if profile.memory is not None]
        if sizes and len(sizes) == len(profiles) and min(sizes) > limits.memory:
            yield (
                f"the limit on memory is {limits.memory:,.4g} bytes, but a worker without a model needs "
                f"{min(sizes):,} bytes or more"
            )
    if limits.energy is not None or minimise == "energy":
        for name, profile in profiles.items():
            if profile.power is None:
                yield f"energy requires a table [power] in the profile of {name} ({profile.name})"
        links = dict.fromkeys(link.profile for link in (*cluster.links.values(), cluster.default) if link.profile)
        for link in links:
            if link.energy is None:
                yield f"energy requires a table [energy] in the profile of the link {link.name}"
