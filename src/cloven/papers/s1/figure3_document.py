"""The document of Fig. 3, with all numbers that it was computed from, and its bars as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from cloven.cost.profile import DeviceProfile, LinkProfile
from cloven.documents import Document
from cloven.papers.s1.figure3 import LINK, CostBar, Preset, Reading, Scenario, figure3
from cloven.papers.s1.figure3_presets import BOARDS, SOURCES, Arithmetic, Board, arithmetic, implied, published

ASSUMPTIONS = (
    "The paper does not state clocks and powers; they are parameters, 1 GHz and 1 W by default.",
    "A device computes and encrypts one after the other, on one core, at constant power: ratios of energy equal "
    "ratios of time.",
    "Decrypting a message costs as much as encrypting it. Tensors are float32, one message per link, no framing.",
    "The heights of two bars are in the paper's text; no other height was read off the picture.",
)


class PresetBars(Document):
    """The bars of a preset, and the numbers behind them: a profile for each processor."""

    name: str
    title: str
    source: str
    assumed: tuple[str, ...]
    profiles: dict[str, DeviceProfile]
    bars: tuple[CostBar, ...]


class CostReading(Document):
    """A reading of the paper's layer numbers: the bars of each preset, and the paper's arithmetic."""

    reading: Reading
    model: str
    cuts: tuple[str, ...]
    presets: tuple[PresetBars, ...]
    arithmetic: Arithmetic


class CostFigure(Document):
    """Fig. 3, reproduced; ``link`` is the profile of every link."""

    schema_version: Literal[3] = 3
    paper: Literal["s1"] = "s1"
    figure: Literal["3"] = "3"
    link: LinkProfile
    boards: tuple[Board, ...]
    sources: dict[str, str]
    assumptions: tuple[str, ...]
    readings: tuple[CostReading, ...]


def document(
    scenarios: Sequence[Scenario], boards: Sequence[Board] = BOARDS, measured: Mapping[str, Preset] | None = None
) -> CostFigure:
    """Return Fig. 3 for each reading and preset, with the paper's arithmetic.

    Args:
        scenarios: one for each reading.
        boards: the processors with their clocks (Hz) and powers (W).
        measured: measured presets by reading; they come after the others.
    """
    readings = []
    for scenario in scenarios:
        presets = [implied(scenario, boards), published(scenario, boards)]
        presets += [preset for reading, preset in (measured or {}).items() if reading == scenario.reading]
        readings.append(
            CostReading(
                reading=scenario.reading,
                model=scenario.model,
                cuts=scenario.cuts,
                presets=tuple(_bars(preset, scenario) for preset in presets),
                arithmetic=arithmetic(scenario, boards),
            )
        )
    return CostFigure(
        link=LINK,
        boards=tuple(boards),
        sources=dict(SOURCES),
        assumptions=ASSUMPTIONS,
        readings=tuple(readings),
    )


def _bars(preset: Preset, scenario: Scenario) -> PresetBars:
    return PresetBars(
        name=preset.name,
        title=preset.title,
        source=preset.source,
        assumed=preset.assumed,
        profiles=dict(preset.profiles),
        bars=figure3(preset.profiles, scenario),
    )


def table(made: CostFigure) -> list[dict[str, str | float]]:
    """Return a row for each bar, for display: column names with units -> rounded numbers, or text."""
    rows: list[dict[str, str | float]] = []
    for reading in made.readings:
        for preset in reading.presets:
            rows += (_row(reading, preset, bar) for bar in preset.bars)
    return rows


def _row(reading: CostReading, preset: PresetBars, bar: CostBar) -> dict[str, str | float]:
    return {
        "reading": reading.reading,
        "preset": preset.name,
        "device": bar.device,
        "processor": bar.processor,
        "MMAC": round(bar.macs / 1e6, 1),
        "bytes": bar.bytes,
        "s without": _short(bar.seconds_without),
        "s with": _short(bar.seconds_with),
        "J without": _short(bar.joules_without),
        "J with": _short(bar.joules_with),
        "times": round(bar.ratio, 2),
        "s on the link": _short(bar.link_seconds),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
