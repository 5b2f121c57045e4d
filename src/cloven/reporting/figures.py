"""The charts of bars: a group for each layer, a row for each strategy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloven.reporting import words
from cloven.reporting.canvas import LEFT, RIGHT, Box, Canvas, Colour

HEADING, LABEL, GAP, AXIS = 32.0, 17.0, 11.0, 18.0  # heights
LANE, THINNEST, THICKEST = 5.5, 12.0, 44.0  # a bar has a lane for each share
ROOM = RIGHT - LEFT - 40.0  # for words; the rest of a row is for the value at its right end


@dataclass(frozen=True)
class Mark:
    """One share's mean and its 95 % interval."""

    mean: float | None
    low: float | None
    high: float | None
    sent: bool = True  # the link carries it


@dataclass(frozen=True)
class Bar:
    """One row: a name, the mean over its shares, each share, and the baseline."""

    name: str
    detail: str
    colour: Colour
    mean: float | None
    baseline: float | None
    marks: tuple[Mark, ...]
    hatched: bool = False  # counted by the paper's view
    dashed: bool = False  # no link carries any of its shares

    @property
    def thickness(self) -> float:
        """Return the bar's height."""
        return min(THICKEST, max(THINNEST, LANE * len(self.marks)))

    @property
    def height(self) -> float:
        """Return the whole row's height: words above, bar below."""
        return LABEL + self.thickness + GAP


@dataclass(frozen=True)
class BarGroup:
    """The bars of one layer."""

    heading: str
    detail: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> float:
        """Return the height of the heading and all its rows."""
        return HEADING + sum(bar.height for bar in self.bars)


@dataclass(frozen=True)
class _Scale:
    """From a score to a chart's units: from the lowest score, or 0, to 1."""

    lowest: float

    def __call__(self, score: float) -> float:
        inside = min(1.0, max(self.lowest, score))
        return LEFT + (RIGHT - LEFT) * (inside - self.lowest) / (1 - self.lowest)

    def ticks(self) -> list[float]:
        return [tick for tick in (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0) if tick >= self.lowest]


def bars(name: str, title: str, groups: Sequence[BarGroup]) -> str:
    """Return an inline SVG of ``groups``; every id in it starts with ``name``."""
    canvas = Canvas()
    height = 2 * AXIS + sum(group.height for group in groups)
    _draw(canvas, groups, height)
    return canvas.svg(name, title, _told(groups), height)


def _draw(canvas: Canvas, groups: Sequence[BarGroup], height: float) -> None:
    scale = _Scale(_lowest(groups))
    y = AXIS
    for group in groups:
        canvas.line("grid", "grid", 1.0, (LEFT, y + 5), (RIGHT, y + 5))
        canvas.write((LEFT, y + 22), "heading", group.heading, aside=group.detail, room=ROOM)
        y += HEADING
        for bar in group.bars:
            _row(canvas, scale, bar, y)
            y += bar.height
    for baseline in (AXIS - 6, height - 5):
        _axis(canvas, scale, baseline)


def _row(canvas: Canvas, scale: _Scale, bar: Bar, y: float) -> None:
    top = y + LABEL
    bottom = top + bar.thickness
    canvas.write((LEFT, y + 11), "name", bar.name, aside=bar.detail, room=ROOM)
    canvas.write((RIGHT, y + 11), "value", words.number(bar.mean), align="right")
    for tick in scale.ticks():
        colour: Colour = "muted" if tick == 0 else "grid"
        canvas.line("grid", colour, 0.8, (scale(tick), top - 2), (scale(tick), bottom + 2))
    if bar.mean is not None:
        start, end = scale(0.0), scale(bar.mean)
        box = Box(min(start, end), top, abs(end - start), bar.thickness, bar.colour, bar.hatched, bar.dashed)
        canvas.boxes.append(box)
        canvas.line("end", bar.colour, 2.2, (end, top), (end, bottom))
    _shares(canvas, scale, bar, top)
    if bar.baseline is not None:
        at = scale(bar.baseline)
        canvas.line("baseline", "ink", 1.5, (at, top - 2), (at, bottom + 2))
        canvas.dot("baseline", "ink", (at, bottom + 3.6))


def _shares(canvas: Canvas, scale: _Scale, bar: Bar, top: float) -> None:
    lane = bar.thickness / max(1, len(bar.marks))
    for index, mark in enumerate(bar.marks):
        y = top + lane * (index + 0.5)
        if mark.low is not None and mark.high is not None:
            ends = (scale(mark.low), y), (scale(mark.high), y)
            canvas.line("halo", "paper", 3.2, *ends)
            canvas.line("interval", bar.colour, 1.3, *ends)
        if mark.mean is not None:
            canvas.dot("share" if mark.sent else "ghost", bar.colour, (scale(mark.mean), y))


def _axis(canvas: Canvas, scale: _Scale, y: float) -> None:
    for tick in scale.ticks():
        align = "left" if scale(tick) == LEFT else "right" if tick == 1 else "center"
        label = words.number(tick).rstrip("0").rstrip(".") if tick % 1 else words.number(tick, 0)
        canvas.write((scale(tick), y), "tick", label, align=align)


def _lowest(groups: Sequence[BarGroup]) -> float:
    """Return the left end of the scale: 0, or what holds the lowest score or interval, in tenths."""
    scores = [score for bar in _each(groups) for mark in bar.marks for score in (mark.mean, mark.low)]
    scores += [score for bar in _each(groups) for score in (bar.mean, bar.baseline)]
    lowest = min((score for score in scores if score is not None), default=0.0)
    return 0.0 if lowest >= 0 else max(-1.0, math.floor(lowest * 10) / 10)


def _each(groups: Sequence[BarGroup]) -> Iterator[Bar]:
    return (bar for group in groups for bar in group.bars)


def _told(groups: Sequence[BarGroup]) -> str:
    """Return the chart in one sentence per bar, for readers who do not see it."""
    return " ".join(
        f"{group.heading}, {bar.name}{', ' + bar.detail if bar.detail else ''}: "
        f"{words.number(bar.mean)}, baseline {words.number(bar.baseline)}."
        for group in groups
        for bar in group.bars
    )
