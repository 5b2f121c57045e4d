"""Numbers from which Fig. 3 may have been computed, side by side, and an analysis of its "36 times".

The paper prints two of the 36 numbers in Fig. 3. The preset ``implied`` has what these two imply, ``published`` the
cipher's cost as published by its designers. The paper does not state clocks and powers, so they are parameters
here. Ratios of time do not depend on the power, and those of ``implied`` do not depend on the clock.
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
"""Seconds of ED1 on a Cortex-A7 without and with Ascon: the only bars whose heights are in the text (Sect. 2)."""
LEAST, MOST = 3.0, 36.4
"""The range of all ratios according to the paper; its "36" is 4.432 / 0.122, here rounded up."""
FITTED = "Cortex-A7"

SOURCES: Mapping[str, str] = {
    "paper": "Mehrafrooz et al. (2025), Sect. 2 and Fig. 3: 0.122 s and 4.432 s for ED1 on a Cortex-A7, at least 3 "
    "up to 36 times",
    "Ascon": "Ascon-128, software performance in cycles per byte: ascon.iaik.tugraz.at/implementations.html and "
    "the README of github.com/ascon/ascon-c",
}


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Board:
    """A processor with its ``clock`` in Hz and its ``power`` in W; the paper states neither."""

    name: str
    clock: float = 1e9
    power: float = 1.0

    def problems(self) -> Iterator[str]:
        """Yield an error for each value that is not a positive number."""
        for what, value in (("clock", self.clock), ("power", self.power)):
            if not (isfinite(value) and value > 0):
                yield f"{self.name}: the {what} is {value:g}; expected a number above 0"


BOARDS = (Board("Cortex-A7"), Board("Cortex-A9"), Board("Cortex-A17"))
"""The paper's three processors at 1 GHz and 1 W: the joules are then those per watt of power."""

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
"""All published tables for the paper's first processor."""
PUBLISHED: Mapping[str, CipherCost] = {"Cortex-A7": A7_ARMV7, "Cortex-A9": A9, "Cortex-A17": A15}

SAME_MACS = (
    "The paper's 0.122 s gives the MAC/s of the Cortex-A7; the other processors are assumed to need as many cycles "
    "per MAC, which the paper does not state"
)


NOT_STATED = "not in the paper"


def _rates(scenario: Scenario, boards: Sequence[Board]) -> tuple[EdgeProcessor, ...]:
    """Return every board with the cycles per MAC that the paper's 0.122 s imply for the Cortex-A7."""
    macs_a_cycle = scenario.loads[0].macs / PLAIN / _fitted(boards).clock
    return tuple(
        EdgeProcessor(b.name, b.clock, b.power, macs_a_cycle * b.clock, "" if b.name == FITTED else NOT_STATED)
        for b in boards
    )


def _fitted(boards: Sequence[Board]) -> Board:
    return next((board for board in boards if board.name == FITTED), BOARDS[0])


def implied(scenario: Scenario, boards: Sequence[Board] = BOARDS) -> Preset:
    """Return the preset of the paper's two numbers: MAC/s from 0.122 s, cycles per byte from 4.432 s less 0.122 s.

    Raises:
        ClovenError: for impossible boards.
    """
    _check(boards)
    cost = (PROTECTED - PLAIN) * _fitted(boards).clock / sum(scenario.loads[0].messages)
    cipher = CipherCost("Ascon, implied by the paper's two numbers", (), cost)
    return Preset(
        "implied",
        "implied by the paper's two numbers",
        SOURCES["paper"],
        _rates(scenario, boards),
        {board.name: cipher for board in boards},
        assumed=(
            SAME_MACS,
            "All processors are assumed to need the cycles per byte that the paper implies for the Cortex-A7",
        ),
    )


def published(
    scenario: Scenario, boards: Sequence[Board] = BOARDS, ciphers: Mapping[str, CipherCost] = PUBLISHED
) -> Preset:
    """Return the preset of the cipher's published costs, with the MAC/s that the paper's 0.122 s imply.

    Args:
        scenario: the work of the devices.
        boards: the processors.
        ciphers: the published cost by the processor's name.

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
        assumed=(SAME_MACS, "There is no published speed for the Cortex-A17: that of a Cortex-A15 is assumed"),
    )


PRESETS: Mapping[str, Callable[[Scenario, Sequence[Board]], Preset]] = {"implied": implied, "published": published}
"""The presets that need no measurement, by name."""


def _check(boards: Sequence[Board]) -> None:
    if problems := board_problems(boards):
        raise ClovenError(problems)


def board_problems(boards: Sequence[Board]) -> list[str]:
    """Return an error for each impossible board, and for missing or repeated ones."""
    named = [board.name for board in boards]
    found: list[str] = []
    for board in boards:
        found += board.problems()
    if len(set(named)) < len(named) or not named:
        found.append(f"the processors are {', '.join(named) or 'none'}; expected one or more, each once")
    return found


# --- the arithmetic -------------------------------------------------------------------------------------------


class Arithmetic(Document):
    """An analysis of the paper's "36 times" under one reading.

    Attributes:
        reading: the reading of the layer numbers.
        ratio: 4.432 s / 0.122 s.
        added_seconds: the time that the cipher adds.
        bytes: the bytes that the cipher processes in this time.
        macs_a_second: implied by 0.122 s.
        nanoseconds_a_byte: implied by the added seconds; equal to the cycles per byte at 1 GHz.
        clock: the clock of the Cortex-A7 in Hz.
        cycles_a_mac: at this clock.
        cycles_a_byte: at this clock.
        published: published cycles per byte of a message of this size, lowest and highest.
        factor: the implied cycles per byte over the published ones, lowest and highest.
        short: published cycles of a message of one byte, lowest and highest.
        short_clock: the clocks in Hz at which ``short`` cycles for every byte would take the added seconds.
        implied_ratios: the ratio of times with and without the cipher of each device, on the Cortex-A7.
        published_ratios: the same ratios at published speeds, lowest and highest.
        link_rate: the rate of the links in bit/s.
        link_seconds: the time of the first link.
        within: whether all implied ratios lie in the range that the paper gives.
        falling: whether the ratios at published speeds fall from device to device.
        sentences: the numbers in sentences.
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
            f"The paper prints {PLAIN} s and {PROTECTED} s for ED1 on a {FITTED}, a ratio of {self.ratio:.1f}. The "
            f"cipher would take {self.added_seconds:.3f} s for {self.bytes:,} bytes, or "
            f"{self.nanoseconds_a_byte:,.0f} ns per byte.",
            f"At {self.clock / 1e9:g} GHz this is {self.cycles_a_byte:,.0f} cycles per byte. Ascon's designers "
            f"publish {low:.1f} to {high:.1f} for long messages on this processor, {self.factor[0]:.0f} to "
            f"{self.factor[1]:.0f} times fewer.",
            f"At the speeds that the paper implies, ED1 / ED2 / ED3 take {implied_ratios} times as long with the "
            f"cipher as without. Under this reading these ratios {inside} within the paper's \"at least 3 times up "
            'to as much as 36 times".',
            f"The paper reports a similar ratio of energies for ED2 on a Cortex-A17; the speeds that ED1 on a "
            f"{FITTED} implies give {self.implied_ratios[1]:.1f} for ED2, not {self.ratio:.0f}.",
            f"At published speeds the devices take {published_ratios} times as long with the cipher as without, "
            f"{order} from device to device.",
            f"{PLAIN} s implies {self.macs_a_second / 1e6:,.0f} million MACs per second, {self.cycles_a_mac:.1f} "
            f"cycles per MAC at {self.clock / 1e9:g} GHz.",
            f"A message of one byte costs {self.short[0]:,.0f} to {self.short[1]:,.0f} cycles. If every byte cost "
            f"as much, the paper's seconds would result at {self.short_clock[0] / 1e9:.2f} to "
            f"{self.short_clock[1] / 1e9:.2f} GHz. This is a guess: the paper does not say how it computed them.",
            f"The paper leaves out the link: {self.bytes:,} bytes take {self.link_seconds:.3f} s at "
            f"{self.link_rate / 1e6:g} Mbit/s. At its published speed, Ascon takes {seconds[0]:.3f} to "
            f"{seconds[1]:.3f} s for them.",
        )


def arithmetic(scenario: Scenario, boards: Sequence[Board] = BOARDS, *, link_rate: float = LINK_RATE) -> Arithmetic:
    """Return an analysis of the paper's "36 times" for one reading, on the Cortex-A7.

    The Cortex-A7 is the one of ``boards``, or one at 1 GHz if ``boards`` has none.

    Raises:
        ClovenError: for impossible boards or an impossible link rate.
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
