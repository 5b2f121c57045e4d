"""Learning curves and defences as panels: from the summary's rows to places in a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cloven.auditing.finding import Finding, Metric, ScoreRange
from cloven.auditing.summary import CurvePoint, DefenceSummary, LearningCurve, ObservationSummary, Over
from cloven.reporting import words
from cloven.reporting.digest import AXIS_OF, colour
from cloven.reporting.panels import Line, Panel, Spot
from cloven.reporting.verdicts import Verdict

STEPS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class AxisScale:
    """From values to 0..1, with ticks at the ends and in the middle."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return the place and the text of each tick."""
        values = [self.low, *([0.0] if self.low < 0 else [(self.low + self.high) / 2]), self.high]
        return tuple((self(value), words.short(value)) for value in values)


def scale(values: Sequence[float | None]) -> AxisScale:
    """Return a scale from 0, or below it, to the next step above all values."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    low = 0.0 if low > -0.05 else low  # an interval that reaches a little below is cut
    top = next((step for step in STEPS if high <= step), 1.0)
    return AxisScale(0.0 if low >= 0 else max(-1.0, math.floor(low * 5) / 5), top)


def curves(rows: Sequence[LearningCurve], found: Sequence[Verdict], metric: Metric, over: Over) -> list[Panel]:
    """Return a panel for each observation, in the order of ``found``; a line for each attack with this score.

    It lies over the number of pairs, or over the share of the training time.
    """
    scored = [row for row in rows if row.over == over and _points(row, metric)]
    ends: list[float] = []
    for row in scored:
        for _, score in _points(row, metric):
            ends += (score.low, score.mean, score.high)
    up = scale(ends)
    panels: list[Panel] = []
    for verdict in found:
        mine = [row for row in scored if row.observation == verdict.row.observation]
        if mine:
            panels.append(_curves(mine, verdict, metric, over, up))
    return panels


def _curves(mine: Sequence[LearningCurve], verdict: Verdict, metric: Metric, over: Over, up: AxisScale) -> Panel:
    def amount(point: CurvePoint) -> float:
        return point.pairs if over == "pairs" else point.time

    amounts = sorted({amount(point) for row in mine for point in row.points})
    first, last = math.log(amounts[0]), math.log(amounts[-1])

    def across(value: float) -> float:
        return (math.log(value) - first) / (last - first) if last > first else 0.5

    own = verdict.row.own.on(AXIS_OF[metric])
    best = own.attack if own is not None else None
    reading = verdict.readings[metric]
    baseline = own.baseline if own is not None else reading.score.baseline if reading is not None else None
    lines: list[Line] = []
    for row in sorted(mine, key=lambda row: row.attack == best):
        rise = row.rise(metric)
        rises = " ↗" if rise is not None and rise.shows == "rises" else ""
        spots = tuple(
            Spot(across(amount(point)), up(score.mean), up(score.low), up(score.high))
            for point, score in _points(row, metric)
        )
        hue = colour(row.strategy) if row.attack == best else "muted"
        lines.append(Line(words.clean(row.attack, 24) + rises, hue, spots))
    shown = amounts if len(amounts) <= 3 else [amounts[0], amounts[-1]]
    said = words.thousands if over == "pairs" else words.share
    ticks = tuple((across(value), said(value)) for value in shown)
    placed = None if baseline is None else up(baseline)
    return Panel(named(verdict.row), where(verdict.row), tuple(lines), ticks, up.ticks(), placed)


def _points(row: LearningCurve, metric: Metric) -> list[tuple[CurvePoint, ScoreRange]]:
    scores = [(point, point.ssim if metric == "ssim" else point.agreement) for point in row.points]
    return [(point, score) for point, score in scores if score is not None]


def named(row: ObservationSummary | LearningCurve | Finding) -> str:
    """Return ``Layer 2, horizontal, int8``."""
    how = [] if row.transform == "none" else [words.clean(row.transform, 24)]
    return ", ".join([words.clean(row.label, 40), words.clean(row.strategy, 24), *how])


def where(row: ObservationSummary | Finding) -> str:
    """Return ``edge0 → edge1``; links that taps put together with ``and``; ``no link``."""
    links = [row.link] if row.link else row.links
    shown = (" → ".join(words.clean(device, 32) for device in link) for link in links if link)
    return " and ".join(shown) or "no link"


def defences(rows: Sequence[DefenceSummary], metric: Metric) -> list[Panel]:
    """Return a panel for each strategy: what is still computed right, upwards, against what leaks, to the right."""
    known = [(row, score) for row in rows if (score := row.most.on(AXIS_OF[metric])) is not None]
    if not known:
        return []
    across = scale([score.leakage.high for _, score in known])
    lowest = math.floor(10 * min(kept(row) for row, _ in known)) / 10
    up = AxisScale(min(lowest, 0.9), 1.0)
    panels: list[Panel] = []
    for strategy in dict.fromkeys(row.strategy for row, _ in known):
        lines: list[Line] = []
        for row, score in known:
            if row.strategy == strategy:
                name = f"{words.clean(row.transform, 24)}, {words.size(row.bytes)}"
                spot = Spot(across(score.leakage.high), up(kept(row)))
                lines.append(Line(name, colour(strategy), (spot,)))
        heading = words.clean(strategy, 40)
        panels.append(Panel(heading, "accuracy against leakage", tuple(lines), across.ticks(), up.ticks()))
    return panels


def kept(row: DefenceSummary) -> float:
    """Return the accuracy with a defence; agreement with the whole model where nobody knows the labels."""
    return row.agreement_with_the_model if row.accuracy is None else row.accuracy
