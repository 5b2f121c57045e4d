"""Limits that a division must meet, in SI units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import isfinite

from cloven.cost.estimate import Cost
from cloven.errors import ClovenError, shown


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
        if problems := list(self._problems()):
            raise ClovenError(problems)

    def _problems(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                yield f"{field.name} must be a number or None, got {shown(value)}"
            elif field.name.endswith("leakage") and not 0 <= value <= 1:
                yield f"{field.name} must be between 0 and 1, got {value:g}"
            elif not (isfinite(value) and value > 0) and not field.name.endswith("leakage"):
                yield f"{field.name} must be a number above 0, got {value:g}"

    def exceeded_by(self, cost: Cost) -> tuple[str, ...]:
        """Return a sentence for each limit on cost that a cost exceeds, or may exceed because it is unknown."""
        found = [
            _compared("latency", cost.latency, self.latency, "s"),
            _compared("energy", cost.energy, self.energy, "J"),
        ]
        if self.throughput is not None and (cost.throughput is None or cost.throughput < self.throughput):
            reached = "unknown" if cost.throughput is None else f"{cost.throughput:.3g}"
            found.append(f"the throughput is {reached} images/s, below the limit of {self.throughput:.3g}")
        for device in cost.devices:
            most = min((m for m in (self.memory, device.available) if m is not None), default=None)
            found.append(_compared(f"the memory of {device.device}", device.memory, most, "bytes"))
        return tuple(sentence for sentence in found if sentence is not None)


def _compared(name: str, value: float | None, limit: float | None, unit: str) -> str | None:
    """Return a sentence if a value exceeds a limit or is unknown, else None."""
    if limit is None or (value is not None and value <= limit):
        return None
    reached = "unknown" if value is None else f"{value:,.4g} {unit}"
    return f"{name} is {reached}, above the limit of {limit:,.4g} {unit}"
