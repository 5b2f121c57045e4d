"""Fig. 3 as a cost model: seconds and joules of three edge devices, without and with Ascon on their links.

The paper did not measure boards for this figure: it combines a cipher's published speed with the data sheets of
processors (Sect. 2). This module does the same: seconds = MACs / (MAC/s) + bytes x cycles per byte / clock, and
joules = seconds x watts. A core computes and encrypts one after the other. The time on the link is a separate
number, since the paper leaves it out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, isfinite, log
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as document_part

from cloven.documents import Document
from cloven.errors import ClovenError

Reading = Literal["keras", "convolutions"]

READINGS: Mapping[Reading, tuple[str, str]] = {
    "keras": ("s1:5", "s1:20"),
    "convolutions": ("conv_pw_2", "conv_dw_10"),
}
"""The layers after which MobileNet is cut, under two readings of the paper's "Layer 5" and "Layer 20".

They count Keras' layers, as the paper's Sect. 5 does, or convolutions; only the second fits its "at least 3 times".
"""

LINK_RATE = 100e6
"""The default rate of a link in bit/s."""


@dataclass(frozen=True)
class EdgeProcessor:
    """One core: ``clock`` in Hz, ``power`` in W under load, ``macs`` in multiply-accumulates per second."""

    name: str
    clock: float
    power: float
    macs: float
    note: str = ""

    def problems(self) -> Iterator[str]:
        """Yield an error for each value that is not a positive number."""
        for what, value in (("clock", self.clock), ("power", self.power), ("MAC/s", self.macs)):
            if not (isfinite(value) and value > 0):
                yield f"{self.name}: the {what} is {value:g}; expected a number above 0"


@dataclass(frozen=True)
class CipherCost:
    """A cipher's cost on one processor.

    Attributes:
        name: the cipher's.
        table: (bytes of a message, cycles per byte), in ascending order of bytes.
        long: cycles per byte of a long message.
    """

    name: str
    table: tuple[tuple[int, float], ...]
    long: float

    def cycles_per_byte(self, length: int) -> float:
        """Return the cycles per byte of a message of ``length`` > 0 bytes.

        Between two lengths of the table, the logarithms are interpolated linearly. Above the last length, the cost
        of that length beyond ``long`` is fixed for each message. Below the first length, a message costs as many
        cycles as one of the first length.
        """
        lengths = [known for known, _ in self.table]
        if not lengths:
            return self.long
        (first, at_first), (last, at_last) = self.table[0], self.table[-1]
        if length <= first:
            return at_first * first / length
        if length >= last:
            return self.long + (at_last - self.long) * last / length
        above = bisect_left(lengths, length)
        (a, low), (b, high) = self.table[above - 1 : above + 1]
        share = log(length / a) / log(b / a)
        return exp((1 - share) * log(low) + share * log(high))

    def cycles(self, length: int) -> float:
        """Return the cycles of a whole message; an empty one costs as much as the shortest one in the table."""
        if length:
            return length * self.cycles_per_byte(length)
        return self.table[0][0] * self.table[0][1] if self.table else 0.0

    def problems(self) -> Iterator[str]:
        """Yield an error for a table out of order, and for each cost that is not a positive number."""
        if any(a >= b for (a, _), (b, _) in pairwise(self.table)) or any(length < 1 for length, _ in self.table):
            lengths = [length for length, _ in self.table]
            yield f"{self.name}: the lengths in the table are {lengths}; expected ascending numbers from 1"
        for cost in (self.long, *(cost for _, cost in self.table)):
            if not (isfinite(cost) and cost > 0):
                yield f"{self.name}: the cost is {cost:g} cycles per byte; expected a number above 0"


class MeasuredPart(Document):
    """The median time of a device's part on this machine."""

    device: str
    macs: int
    seconds: float
    macs_a_second: float


class MeasuredMessage(Document):
    """The median times to encrypt and decrypt a message; ``changed_refused`` if a flipped bit was detected."""

    bytes: int
    seal_s: float
    open_s: float
    sealed: int
    opened: int
    changed_refused: bool


class MeasuredFacts(Document):
    """The measurements behind a preset of this machine."""

    threads: int
    runs: int
    cipher: str
    parts: tuple[MeasuredPart, ...]
    messages: tuple[MeasuredMessage, ...]


class NoFacts(Document):
    """The empty measurements of a preset of published numbers."""


@dataclass(frozen=True)
class Preset:
    """A set of numbers for the cost model.

    Attributes:
        name: the key in `figure3_presets.PRESETS`, or ``measured``.
        title: the title in charts.
        source: the source of the numbers.
        processors: the processors.
        ciphers: the cost of the cipher by the processor's name.
        parts: the measured seconds of a device's part by the device's name; they replace the estimate from MAC/s.
        assumed: assumptions that no source states, one sentence each.
        facts: the measurements.
    """

    name: str
    title: str
    source: str
    processors: tuple[EdgeProcessor, ...]
    ciphers: Mapping[str, CipherCost]
    parts: Mapping[str, float] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    facts: MeasuredFacts | NoFacts = field(default_factory=NoFacts)

    def problems(self) -> list[str]:
        """Return an error for each impossible number and each missing cost."""
        found: list[str] = []
        for processor in self.processors:
            found += processor.problems()
        for cipher in self.ciphers.values():
            found += cipher.problems()
        known = ", ".join(self.ciphers)
        missing = [p.name for p in self.processors if p.name not in self.ciphers]
        found += [
            f"{self.name}: the cost of the cipher on {name} is missing, only those on {known} are given; add it"
            for name in missing
        ]
        return found


@document_part(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class DeviceLoad:
    """The work of one device for one image: MACs, and the bytes of each message that it decrypts and encrypts."""

    device: str
    macs: int
    opens: tuple[int, ...] = ()
    seals: tuple[int, ...] = ()

    @property
    def messages(self) -> tuple[int, ...]:
        """Return the bytes of every message that the device decrypts or encrypts."""
        return self.opens + self.seals


@dataclass(frozen=True)
class Scenario:
    """The paper's Fig. 2: a model cut after ``cuts`` over a chain of devices; ``reading`` is from `READINGS`."""

    reading: Reading
    model: str
    cuts: tuple[str, ...]
    loads: tuple[DeviceLoad, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the distinct message sizes in bytes, smallest first."""
        return tuple(sorted(set().union(*(load.messages for load in self.loads))))


class CostBar(Document):
    """A pair of bars of Fig. 3: a device with a processor, without and with the cipher, for one image.

    ``bytes`` are those that the cipher processes. ``ratio`` is the ratio of the times and, since the power is
    constant, of the energies. ``link_seconds`` is the time to send the device's messages; no other number includes
    it.
    """

    device: str
    processor: str
    macs: int
    bytes: int
    seconds_without: float
    seconds_with: float
    joules_without: float
    joules_with: float
    ratio: float
    link_seconds: float


def figure3(preset: Preset, scenario: Scenario, *, link_rate: float = LINK_RATE) -> tuple[CostBar, ...]:
    """Return the bars of Fig. 3, one for each device and processor.

    Args:
        preset: the costs of processors and of the cipher.
        scenario: the work of the devices.
        link_rate: the rate of every link in bit/s.

    Raises:
        ClovenError: for impossible costs or an impossible rate; it lists all of them.
    """
    problems = [*preset.problems(), *rate_problems(link_rate)]
    if problems:
        raise ClovenError(problems)
    bars: list[CostBar] = []
    for load in scenario.loads:
        bars += (_bar(preset, processor, load, link_rate) for processor in preset.processors)
    return tuple(bars)


def rate_problems(link_rate: float) -> list[str]:
    """Return an error if a link's rate is not a positive number."""
    right = isfinite(link_rate) and link_rate > 0
    return [] if right else [f"the link's rate is {link_rate:g} bit/s; expected a number above 0"]


def _bar(preset: Preset, processor: EdgeProcessor, load: DeviceLoad, link_rate: float) -> CostBar:
    cipher = preset.ciphers[processor.name]
    without = preset.parts.get(load.device, load.macs / processor.macs)
    both = without + sum(map(cipher.cycles, load.messages)) / processor.clock
    return CostBar(
        device=load.device,
        processor=processor.name,
        macs=load.macs,
        bytes=sum(load.messages),
        seconds_without=without,
        seconds_with=both,
        joules_without=without * processor.power,
        joules_with=both * processor.power,
        ratio=both / without,
        link_seconds=8 * sum(load.seals) / link_rate,
    )
