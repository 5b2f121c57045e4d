"""Small multiples: little plots of one size, with the name of each line beside its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cloven.reporting import words
from cloven.reporting.canvas import LEFT, RIGHT, Canvas, Colour

TITLE, TICKS, GAP = 37.0, 18.0, 14.0  # heights above the plot, below it, and between rows
PLOT, STEP = 76.0, 12.0  # the least height of a plot, and of a name beside it
BETWEEN, GUTTER = 12.0, 26.0  # widths: between panels, left of a plot
NAMES = {1: 140.0, 2: 86.0}  # the width right of a plot, by how many stand in a row


@dataclass(frozen=True)
class Spot:
    """A point of a line; all of it from 0, left or below, to 1."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Points in order, and what stands beside the last of them."""

    name: str
    colour: Colour
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class Panel:
    """A plot; ticks and baseline are places from 0 to 1."""

    heading: str
    detail: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    baseline: float | None = None

    @property
    def height(self) -> float:
        """Return the plot's height: each name has room beside it."""
        return max(PLOT, STEP * len(self.lines))


def panels(name: str, title: str, drawn: Sequence[Panel], *, in_a_row: int = 2) -> str:
    """Return an inline SVG of ``drawn``, one or two in a row; every id in it starts with ``name``."""
    canvas, y = Canvas(), 0.0
    wide = (RIGHT - LEFT - BETWEEN * (in_a_row - 1)) / in_a_row
    for start in range(0, len(drawn), in_a_row):
        row = drawn[start : start + in_a_row]
        plot = max(panel.height for panel in row)
        for place, panel in enumerate(row):
            left = LEFT + place * (wide + BETWEEN)
            _Plot(canvas, panel, left, y + TITLE, wide, plot, NAMES[in_a_row]).draw()
        y += TITLE + plot + TICKS + GAP
    return canvas.svg(name, title, " ".join(_told(drawn)), y)


@dataclass(frozen=True)
class _Plot:
    """A panel at its place."""

    canvas: Canvas
    panel: Panel
    left: float
    top: float
    wide: float
    high: float
    names: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        across, up = (min(1.0, max(0.0, value)) for value in (x, y))
        return self.left + GUTTER + across * (self.wide - GUTTER - self.names), self.top + self.high * (1 - up)

    def draw(self) -> None:
        panel, write = self.panel, self.canvas.write
        write((self.left, self.top - 22), "name", panel.heading, room=self.wide)
        write((self.left, self.top - 10), "label", panel.detail, room=self.wide)
        for value, text in panel.up:
            self._rule("muted" if value == 0 else "grid", value)
            x, y = self.at(0, value)
            write((x - 5, y + 3.5), "tick", text, align="right")
        for value, text in panel.across:
            x, y = self.at(value, 0)
            write((x, y + 15.5), "tick", text, align="center")
        if panel.baseline is not None:
            self._rule("ink", panel.baseline)
            x, y = self.at(0, panel.baseline)
            self.canvas.dot("baseline", "ink", (x, y + 3.6))
        for line in panel.lines:
            self._line(line)
        self._names()

    def _rule(self, colour: Colour, value: float) -> None:
        self.canvas.line("grid", colour, 0.8 if colour != "ink" else 1.1, self.at(0, value), self.at(1, value))

    def _line(self, line: Line) -> None:
        for one, two in zip(line.spots, line.spots[1:], strict=False):
            width = 1.0 if line.colour == "muted" else 2.0
            self.canvas.line("interval", line.colour, width, self.at(one.x, one.y), self.at(two.x, two.y))
        for spot in line.spots:
            if spot.low is not None and spot.high is not None:
                self.canvas.line("halo", line.colour, 1.0, self.at(spot.x, spot.low), self.at(spot.x, spot.high))
            self.canvas.dot("share", line.colour, self.at(spot.x, spot.y))

    def _names(self) -> None:
        ended = sorted((self.at(line.spots[-1].x, line.spots[-1].y), i) for i, line in enumerate(self.panel.lines))
        ended.sort(key=lambda end: end[0][1])
        places = _apart([y for (_, y), _ in ended], self.top + STEP / 2, self.top + self.high, STEP)
        x = self.at(1, 0)[0] + 9
        for ((end, y), index), place in zip(ended, places, strict=True):
            line = self.panel.lines[index]
            if abs(place - y) > STEP / 3 or x - end > STEP:
                self.canvas.line("grid", "muted", 0.6, (end, y), (x - 2, place))
            self.canvas.write((x, place + 3.5), "label", line.name, room=self.names - 9)


def _apart(wanted: Sequence[float], top: float, bottom: float, step: float) -> list[float]:
    """Return places ``step`` apart, as near as can be to those wanted, which are in order."""
    found = list(wanted)
    for i, value in enumerate(found):
        found[i] = max(value, found[i - 1] + step if i else top)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], found[i + 1] - step if i + 1 < len(found) else bottom)
    return found


def _told(drawn: Sequence[Panel]) -> Iterator[str]:
    """Return each panel's lines by name, for readers who do not see them."""
    for panel in drawn:
        names = words.listed([line.name for line in panel.lines]) if panel.lines else "nothing"
        yield f"{panel.heading}, {panel.detail}: {names}."
