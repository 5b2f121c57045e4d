"""Numbers from which Fig. 3 may have been computed, side by side, and an analysis of its "36 times".

The paper prints two of the 36 numbers in Fig. 3. The preset ``implied`` has what these two imply, ``published`` the
cipher's cost as published by its designers, from the profiles that come with cloven. The paper does not state
clocks and powers, so they are parameters here. Ratios of time do not depend on the power, and those of ``implied``
do not depend on the clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from cloven.cost.profile import CipherTime, ComputeCost, DeviceProfile, Positive, read_profile
from cloven.documents import Document
from cloven.papers.s1.figure3 import CIPHER, FIRST, LINK, Preset, Scenario, constant_power, figure3

PLAIN, PROTECTED = 0.122, 4.432
"""Seconds of ED1 on a Cortex-A7 without and with Ascon: the only bars whose heights are in the text (Sect. 2)."""
LEAST, MOST = 3.0, 36.4
"""The range of all ratios according to the paper; its "36" is 4.432 / 0.122, here rounded up."""

SOURCES: Mapping[str, str] = {
    "paper": "Mehrafrooz et al. (2025), Sect. 2 and Fig. 3: 0.122 s and 4.432 s for ED1 on a Cortex-A7, at least 3 "
    "up to 36 times",
    "Ascon": "Ascon-128, software performance in cycles per byte: ascon.iaik.tugraz.at/implementations.html and "
    "the README of github.com/ascon/ascon-c",
}

CLOCK = 1e9
"""The clock in Hz that the profiles of the paper's processors are for."""


class Board(Document):
    """A processor with its ``clock`` in Hz and its ``power`` in W; the paper states neither."""

    name: str
    clock: Positive = CLOCK
    power: Positive = 1.0

    def profile(self, macs_per_second: float, cipher: CipherTime) -> DeviceProfile:
        """Return the shipped profile of the processor with another speed, cipher and this power."""
        compute = ComputeCost(origin="assumed", note=SAME_MACS, macs_per_second=macs_per_second)
        name = f"ARM {self.name}, one core at {self.clock / 1e9:g} GHz"
        changes = {
            "name": name,
            "compute": compute,
            "ciphers": {CIPHER: cipher},
            "power": constant_power(self.power),
        }
        return shipped(self.name).model_copy(update=changes)


A7 = Board(name="Cortex-A7")
BOARDS = (A7, Board(name="Cortex-A9"), Board(name="Cortex-A17"))
"""The paper's three processors at 1 GHz and 1 W: the joules are then those per watt of power."""

SHORT = (1871.0, 2182.0)
"""The published cycles of a message of one byte on a Cortex-A7: ARMv7 code, NEON code."""

SAME_MACS = (
    "The paper's 0.122 s gives the MAC/s of the Cortex-A7; the other processors are assumed to need as many cycles "
    "per MAC, which the paper does not state"
)


def shipped(processor: str) -> DeviceProfile:
    """Return the profile of one of the paper's processors that comes with cloven, at 1 GHz."""
    return read_profile(DeviceProfile, processor.lower(), Path())


def from_cycles(long: float, at_1536: float, note: str) -> CipherTime:
    """Return a cipher's time at 1 GHz from the cycles per byte of a long message, and of one of 1,536 bytes."""
    return CipherTime(origin="source", note=note, message=1536 * (at_1536 - long) / CLOCK, byte=long / CLOCK)


def on_a7() -> tuple[CipherTime, ...]:
    """Return all published times for the paper's first processor, at 1 GHz."""
    return (
        shipped(A7.name).ciphers[CIPHER],
        from_cycles(51.6, 52.0, "Ascon-128, ARMv7 code, eBACS"),
        from_cycles(46.5, 47.5, "Ascon-128, NEON code"),
    )


def implied(scenario: Scenario, boards: Sequence[Board] = BOARDS) -> Preset:
    """Return the preset of the paper's two numbers: MAC/s from 0.122 s, the cipher from 4.432 s less 0.122 s."""
    a7 = _a7(boards)
    cipher = CipherTime(
        origin="assumed",
        note="Ascon, implied by the paper's two numbers",
        message=0.0,
        byte=(PROTECTED - PLAIN) * a7.clock / CLOCK / scenario.sent,
    )
    return Preset(
        "implied",
        "implied by the paper's two numbers",
        SOURCES["paper"],
        {board.name: _profile(scenario, a7, board, cipher) for board in boards},
        assumed=(
            SAME_MACS,
            "All processors are assumed to need the cycles per byte that the paper implies for the Cortex-A7",
        ),
    )


def published(scenario: Scenario, boards: Sequence[Board] = BOARDS) -> Preset:
    """Return the preset of the cipher's published costs, with the MAC/s that the paper's 0.122 s imply."""
    a7 = _a7(boards)
    return Preset(
        "published",
        "Ascon's published speeds",
        SOURCES["Ascon"],
        {board.name: _profile(scenario, a7, board, shipped(board.name).ciphers[CIPHER]) for board in boards},
        assumed=(SAME_MACS, "There is no published speed for the Cortex-A17: that of a Cortex-A15 is assumed"),
    )


def _a7(boards: Sequence[Board]) -> Board:
    return next((board for board in boards if board.name == A7.name), A7)


def _profile(scenario: Scenario, a7: Board, board: Board, cipher: CipherTime) -> DeviceProfile:
    """Return a board's profile, given the cipher's time at 1 GHz; the cycles per MAC are the paper's on a7."""
    faster = board.clock / CLOCK
    times = {"message": cipher.message / faster, "byte": cipher.byte / faster}
    macs_per_second = scenario.program.macs(FIRST) / PLAIN * board.clock / a7.clock
    return board.profile(macs_per_second, cipher.model_copy(update=times))


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
            f"The paper prints {PLAIN} s and {PROTECTED} s for ED1 on a {A7.name}, a ratio of {self.ratio:.1f}. "
            f"The cipher would take {self.added_seconds:.3f} s for {self.bytes:,} bytes, or "
            f"{self.nanoseconds_a_byte:,.0f} ns per byte.",
            f"At {self.clock / 1e9:g} GHz this is {self.cycles_a_byte:,.0f} cycles per byte. Ascon's designers "
            f"publish {low:.1f} to {high:.1f} for long messages on this processor, {self.factor[0]:.0f} to "
            f"{self.factor[1]:.0f} times fewer.",
            f"At the speeds that the paper implies, ED1 / ED2 / ED3 take {implied_ratios} times as long with the "
            f"cipher as without. Under this reading these ratios {inside} within the paper's \"at least 3 times up "
            'to as much as 36 times".',
            f"The paper reports a similar ratio of energies for ED2 on a Cortex-A17; the speeds that ED1 on a "
            f"{A7.name} implies give {self.implied_ratios[1]:.1f} for ED2, not {self.ratio:.0f}.",
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


def arithmetic(scenario: Scenario, boards: Sequence[Board] = BOARDS) -> Arithmetic:
    """Return an analysis of the paper's "36 times" for one reading, on the Cortex-A7.

    The Cortex-A7 is the one of ``boards``, or one at 1 GHz if ``boards`` has none.
    """
    a7, length, macs = _a7(boards), scenario.sent, scenario.program.macs(FIRST)
    added = PROTECTED - PLAIN
    cost = added * a7.clock / length
    costs = _ends([CLOCK * (cipher.byte + cipher.message / length) for cipher in on_a7()])
    implied_ratios = _ratios(scenario, implied(scenario, [a7]).profiles[a7.name])
    each = [_ratios(scenario, _profile(scenario, a7, a7, cipher)) for cipher in on_a7()]
    published_ratios = tuple(_ends(ratios) for ratios in zip(*each, strict=True))
    numbers = Arithmetic(
        reading=scenario.reading,
        ratio=PROTECTED / PLAIN,
        added_seconds=added,
        bytes=length,
        macs_a_second=macs / PLAIN,
        nanoseconds_a_byte=1e9 * added / length,
        clock=a7.clock,
        cycles_a_mac=a7.clock * PLAIN / macs,
        cycles_a_byte=cost,
        published=costs,
        factor=(cost / costs[1], cost / costs[0]),
        short=SHORT,
        short_clock=(SHORT[0] * length / added, SHORT[1] * length / added),
        implied_ratios=implied_ratios,
        published_ratios=published_ratios,
        link_rate=LINK.transmission.bandwidth,
        link_seconds=8 * length / LINK.transmission.bandwidth,
        within=all(LEAST <= ratio <= MOST for ratio in implied_ratios),
        falling=all(a[0] > b[0] and a[1] > b[1] for a, b in pairwise(published_ratios)),
    )
    return numbers.model_copy(update={"sentences": numbers.in_words()})


def _ratios(scenario: Scenario, profile: DeviceProfile) -> tuple[float, ...]:
    return tuple(bar.ratio for bar in figure3({profile.name: profile}, scenario))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
