"""S1's Fig. 3 with everything that it was computed from: one table that can be written as JSON, and its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cloven.errors import ClovenError
from cloven.papers.s1.figure3 import LINK_RATE, Preset, Scenario, figure3, rate_problems
from cloven.papers.s1.figure3_presets import BOARDS, PRESETS, SOURCES, Board, arithmetic, board_problems

ASSUMPTIONS = (
    "Clocks and powers are not in S1: they are parameters, and where nobody gives them 1 GHz and 1 W.",
    "A device computes and encrypts one after the other, on one core, at one power: ratios of energy are those "
    "of time.",
    "Opening a message costs what sealing it does. What crosses is float32, one message a link, without framing.",
    "Two heights of S1's bars are in its text; no other is taken from the picture.",
)


def document(
    scenarios: Sequence[Scenario],
    presets: Sequence[str] = tuple(PRESETS),
    *,
    measured: Mapping[str, Preset] | None = None,
    boards: Sequence[Board] = BOARDS,
    link_rate: float = LINK_RATE,
) -> dict[str, Any]:
    """Fig. 3 for each reading and preset, with S1's arithmetic; plain lists, dicts, numbers and text.

    Args:
        scenarios: one for each reading that is wanted.
        presets: names of `PRESETS`.
        measured: by reading, a preset that was measured; it comes after the others.
        boards: the processors with their clocks (Hz) and powers (W).
        link_rate: bits a second of every link.

    Raises:
        ClovenError: for unknown presets, boards and rates that cannot be; all of it.
    """
    hosts = measured or {}
    problems = _problems([scenario.reading for scenario in scenarios], presets, hosts)
    problems += board_problems(boards) + rate_problems(link_rate)
    if problems:
        raise ClovenError(problems)
    rows = []
    for scenario in scenarios:
        made = [PRESETS[name](scenario, boards) for name in presets]
        made += [hosts[scenario.reading]] if scenario.reading in hosts else []
        rows.append(
            {
                **scenario.row(),
                "presets": [_preset(preset, scenario, link_rate) for preset in made],
                "arithmetic": arithmetic(scenario, boards, link_rate=link_rate).row(),
            }
        )
    return {
        "paper": "S1",
        "figure": "3",
        "link_bits": link_rate,
        "boards": [asdict(board) for board in boards],
        "sources": dict(SOURCES),
        "assumptions": list(ASSUMPTIONS),
        "readings": rows,
    }


def _problems(readings: Sequence[str], presets: Sequence[str], measured: Mapping[str, Preset]) -> list[str]:
    known = ", ".join(PRESETS)
    found = [f"no preset is named {name!r}; there are {known}" for name in presets if name not in PRESETS]
    found += [
        f"a preset was measured for the reading {name!r}, which is not shown; give its scenario too"
        for name in measured
        if name not in readings
    ]
    if len(set(readings)) < len(readings) or not readings:
        found.append(f"the readings are {', '.join(readings) or 'none'}; expected one or more, each once")
    return found


def _preset(preset: Preset, scenario: Scenario, link_rate: float) -> dict[str, Any]:
    return {
        "name": preset.name,
        "title": preset.title,
        "source": preset.source,
        "assumed": list(preset.assumed),
        "processors": [
            {
                **asdict(processor),
                "cipher": preset.ciphers[processor.name].name,
                "cycles_a_byte": {
                    str(size): preset.ciphers[processor.name].cycles_per_byte(size) for size in scenario.sizes
                },
            }
            for processor in preset.processors
        ],
        "facts": dict(preset.facts),
        "bars": [bar.row() for bar in figure3(preset, scenario, link_rate=link_rate)],
    }


def table(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every bar of a document as a row for people: its columns' names with units -> numbers rounded, or text."""
    return [
        {
            "reading": reading["reading"],
            "preset": preset["name"],
            "device": bar["device"],
            "processor": bar["processor"],
            "MMAC": round(bar["macs"] / 1e6, 1),
            "bytes": bar["bytes"],
            "s without": _short(bar["seconds_without"]),
            "s with": _short(bar["seconds_with"]),
            "J without": _short(bar["joules_without"]),
            "J with": _short(bar["joules_with"]),
            "times": round(bar["ratio"], 2),
            "s on the link": _short(bar["link_seconds"]),
        }
        for reading in made["readings"]
        for preset in reading["presets"]
        for bar in preset["bars"]
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
