"""The charts. Matplotlib places boxes, lines and markers; the page's stylesheet gives colour and type.

Two stand-ins make that possible. Colours are sentinels that become CSS variables, so a chart follows light and
dark. Words are tokens that become escaped text after the drawing, so matplotlib never lays out, nor parses as
mathematics, a string that came from somebody else, and the page's own font sets it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal
from unicodedata import east_asian_width

from cloven.errors import require
from cloven.report import words

WIDTH = 400.0  # a chart's units: about one CSS pixel on a phone, 1.3 on a desk
LEFT, RIGHT = 6.0, 394.0
HEADING, LABEL, GAP, AXIS = 32.0, 17.0, 11.0, 18.0  # heights
LANE, THINNEST, THICKEST = 5.5, 12.0, 44.0  # a bar has a lane for each share
LETTER = {"heading": 8.0, "name": 7.0, "aside": 6.2}  # the width of a letter where type is largest, rounded up
VALUE = 40.0  # the room for the value at the right end of a row
COLOURS = {
    "ink": "#010101",
    "muted": "#010102",
    "grid": "#010103",
    "paper": "#010104",
    "vertical": "#010105",
    "horizontal": "#010106",
    "data": "#010107",
    "other": "#010108",
}
LAYERS = ("grid", "bar", "end", "halo", "interval", "share", "ghost", "floor")  # what is drawn over what
DOTS: dict[str, dict[str, Any]] = {
    "share": {"marker": "o", "markersize": 5, "markeredgecolor": COLOURS["paper"], "markeredgewidth": 0.8},
    "ghost": {"marker": "o", "markersize": 4.4, "markerfacecolor": COLOURS["paper"], "markeredgewidth": 1.2},
    "floor": {"marker": "^", "markersize": 4.6, "markeredgewidth": 0},
}
Point = tuple[float, float]
Colour = Literal["ink", "muted", "grid", "paper", "vertical", "horizontal", "data", "other"]

_REFERENCE = re.compile(r'(?:url\(#|href="#)([\w-]+)')
_TEXT = re.compile(r'<text style="([^"]*)" x="([^"]*)" y="([^"]*)"[^>]*>@(\d+)@</text>')


@dataclass(frozen=True)
class Mark:
    """One share's mean and its 95 % interval."""

    mean: float | None
    low: float | None
    high: float | None
    sent: bool = True  # the link carries it


@dataclass(frozen=True)
class Bar:
    """One row: a name, the mean over its shares, each share, and the floor."""

    name: str
    detail: str
    colour: Colour
    mean: float | None
    floor: float | None
    marks: tuple[Mark, ...]
    hatched: bool = False  # counted by the paper's view
    dashed: bool = False  # no link carries any of its shares

    @property
    def thickness(self) -> float:
        """The bar's height."""
        return min(THICKEST, max(THINNEST, LANE * len(self.marks)))

    @property
    def height(self) -> float:
        """The whole row's height: words above, bar below."""
        return LABEL + self.thickness + GAP


@dataclass(frozen=True)
class Group:
    """The bars of one layer."""

    heading: str
    detail: str
    bars: tuple[Bar, ...]

    @property
    def height(self) -> float:
        """The heading's and all its rows' height."""
        return HEADING + sum(bar.height for bar in self.bars)


@dataclass
class _Canvas:
    """What is to be drawn, gathered by kind: matplotlib is quick with many lines of one kind only."""

    texts: list[tuple[str, str]] = field(default_factory=list)  # kind and markup, by token
    places: list[tuple[float, float, str, str]] = field(default_factory=list)
    lines: dict[tuple[str, Colour, float], list[tuple[Point, Point]]] = field(default_factory=dict)
    dots: dict[tuple[str, Colour], list[Point]] = field(default_factory=dict)
    boxes: list[tuple[Bar, float, float, float]] = field(default_factory=list)

    def line(self, layer: str, colour: Colour, width: float, start: Point, end: Point) -> None:
        self.lines.setdefault((layer, colour, width), []).append((start, end))

    def write(self, x: float, y: float, kind: str, text: str, aside: str = "", *, align: str = "left") -> None:
        letter = LETTER.get(kind, 0.0)
        shown = _fitted(text, RIGHT - LEFT - VALUE, letter) if letter else text
        rest = _fitted(aside, RIGHT - LEFT - VALUE - letter * _columns(shown), LETTER["aside"])
        tail = f'<tspan class="aside" dx="6">{escape(rest)}</tspan>' if rest else ""
        self.places.append((x, y, f"@{len(self.texts)}@", align))
        self.texts.append((kind, escape(shown) + tail))

    def onto(self, axes: Any) -> None:
        """Draw all of it."""
        from matplotlib.collections import LineCollection

        for bar, x, y, width in self.boxes:
            for patch in _patches(bar, x, y, width):
                axes.add_patch(patch)
        for (layer, colour, width), ends in self.lines.items():
            style: dict[str, Any] = {"colors": COLOURS[colour], "linewidths": width, "zorder": LAYERS.index(layer)}
            axes.add_collection(LineCollection(ends, clip_on=False, **style), autolim=False)
        for (layer, colour), points in self.dots.items():
            style = DOTS[layer] | {"color": COLOURS[colour], "zorder": LAYERS.index(layer)}
            axes.plot(*zip(*points, strict=True), linestyle="none", clip_on=False, **style)
        for x, y, token, align in self.places:
            axes.text(x, y, token, ha=align, va="baseline", fontsize=8, parse_math=False, clip_on=False)


def _patches(bar: Bar, x: float, y: float, width: float) -> Iterator[Any]:
    from matplotlib.patches import Rectangle

    box, colour = ((x, y), width, bar.thickness), COLOURS[bar.colour]
    tint: dict[str, Any] = {"facecolor": colour, "alpha": 0.32}
    fill = {"facecolor": "none", "hatch": "////"} if bar.hatched else tint
    yield Rectangle(*box, edgecolor=colour, linewidth=0, zorder=LAYERS.index("bar"), clip_on=False, **fill)
    if bar.dashed:
        outline: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "linestyle": (0, (3, 2))}
        yield Rectangle(*box, linewidth=1.1, zorder=LAYERS.index("end"), clip_on=False, **outline)


@dataclass(frozen=True)
class _Scale:
    """From a score to a chart's units: from the lowest score, or 0, to 1."""

    lowest: float

    def __call__(self, score: float) -> float:
        inside = min(1.0, max(self.lowest, score))
        return LEFT + (RIGHT - LEFT) * (inside - self.lowest) / (1 - self.lowest)

    def ticks(self) -> list[float]:
        return [tick for tick in (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0) if tick >= self.lowest]


def bars(name: str, title: str, groups: Sequence[Group]) -> str:
    """An inline SVG of ``groups``; every id in it starts with ``name``."""
    canvas = _Canvas()
    height = 2 * AXIS + sum(group.height for group in groups)
    _draw(canvas, groups, height)
    return _dressed(_svg(name, height, canvas), name, title, _told(groups), canvas.texts)


def _svg(name: str, height: float, canvas: _Canvas) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise require("audit", error) from error
    settings: Any = {"svg.hashsalt": f"cloven-{name}", "svg.fonttype": "none", "hatch.linewidth": 0.9}
    with mpl.rc_context():
        mpl.rcdefaults()  # nothing of the reader's own matplotlib settings
        mpl.rcParams.update(settings)
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        canvas.onto(axes)
        buffer = io.StringIO()
        nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nobody)
    return buffer.getvalue()


def _draw(canvas: _Canvas, groups: Sequence[Group], height: float) -> None:
    scale = _Scale(_lowest(groups))
    y = AXIS
    for group in groups:
        canvas.line("grid", "grid", 1.0, (LEFT, y + 5), (RIGHT, y + 5))
        canvas.write(LEFT, y + 22, "heading", group.heading, group.detail)
        y += HEADING
        for bar in group.bars:
            _row(canvas, scale, bar, y)
            y += bar.height
    for baseline in (AXIS - 6, height - 5):
        _axis(canvas, scale, baseline)


def _row(canvas: _Canvas, scale: _Scale, bar: Bar, y: float) -> None:
    top = y + LABEL
    bottom = top + bar.thickness
    canvas.write(LEFT, y + 11, "name", bar.name, bar.detail)
    canvas.write(RIGHT, y + 11, "value", words.number(bar.mean), align="right")
    for tick in scale.ticks():
        colour: Colour = "muted" if tick == 0 else "grid"
        canvas.line("grid", colour, 0.8, (scale(tick), top - 2), (scale(tick), bottom + 2))
    if bar.mean is not None:
        start, end = scale(0.0), scale(bar.mean)
        canvas.boxes.append((bar, min(start, end), top, abs(end - start)))
        canvas.line("end", bar.colour, 2.2, (end, top), (end, bottom))
    _shares(canvas, scale, bar, top)
    if bar.floor is not None:
        at = scale(bar.floor)
        canvas.line("floor", "ink", 1.5, (at, top - 2), (at, bottom + 2))
        canvas.dots.setdefault(("floor", "ink"), []).append((at, bottom + 3.6))


def _shares(canvas: _Canvas, scale: _Scale, bar: Bar, top: float) -> None:
    lane = bar.thickness / max(1, len(bar.marks))
    for index, mark in enumerate(bar.marks):
        y = top + lane * (index + 0.5)
        if mark.low is not None and mark.high is not None:
            ends = (scale(mark.low), y), (scale(mark.high), y)
            canvas.line("halo", "paper", 3.2, *ends)
            canvas.line("interval", bar.colour, 1.3, *ends)
        if mark.mean is not None:
            canvas.dots.setdefault(("share" if mark.sent else "ghost", bar.colour), []).append(
                (scale(mark.mean), y)
            )


def _axis(canvas: _Canvas, scale: _Scale, y: float) -> None:
    for tick in scale.ticks():
        align = "left" if scale(tick) == LEFT else "right" if tick == 1 else "center"
        label = words.number(tick).rstrip("0").rstrip(".") if tick % 1 else words.number(tick, 0)
        canvas.write(scale(tick), y, "tick", label, align=align)


def _lowest(groups: Sequence[Group]) -> float:
    """The left end of the scale: 0, or what holds the lowest score or interval, in tenths."""
    scores = [score for bar in _each(groups) for mark in bar.marks for score in (mark.mean, mark.low)]
    scores += [score for bar in _each(groups) for score in (bar.mean, bar.floor)]
    lowest = min((score for score in scores if score is not None), default=0.0)
    return 0.0 if lowest >= 0 else max(-1.0, math.floor(lowest * 10) / 10)


def _each(groups: Sequence[Group]) -> Iterator[Bar]:
    return (bar for group in groups for bar in group.bars)


def _told(groups: Sequence[Group]) -> str:
    """The chart in one sentence per bar, for who does not see it."""
    return " ".join(
        f"{group.heading}, {bar.name}{', ' + bar.detail if bar.detail else ''}: "
        f"{words.number(bar.mean)}, floor {words.number(bar.floor)}."
        for group in groups
        for bar in group.bars
    )


def _dressed(raw: str, name: str, title: str, told: str, texts: Sequence[tuple[str, str]]) -> str:
    """The drawing made part of the page: ids of its own, colours from the stylesheet, words put in."""
    body = raw[raw.index("<g id=") : raw.rindex("</svg>")]
    body = body.replace("xlink:href=", "href=")
    names = {old: f"{name}-{index}" for index, old in enumerate(dict.fromkeys(_REFERENCE.findall(body)))}
    body = re.sub(r' id="([\w-]+)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", body)
    body = _REFERENCE.sub(lambda m: m[0].replace(m[1], names[m[1]]), body)
    for colour, sentinel in COLOURS.items():
        body = body.replace(sentinel, f"var(--{colour})")
    body = re.sub(r"\s*\n\s*", " ", body)
    body = _TEXT.sub(lambda m: _text(m, texts), body)
    view = re.search(r'viewBox="([^"]*)"', raw)
    assert view is not None
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'viewBox="{view[1]}" width="100%">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>{body}</svg>'
    )


def _columns(text: str) -> float:
    """How many common letters wide a text is."""
    return sum(map(_breadth, text))


def _breadth(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 2.0
    if letter in "WM@%":
        return 1.8
    return 1.25 if letter.isupper() or letter in "mw" else 1.0


def _fitted(text: str, room: float, letter: float) -> str:
    """As much of ``text`` as fits into ``room``, an ellipsis where it is cut; nothing if too little is left."""
    if _columns(text) * letter <= room:
        return text
    kept = text
    while kept and (_columns(kept) + 1) * letter > room:
        kept = kept[:-1]
    return f"{kept.rstrip()}…" if len(kept) > 2 else ""


def _text(match: re.Match[str], texts: Sequence[tuple[str, str]]) -> str:
    anchor = re.search(r"text-anchor: (\w+)", match[1])
    kind, shown = texts[int(match[4])]
    place = f' text-anchor="{anchor[1]}"' if anchor else ""
    return f'<text class="t-{kind}" x="{match[2]}" y="{match[3]}"{place}>{shown}</text>'
