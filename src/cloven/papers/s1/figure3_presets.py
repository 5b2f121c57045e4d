"""Numbers with which S1's Fig. 3 may have been made, side by side; and its "36 times" taken apart.

Of Fig. 3's 36 numbers S1 prints two. The preset ``implied`` is what these two imply, ``published`` has the cipher's
cost from its own designers. Clocks and powers are not in S1: they are parameters, and ratios of time do not depend
on the power, nor those of ``implied`` on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.papers.s1.figure3 import (
    LINK_RATE,
    CipherCost,
    CostBar,
    EdgeProcessor,
    Preset,
    Scenario,
    figure3,
    rate_problems,
)

PLAIN, PROTECTED = 0.122, 4.432
"""Seconds of ED1 on a Cortex-A7 without and with Ascon: the only bars that S1 prints (Sect. 2)."""
LEAST, MOST = 3.0, 36.4
"""The range of ratios in which S1 says that all its bars lie; 4.432 / 0.122, rounded up, for its "36"."""
FITTED = "Cortex-A7"

SOURCES: Mapping[str, str] = {
    "S1": "S1, Sect. 2 and Fig. 3: 0.122 s and 4.432 s for ED1 on a Cortex-A7, at least 3 up to 36 times",
    "Ascon": "Ascon-128, software performance, cycles a byte: ascon.iaik.tugraz.at/implementations.html and the "
    "README of github.com/ascon/ascon-c",
}


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Board:
    """A processor as it runs: ``clock`` in Hz, ``power`` in W. S1 gives neither."""

    name: str
    clock: float = 1e9
    power: float = 1.0

    def problems(self) -> Iterator[str]:
        """Return the problems of numbers that a board cannot have."""
        for what, value in (("clock", self.clock), ("power", self.power)):
            if not (isfinite(value) and value > 0):
                yield f"{self.name}: the {what} is {value:g}; expected a number above 0"


BOARDS = (Board("Cortex-A7"), Board("Cortex-A9"), Board("Cortex-A17"))
"""S1's three processors, all at 1 GHz and 1 W: joules are then those for each watt that a processor takes."""

A7_ARMV7 = CipherCost(
    "Ascon-128, ARMv7 code",
    ((1, 1871.0), (8, 292.0), (16, 175.0), (32, 115.0), (64, 86.6), (1536, 58.3)),
    57.2,
)
A7_NEON = CipherCost(
    "Ascon-128, NEON code", ((1, 2182.0), (8, 249.0), (16, 148.0), (32, 97.0), (64, 71.7), (1536, 47.5)), 46.5
)
A7_EBACS = CipherCost("Ascon-128, ARMv7 code, eBACS", ((64, 69.6), (1536, 52.0)), 51.6)
A9 = CipherCost("Ascon-128, ARMv7 code, eBACS", ((64, 51.7), (1536, 34.1)), 33.3)
A15 = CipherCost("Ascon-128, ARMv7 code, eBACS, of a Cortex-A15", ((64, 69.8), (1536, 36.2)), 34.6)

ON_A7 = (A7_ARMV7, A7_EBACS, A7_NEON)
"""Every published table for S1's first processor."""
PUBLISHED: Mapping[str, CipherCost] = {"Cortex-A7": A7_ARMV7, "Cortex-A9": A9, "Cortex-A17": A15}

SAME_MACS = (
    "S1's 0.122 s gives the MAC/s of the Cortex-A7; the others are given its cycles a MAC, at their own clock: "
    "not in S1"
)


def _rates(scenario: Scenario, boards: Sequence[Board]) -> tuple[EdgeProcessor, ...]:
    """Return every board with the cycles a MAC that S1's 0.122 s imply for the Cortex-A7."""
    macs_a_cycle = scenario.loads[0].macs / PLAIN / _fitted(boards).clock
    return tuple(
        EdgeProcessor(b.name, b.clock, b.power, macs_a_cycle * b.clock, "" if b.name == FITTED else "not in S1")
        for b in boards
    )


def _fitted(boards: Sequence[Board]) -> Board:
    return next((board for board in boards if board.name == FITTED), BOARDS[0])


def implied(scenario: Scenario, boards: Sequence[Board] = BOARDS) -> Preset:
    """Return the preset of S1's two numbers: MAC/s from 0.122 s, cycles a byte from 4.432 s less that.

    Raises:
        ClovenError: for impossible boards.
    """
    _check(boards)
    cost = (PROTECTED - PLAIN) * _fitted(boards).clock / sum(scenario.loads[0].messages)
    cipher = CipherCost("Ascon, as S1's two numbers imply", (), cost)
    return Preset(
        "implied",
        "what S1's two numbers imply",
        SOURCES["S1"],
        _rates(scenario, boards),
        {board.name: cipher for board in boards},
        assumed=(
            SAME_MACS,
            "Every processor is given the cycles a byte that S1 implies for the Cortex-A7: not in S1",
        ),
    )


def published(
    scenario: Scenario, boards: Sequence[Board] = BOARDS, ciphers: Mapping[str, CipherCost] = PUBLISHED
) -> Preset:
    """Return the preset of the designers' cycles a byte by a processor's name, with the MAC/s of S1's 0.122 s.

    Raises:
        ClovenError: for impossible boards.
    """
    _check(boards)
    return Preset(
        "published",
        "Ascon's published speeds",
        SOURCES["Ascon"],
        _rates(scenario, boards),
        ciphers,
        assumed=(SAME_MACS, "No speed is published for the Cortex-A17: it is given that of a Cortex-A15"),
    )


PRESETS: Mapping[str, Callable[[Scenario, Sequence[Board]], Preset]] = {"implied": implied, "published": published}
"""The presets that are known without measuring anything."""


def _check(boards: Sequence[Board]) -> None:
    if problems := board_problems(boards):
        raise ClovenError(problems)


def board_problems(boards: Sequence[Board]) -> list[str]:
    """Return the problems of boards."""
    named = [board.name for board in boards]
    found: list[str] = []
    for board in boards:
        found += board.problems()
    if len(set(named)) < len(named) or not named:
        found.append(f"the processors are {', '.join(named) or 'none'}; expected one or more, each once")
    return found


# --- the arithmetic -------------------------------------------------------------------------------------------


class Arithmetic(Document):
    """S1's 36 times taken apart, for one reading.

    Attributes:
        ratio: 4.432 s / 0.122 s.
        added_seconds: the cipher's.
        bytes: of the messages, for which the cipher takes these.
        macs_a_second: implied by 0.122 s.
        nanoseconds_a_byte: implied by the added seconds; the cycles a byte at 1 GHz.
        cycles_a_mac: at the Cortex-A7's clock.
        cycles_a_byte: at that clock.
        published: cycles a byte of published tables for such a message, least and most.
        factor: the implied cycles a byte over the published ones, least and most.
        short: published cycles of a message of one byte, least and most.
        short_clock: the clocks in Hz at which these would be S1's seconds if every byte were charged so.
        implied_ratios: of each device, on the Cortex-A7.
        published_ratios: likewise, least and most of the published tables.
        link_seconds: of the first link at its rate.
        within: the implied ratios all lie where S1 says that its bars lie.
        falling: at published speeds each device loses less than the one before it.
        sentences: the numbers in words.
    """

    reading: str
    ratio: float
    added_seconds: float
    bytes: int
    macs_a_second: float
    nanoseconds_a_byte: float
    clock: float
    cycles_a_mac: float
    cycles_a_byte: float
    published: tuple[float, float]
    factor: tuple[float, float]
    short: tuple[float, float]
    short_clock: tuple[float, float]
    implied_ratios: tuple[float, ...]
    published_ratios: tuple[tuple[float, float], ...]
    link_rate: float
    link_seconds: float
    within: bool
    falling: bool
    sentences: tuple[str, ...] = ()

    def in_words(self) -> tuple[str, ...]:
        """Return the numbers in sentences."""
        low, high = self.published
        inside = "all lie" if self.within else "do not all lie"
        order = "falling" if self.falling else "not falling"
        implied_ratios = " / ".join(f"{ratio:.1f}" for ratio in self.implied_ratios)
        published_ratios = " / ".join(f"{a:.2f} to {b:.2f}" for a, b in self.published_ratios)
        seconds = tuple(cost * self.bytes / self.clock for cost in self.published)
        return (
            f"S1 prints {PLAIN} s and {PROTECTED} s for ED1 on a {FITTED}: {self.ratio:.1f} times. The cipher "
            f"would take {self.added_seconds:.3f} s for {self.bytes:,} bytes, {self.nanoseconds_a_byte:,.0f} ns a "
            "byte.",
            f"At {self.clock / 1e9:g} GHz these are {self.cycles_a_byte:,.0f} cycles a byte; Ascon's designers "
            f"publish {low:.1f} to {high:.1f} for long messages on this processor, {self.factor[0]:.0f} to "
            f"{self.factor[1]:.0f} times fewer.",
            f"With what S1 implies, ED1 / ED2 / ED3 need {implied_ratios} times as long; under this reading they "
            f'{inside} within S1\'s "at least 3 times up to as much as 36 times".',
            f"S1 finds a similar excess, of energy, at ED2 on a Cortex-A17; with what ED1 on a {FITTED} implies it "
            f"is {self.implied_ratios[1]:.1f} times, not nearly {self.ratio:.0f}.",
            f"With published speeds they need {published_ratios} times as long, {order} from device to device.",
            f"{PLAIN} s imply {self.macs_a_second / 1e6:,.0f} million MACs a second, {self.cycles_a_mac:.1f} "
            f"cycles a MAC at {self.clock / 1e9:g} GHz.",
            f"A message of one byte costs {self.short[0]:,.0f} to {self.short[1]:,.0f} cycles. S1 may have charged "
            f"this for every byte: its seconds result at {self.short_clock[0] / 1e9:.2f} to "
            f"{self.short_clock[1] / 1e9:.2f} GHz. That is a guess; S1 does not say.",
            f"S1 leaves out the link: {self.bytes:,} bytes take {self.link_seconds:.3f} s at "
            f"{self.link_rate / 1e6:g} Mbit/s; Ascon at its published speed takes {seconds[0]:.3f} to "
            f"{seconds[1]:.3f} s for them.",
        )


def arithmetic(scenario: Scenario, boards: Sequence[Board] = BOARDS, *, link_rate: float = LINK_RATE) -> Arithmetic:
    """Take S1's 36 times apart for one reading, on the Cortex-A7 (of ``boards``, or at 1 GHz if it is not there).

    Raises:
        ClovenError: for impossible boards, or an impossible rate of the link.
    """
    if problems := board_problems(boards) + rate_problems(link_rate):
        raise ClovenError(problems)
    board, load = _fitted(boards), scenario.loads[0]
    fit = implied(scenario, [board])
    processor, length = fit.processors[0], sum(load.messages)
    added, cost = PROTECTED - PLAIN, fit.ciphers[board.name].long
    costs = _ends([cipher.cycles_per_byte(length) for cipher in ON_A7])
    short = _ends([cipher.table[0][1] for cipher in ON_A7 if cipher.table[0][0] == 1])
    each = [_ratios(figure3(published(scenario, [board], {board.name: cipher}), scenario)) for cipher in ON_A7]
    implied_ratios = _ratios(figure3(fit, scenario))
    published_ratios = tuple(_ends(ratios) for ratios in zip(*each, strict=True))
    falling = all(a[0] > b[0] and a[1] > b[1] for a, b in pairwise(published_ratios))
    numbers = Arithmetic(
        reading=scenario.reading,
        ratio=PROTECTED / PLAIN,
        added_seconds=added,
        bytes=length,
        macs_a_second=processor.macs,
        nanoseconds_a_byte=1e9 * added / length,
        clock=board.clock,
        cycles_a_mac=board.clock / processor.macs,
        cycles_a_byte=cost,
        published=costs,
        factor=(cost / costs[1], cost / costs[0]),
        short=short,
        short_clock=(short[0] * length / added, short[1] * length / added),
        implied_ratios=implied_ratios,
        published_ratios=published_ratios,
        link_rate=link_rate,
        link_seconds=8 * sum(load.seals) / link_rate,
        within=all(LEAST <= ratio <= MOST for ratio in implied_ratios),
        falling=falling,
    )
    return numbers.model_copy(update={"sentences": numbers.in_words()})


def _ratios(bars: Sequence[CostBar]) -> tuple[float, ...]:
    return tuple(bar.ratio for bar in bars)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
