"""S1's Fig. 3 as a cost model: seconds and joules of three edge devices, without and with Ascon on their links.

S1 measured no boards here: it joins a cipher's published speed with processors' data sheets (Sect. 2). So does
this: seconds = MACs / (MAC/s) + bytes x cycles a byte / clock, joules = seconds x watts. Both times are on one
core, one after the other; what a link takes to carry the bytes is apart, as S1 leaves it out.
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
"""After which layers MobileNet is cut, by what S1's "Layer 5" and "Layer 20" count: Keras' layers, as its Sect. 5
does, or convolutions, which alone fits its "at least 3 times"."""

LINK_RATE = 100e6
"""Bits a second of a link, where nothing else is said."""


@dataclass(frozen=True)
class EdgeProcessor:
    """One core: ``clock`` in Hz, ``power`` in W while it works, ``macs`` in multiply-accumulates a second."""

    name: str
    clock: float
    power: float
    macs: float
    note: str = ""

    def problems(self) -> Iterator[str]:
        """Return the problems of numbers that a processor cannot have."""
        for what, value in (("clock", self.clock), ("power", self.power), ("MAC/s", self.macs)):
            if not (isfinite(value) and value > 0):
                yield f"{self.name}: the {what} is {value:g}; expected a number above 0"


@dataclass(frozen=True)
class CipherCost:
    """A cipher's cost on one processor: ``table`` of (bytes of a message, cycles a byte), and ``long`` ones."""

    name: str
    table: tuple[tuple[int, float], ...]
    long: float

    def cycles_per_byte(self, length: int) -> float:
        """Return the cycles a byte of a message of ``length`` > 0 bytes.

        Between two lengths of the table a straight line in logarithms; above the last one what a message costs
        beyond ``long`` is spread over its bytes; below the first one a message costs what the first one does.
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
        """Return the cycles of a whole message; an empty one costs as much as the table's shortest."""
        if length:
            return length * self.cycles_per_byte(length)
        return self.table[0][0] * self.table[0][1] if self.table else 0.0

    def problems(self) -> Iterator[str]:
        """Return the problems of a table out of order, and of costs that a cipher cannot have."""
        if any(a >= b for (a, _), (b, _) in pairwise(self.table)) or any(length < 1 for length, _ in self.table):
            yield f"{self.name}: the table's lengths are {[n for n, _ in self.table]}; expected them from 1 upwards"
        for cost in (self.long, *(cost for _, cost in self.table)):
            if not (isfinite(cost) and cost > 0):
                yield f"{self.name}: {cost:g} cycles a byte; expected a number above 0"


class MeasuredPart(Document):
    """The median time of a device's part on this machine."""

    device: str
    macs: int
    seconds: float
    macs_a_second: float


class MeasuredMessage(Document):
    """The median times of sealing and opening a message; one whose last bit was flipped was refused."""

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
    """The measurements behind a preset of published numbers: none."""


@dataclass(frozen=True)
class Preset:
    """A source of the model's numbers: processors, and by a processor's name the cost of the cipher on it.

    Attributes:
        source: of the numbers.
        parts: by a device's name the seconds of its part, where they were measured: then no MAC/s is asked.
        assumed: assumptions that no source states, a sentence each.
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
        """Return the problems of numbers with which no computation can be made."""
        found: list[str] = []
        for processor in self.processors:
            found += processor.problems()
        for cipher in self.ciphers.values():
            found += cipher.problems()
        known = ", ".join(self.ciphers)
        missing = [p.name for p in self.processors if p.name not in self.ciphers]
        found += [
            f"{self.name}: no cost of the cipher on {name}; known is {known}; give cycles a byte"
            for name in missing
        ]
        return found


@document_part(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class DeviceLoad:
    """The work of one device for one image: MACs, and the bytes of each message that it opens and seals."""

    device: str
    macs: int
    opens: tuple[int, ...] = ()
    seals: tuple[int, ...] = ()

    @property
    def messages(self) -> tuple[int, ...]:
        """Return every message for which it pays the cipher once."""
        return self.opens + self.seals


@dataclass(frozen=True)
class Scenario:
    """S1's Fig. 2: a model cut after ``cuts`` over devices in a row; ``reading`` says what its layers count."""

    reading: Reading
    model: str
    cuts: tuple[str, ...]
    loads: tuple[DeviceLoad, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the different sizes of messages in bytes, smallest first."""
        return tuple(sorted(set().union(*(load.messages for load in self.loads))))


class CostBar(Document):
    """A pair of bars of Fig. 3: a device with a processor, without and with the cipher, for one image.

    ``bytes`` are all that the cipher sees. ``ratio`` is that of the times and, at one power, of the energies.
    ``link_seconds`` is the time of its link for the bytes that it sends, which no other number includes.
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
    """Return the bars of Fig. 3: for each device every processor.

    Args:
        preset: the costs of processors and of the cipher.
        scenario: the work of the devices.
        link_rate: bits a second of every link.

    Raises:
        ClovenError: for costs that cannot be, all together.
    """
    problems = [*preset.problems(), *rate_problems(link_rate)]
    if problems:
        raise ClovenError(problems)
    bars: list[CostBar] = []
    for load in scenario.loads:
        bars += (_bar(preset, processor, load, link_rate) for processor in preset.processors)
    return tuple(bars)


def rate_problems(link_rate: float) -> list[str]:
    """Return the problems of a link's rate."""
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
