"""Learning curves and defences as panels: from the summary's rows to places in a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloven.reporting import words
from cloven.reporting.digest import Metric, colour
from cloven.reporting.panels import Line, Panel, Spot
from cloven.reporting.verdicts import Verdict

RISES = "not converged"
STEPS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AxisScale:
    """From values to 0..1, with ticks at the ends and in the middle."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The place and the text of each."""
        values = [self.low, *([0.0] if self.low < 0 else [(self.low + self.high) / 2]), self.high]
        return tuple((self(value), words.short(value)) for value in values)


def scale(values: Sequence[float | None]) -> AxisScale:
    """From 0, or below it, to the next step above all values."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    low = 0.0 if low > -0.05 else low  # an interval that reaches a little below is cut
    top = next((step for step in STEPS if high <= step), 1.0)
    return AxisScale(0.0 if low >= 0 else max(-1.0, math.floor(low * 5) / 5), top)


def curves(rows: Sequence[Row], found: Sequence[Verdict], metric: Metric) -> list[Panel]:
    """A panel for each observation, in the order of ``found``; a line for each attack that has this score."""
    scored = [row for row in rows if _points(row, metric)]
    scores = [
        point[metric][part] for row in scored for point in row["points"] if point[metric] for part in point[metric]
    ]
    up = scale(scores)
    panels = []
    for verdict in found:
        mine = [row for row in scored if row["observation"] == verdict.row["observation"]]
        if mine:
            panels.append(_curves(mine, verdict, metric, up))
    return panels


def _curves(mine: Sequence[Row], verdict: Verdict, metric: Metric, up: AxisScale) -> Panel:
    pairs = sorted({point["pairs"] for row in mine for point in row["points"]})
    first, last = math.log(max(1, pairs[0])), math.log(max(1, pairs[-1]))

    def across(amount: int) -> float:
        return (math.log(max(1, amount)) - first) / (last - first) if last > first else 0.5

    own = verdict.row["strongest"][metric]
    best = own["attack"] if own else None
    reading = verdict.readings[metric]
    floor = own["floor"] if own else reading.score["floor"] if reading else None
    lines = [
        Line(
            words.clean(row["attack"], 24)
            + (" ↗" if row["metric"] == metric and row["converged"] == RISES else ""),
            colour(row["strategy"]) if row["attack"] == best else "muted",
            tuple(_spot(across(point["pairs"]), point[metric], up) for point in _points(row, metric)),
        )
        for row in sorted(mine, key=lambda row: row["attack"] == best)
    ]
    shown = pairs if len(pairs) <= 3 else [pairs[0], pairs[-1]]
    ticks = tuple((across(amount), words.thousands(amount)) for amount in shown)
    placed = None if floor is None or not words.known(floor) else up(floor)
    return Panel(named(verdict.row), where(verdict.row), tuple(lines), ticks, up.ticks(), placed)


def _points(row: Row, metric: Metric) -> list[Row]:
    return [point for point in row["points"] if point[metric] and words.known(point[metric]["mean"])]


def _spot(x: float, score: Row, up: AxisScale) -> Spot:
    low, high = (up(score[part]) if words.known(score[part]) else None for part in ("low", "high"))
    return Spot(x, up(score["mean"]), low, high)


def named(row: Row) -> str:
    """``Layer 2, horizontal, int8``."""
    how = [] if row["transform"] == "none" else [words.clean(row["transform"], 24)]
    return ", ".join([words.clean(row["label"], 40), words.clean(row["strategy"], 24), *how])


def where(row: Row) -> str:
    """``edge0 → edge1``; links that taps put together with ``and``; ``no link``."""
    links = [row["link"]] if row["link"] else row["links"]
    return (
        " and ".join(" → ".join(words.clean(device, 32) for device in link) for link in links if link) or "no link"
    )


def defences(rows: Sequence[Row], metric: Metric) -> list[Panel]:
    """A panel for each strategy: what is still computed right, upwards, against what leaks, to the right."""
    known = [row for row in rows if row[metric] and words.known(row[metric]["above"]) and words.known(kept(row))]
    if not known:
        return []
    across = scale([max(0.0, row[metric]["above"]) for row in known])
    lowest = math.floor(10 * min(kept(row) or 0.0 for row in known)) / 10
    up = AxisScale(min(lowest, 0.9), 1.0)
    return [
        Panel(
            words.clean(strategy, 40),
            "accuracy against leakage above the floor",
            tuple(
                Line(
                    f"{words.clean(row['transform'], 24)}, {words.size(row['bytes'])}",
                    colour(strategy),
                    (Spot(across(row[metric]["above"]), up(kept(row) or 0.0)),),
                )
                for row in known
                if row["strategy"] == strategy
            ),
            across.ticks(),
            up.ticks(),
        )
        for strategy in dict.fromkeys(row["strategy"] for row in known)
    ]


def kept(row: Row) -> float | None:
    """The accuracy with a defence; agreement with the whole model where nobody knows the labels."""
    accuracy: float | None = row["accuracy"] if words.known(row["accuracy"]) else row["agreement_with_the_model"]
    return accuracy
