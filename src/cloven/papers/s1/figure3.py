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
from typing import Any, Literal

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
        """Numbers that no processor has."""
        for what, value in (("clock", self.clock), ("power", self.power), ("MAC/s", self.macs)):
            if not (isfinite(value) and value > 0):
                yield f"{self.name}: the {what} is {value:g}; expected a number above 0"


@dataclass(frozen=True)
class CipherCost:
    """What a cipher costs on one processor: ``table`` of (bytes of a message, cycles a byte), and ``long`` ones."""

    name: str
    table: tuple[tuple[int, float], ...]
    long: float

    def cycles_per_byte(self, length: int) -> float:
        """Cycles a byte of a message of ``length`` > 0 bytes.

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
        """Cycles of a whole message; one without a byte costs what the table's shortest does."""
        if length:
            return length * self.cycles_per_byte(length)
        return self.table[0][0] * self.table[0][1] if self.table else 0.0

    def problems(self) -> Iterator[str]:
        """A table that is out of order, or costs that no cipher has."""
        if any(a >= b for (a, _), (b, _) in pairwise(self.table)) or any(length < 1 for length, _ in self.table):
            yield f"{self.name}: the table's lengths are {[n for n, _ in self.table]}; expected them from 1 upwards"
        for cost in (self.long, *(cost for _, cost in self.table)):
            if not (isfinite(cost) and cost > 0):
                yield f"{self.name}: {cost:g} cycles a byte; expected a number above 0"


@dataclass(frozen=True)
class Preset:
    """Where the model's numbers come from: processors, and by a processor's name what the cipher costs on it.

    Attributes:
        source: who says so.
        parts: by a device's name the seconds of its part, where they were measured: then no MAC/s is asked.
        assumed: what nobody says and was decided, a sentence each.
        facts: what was measured, to be kept beside the results.
    """

    name: str
    title: str
    source: str
    processors: tuple[EdgeProcessor, ...]
    ciphers: Mapping[str, CipherCost]
    parts: Mapping[str, float] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """All that no computation can be made with."""
        found = [problem for processor in self.processors for problem in processor.problems()]
        found += [problem for cipher in self.ciphers.values() for problem in cipher.problems()]
        known = ", ".join(self.ciphers)
        missing = [p.name for p in self.processors if p.name not in self.ciphers]
        found += [
            f"{self.name}: no cost of the cipher on {name}; known is {known}; give cycles a byte"
            for name in missing
        ]
        return found


@dataclass(frozen=True)
class DeviceLoad:
    """What one device does for one image: MACs, and the bytes of each message that it opens and seals."""

    device: str
    macs: int
    opens: tuple[int, ...] = ()
    seals: tuple[int, ...] = ()

    @property
    def messages(self) -> tuple[int, ...]:
        """Every message that costs it the cipher once."""
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
        """The bytes of each message, once each, smallest first."""
        return tuple(sorted({size for load in self.loads for size in load.messages}))

    def row(self) -> dict[str, Any]:
        """The scenario for JSON readers."""
        devices = [
            {"device": load.device, "macs": load.macs, "opens": list(load.opens), "seals": list(load.seals)}
            for load in self.loads
        ]
        return {"reading": self.reading, "model": self.model, "cuts": list(self.cuts), "devices": devices}


@dataclass(frozen=True)
class CostBar:
    """A pair of bars of Fig. 3: a device with a processor, for one image; ``bytes`` are all that the cipher sees.

    ``link_seconds`` is what its link takes to carry what it sends, in none of the other numbers.
    """

    device: str
    processor: str
    macs: int
    bytes: int
    plain_seconds: float
    cipher_seconds: float
    power: float
    link_seconds: float

    @property
    def seconds(self) -> float:
        """With the cipher."""
        return self.plain_seconds + self.cipher_seconds

    @property
    def plain_joules(self) -> float:
        """Without the cipher."""
        return self.plain_seconds * self.power

    @property
    def joules(self) -> float:
        """With the cipher."""
        return self.seconds * self.power

    @property
    def ratio(self) -> float:
        """How many times more with the cipher than without: of time, and of energy, as the power is one."""
        return self.seconds / self.plain_seconds

    def row(self) -> dict[str, Any]:
        """The bar for JSON readers: SI units, and MACs and bytes of one image."""
        return {
            "device": self.device,
            "processor": self.processor,
            "macs": self.macs,
            "bytes": self.bytes,
            "seconds_without": self.plain_seconds,
            "seconds_with": self.seconds,
            "joules_without": self.plain_joules,
            "joules_with": self.joules,
            "ratio": self.ratio,
            "link_seconds": self.link_seconds,
        }


def figure3(preset: Preset, scenario: Scenario, *, link_rate: float = LINK_RATE) -> tuple[CostBar, ...]:
    """The bars of Fig. 3: for each device every processor.

    Args:
        preset: what processors and the cipher cost.
        scenario: what the devices do.
        link_rate: bits a second of every link.

    Raises:
        ClovenError: for costs that cannot be, all together.
    """
    problems = [*preset.problems(), *rate_problems(link_rate)]
    if problems:
        raise ClovenError(problems)
    return tuple(_bar(preset, p, load, link_rate) for load in scenario.loads for p in preset.processors)


def rate_problems(link_rate: float) -> list[str]:
    """What is wrong with a link's rate."""
    right = isfinite(link_rate) and link_rate > 0
    return [] if right else [f"the link's rate is {link_rate:g} bit/s; expected a number above 0"]


def _bar(preset: Preset, processor: EdgeProcessor, load: DeviceLoad, link_rate: float) -> CostBar:
    cipher = preset.ciphers[processor.name]
    return CostBar(
        device=load.device,
        processor=processor.name,
        macs=load.macs,
        bytes=sum(load.messages),
        plain_seconds=preset.parts.get(load.device, load.macs / processor.macs),
        cipher_seconds=sum(map(cipher.cycles, load.messages)) / processor.clock,
        power=processor.power,
        link_seconds=8 * sum(load.seals) / link_rate,
    )
