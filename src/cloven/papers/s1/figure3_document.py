"""The document of Fig. 3, with all numbers that it was computed from, and its bars as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.papers.s1.figure3 import (
    LINK_RATE,
    CostBar,
    DeviceLoad,
    MeasuredFacts,
    NoFacts,
    Preset,
    Reading,
    Scenario,
    figure3,
    rate_problems,
)
from cloven.papers.s1.figure3_presets import (
    BOARDS,
    PRESETS,
    SOURCES,
    Arithmetic,
    Board,
    arithmetic,
    board_problems,
)

ASSUMPTIONS = (
    "The paper does not state clocks and powers; they are parameters, 1 GHz and 1 W by default.",
    "A device computes and encrypts one after the other, on one core, at constant power: ratios of energy equal "
    "ratios of time.",
    "Decrypting a message costs as much as encrypting it. Tensors are float32, one message per link, no framing.",
    "The heights of two bars are in the paper's text; no other height was read off the picture.",
)


class PresetProcessor(Document):
    """A processor of a preset, and the cipher's cycles per byte on it by the bytes of a message."""

    name: str
    clock: float
    power: float
    macs: float
    note: str
    cipher: str
    cycles_a_byte: dict[str, float]


class PresetBars(Document):
    """The bars of a preset, and the numbers behind them."""

    name: str
    title: str
    source: str
    assumed: tuple[str, ...]
    processors: tuple[PresetProcessor, ...]
    facts: MeasuredFacts | NoFacts
    bars: tuple[CostBar, ...]


class CostReading(Document):
    """A reading of the paper's layer numbers: the scenario, the bars of each preset, and the paper's arithmetic."""

    reading: Reading
    model: str
    cuts: tuple[str, ...]
    devices: tuple[DeviceLoad, ...]
    presets: tuple[PresetBars, ...]
    arithmetic: Arithmetic


class CostFigure(Document):
    """Fig. 3, reproduced; ``link_bits`` is the rate of every link in bit/s."""

    schema_version: Literal[2] = 2
    paper: Literal["s1"] = "s1"
    figure: Literal["3"] = "3"
    link_bits: float
    boards: tuple[Board, ...]
    sources: dict[str, str]
    assumptions: tuple[str, ...]
    readings: tuple[CostReading, ...]


def document(
    scenarios: Sequence[Scenario],
    presets: Sequence[str] = tuple(PRESETS),
    *,
    measured: Mapping[str, Preset] | None = None,
    boards: Sequence[Board] = BOARDS,
    link_rate: float = LINK_RATE,
) -> CostFigure:
    """Return Fig. 3 for each reading and preset, with the paper's arithmetic.

    Args:
        scenarios: one for each reading.
        presets: names of `PRESETS`.
        measured: measured presets by reading; they come after the others.
        boards: the processors with their clocks (Hz) and powers (W).
        link_rate: the rate of every link in bit/s.

    Raises:
        ClovenError: for unknown presets, impossible boards and rates; it lists all of them.
    """
    hosts = measured or {}
    problems = _problems([scenario.reading for scenario in scenarios], presets, hosts)
    problems += board_problems(boards) + rate_problems(link_rate)
    if problems:
        raise ClovenError(problems)
    readings = []
    for scenario in scenarios:
        made = [PRESETS[name](scenario, boards) for name in presets]
        made += [hosts[scenario.reading]] if scenario.reading in hosts else []
        readings.append(
            CostReading(
                reading=scenario.reading,
                model=scenario.model,
                cuts=scenario.cuts,
                devices=scenario.loads,
                presets=tuple(_preset(preset, scenario, link_rate) for preset in made),
                arithmetic=arithmetic(scenario, boards, link_rate=link_rate),
            )
        )
    return CostFigure(
        link_bits=link_rate,
        boards=tuple(boards),
        sources=dict(SOURCES),
        assumptions=ASSUMPTIONS,
        readings=tuple(readings),
    )


def _problems(readings: Sequence[str], presets: Sequence[str], measured: Mapping[str, Preset]) -> list[str]:
    known = ", ".join(PRESETS)
    found = [f"unknown preset {name!r}; choose from {known}" for name in presets if name not in PRESETS]
    found += [
        f"a preset was measured for the reading {name!r}, which has no scenario; give its scenario too"
        for name in measured
        if name not in readings
    ]
    if len(set(readings)) < len(readings) or not readings:
        found.append(f"the readings are {', '.join(readings) or 'none'}; expected one or more, each once")
    return found


def _preset(preset: Preset, scenario: Scenario, link_rate: float) -> PresetBars:
    processors = []
    for processor in preset.processors:
        cipher = preset.ciphers[processor.name]
        costs = {str(size): cipher.cycles_per_byte(size) for size in scenario.sizes}
        processors.append(PresetProcessor(**asdict(processor), cipher=cipher.name, cycles_a_byte=costs))
    return PresetBars(
        name=preset.name,
        title=preset.title,
        source=preset.source,
        assumed=preset.assumed,
        processors=tuple(processors),
        facts=preset.facts,
        bars=figure3(preset, scenario, link_rate=link_rate),
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
