"""The canvas of every chart. Matplotlib places lines and markers; the page's stylesheet gives colour and type.

Two stand-ins make that possible. Colours are sentinels that become CSS variables, so a chart follows light and
dark. Words are tokens that become escaped text after the drawing, so matplotlib never lays out, nor parses as
mathematics, a string that came from somebody else, and the page's own font sets it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal
from unicodedata import east_asian_width

from cloven.errors import require

WIDTH = 400.0  # a chart's units: about one CSS pixel on a phone, 1.3 on a desk
LEFT, RIGHT = 6.0, 394.0
LETTER = {
    "heading": 8.0,
    "name": 7.0,
    "aside": 6.2,
    "label": 6.0,
}  # a letter's width where type is largest, rounded up
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
LAYERS = ("grid", "bar", "end", "halo", "interval", "share", "ghost", "baseline")  # in the order of drawing
DOTS: dict[str, dict[str, Any]] = {
    "share": {"marker": "o", "markersize": 5, "markeredgecolor": COLOURS["paper"], "markeredgewidth": 0.8},
    "ghost": {"marker": "o", "markersize": 4.4, "markerfacecolor": COLOURS["paper"], "markeredgewidth": 1.2},
    "baseline": {"marker": "^", "markersize": 4.6, "markeredgewidth": 0},
}
Point = tuple[float, float]
Colour = Literal["ink", "muted", "grid", "paper", "vertical", "horizontal", "data", "other"]

_REFERENCE = re.compile(r'(?:url\(#|href="#)([\w-]+)')
_TEXT = re.compile(r'<text style="([^"]*)" x="([^"]*)" y="([^"]*)"[^>]*>@(\d+)@</text>')


@dataclass(frozen=True)
class Box:
    """A rectangle by its upper left corner: tinted, or hatched; with a dashed outline, or none."""

    x: float
    y: float
    width: float
    height: float
    colour: Colour
    hatched: bool = False
    dashed: bool = False


@dataclass
class Canvas:
    """Lines, markers and words to be drawn, gathered by kind: matplotlib draws many lines of one kind quickly."""

    texts: list[tuple[str, str]] = field(default_factory=list)  # kind and markup, by token
    places: list[tuple[float, float, str, str]] = field(default_factory=list)
    lines: dict[tuple[str, Colour, float], list[tuple[Point, Point]]] = field(default_factory=dict)
    dots: dict[tuple[str, Colour], list[Point]] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)

    def line(self, layer: str, colour: Colour, width: float, start: Point, end: Point) -> None:
        """Add a straight line."""
        self.lines.setdefault((layer, colour, width), []).append((start, end))

    def dot(self, kind: str, colour: Colour, at: Point) -> None:
        """Add a marker of a kind of `DOTS`."""
        self.dots.setdefault((kind, colour), []).append(at)

    def write(
        self, at: Point, kind: str, text: str, *, aside: str = "", room: float = 0, align: str = "left"
    ) -> None:
        """Add text with its baseline at ``at``; cut, and then the aside, to ``room`` where that is given."""
        letter = LETTER.get(kind, 0.0) if room else 0.0
        shown = fitted(text, room, letter) if letter else text
        rest = fitted(aside, room - letter * columns(shown), LETTER["aside"])
        tail = f'<tspan class="aside" dx="6">{escape(rest)}</tspan>' if rest else ""
        self.places.append((*at, f"@{len(self.texts)}@", align))
        self.texts.append((kind, escape(shown) + tail))

    def svg(self, name: str, title: str, told: str, height: float) -> str:
        """Return an inline SVG; ``told`` is for readers who do not see it. Every id starts with ``name``."""
        return _dressed(_drawn(self, name, height), name, title, told, self.texts)


def _drawn(canvas: Canvas, name: str, height: float) -> str:
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
        _onto(axes, canvas)
        buffer = io.StringIO()
        nobody = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nobody)
    return buffer.getvalue()


def _onto(axes: Any, canvas: Canvas) -> None:
    from matplotlib.collections import LineCollection

    for box in canvas.boxes:
        for patch in _patches(box):
            axes.add_patch(patch)
    for (layer, colour, width), ends in canvas.lines.items():
        style: dict[str, Any] = {"colors": COLOURS[colour], "linewidths": width, "zorder": LAYERS.index(layer)}
        axes.add_collection(LineCollection(ends, clip_on=False, **style), autolim=False)
    for (layer, colour), points in canvas.dots.items():
        style = DOTS[layer] | {"color": COLOURS[colour], "zorder": LAYERS.index(layer)}
        axes.plot(*zip(*points, strict=True), linestyle="none", clip_on=False, **style)
    for x, y, token, align in canvas.places:
        axes.text(x, y, token, ha=align, va="baseline", fontsize=8, parse_math=False, clip_on=False)


def _patches(box: Box) -> Iterator[Any]:
    from matplotlib.patches import Rectangle

    place, colour = ((box.x, box.y), box.width, box.height), COLOURS[box.colour]
    tint: dict[str, Any] = {"facecolor": colour, "alpha": 0.32}
    fill = {"facecolor": "none", "hatch": "////"} if box.hatched else tint
    yield Rectangle(*place, edgecolor=colour, linewidth=0, zorder=LAYERS.index("bar"), clip_on=False, **fill)
    if box.dashed:
        outline: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "linestyle": (0, (3, 2))}
        yield Rectangle(*place, linewidth=1.1, zorder=LAYERS.index("end"), clip_on=False, **outline)


def _dressed(raw: str, name: str, title: str, told: str, texts: Sequence[tuple[str, str]]) -> str:
    """Return the drawing as a part of the page: ids of its own, colours from the stylesheet, words put in."""
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


def columns(text: str) -> float:
    """Return the width of a text in common letters."""
    return sum(map(_breadth, text))


def _breadth(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 2.0
    if letter in "WM@%":
        return 1.8
    return 1.25 if letter.isupper() or letter in "mw" else 1.0


def fitted(text: str, room: float, letter: float) -> str:
    """Return as much of ``text`` as fits into ``room``, an ellipsis where it is cut; nothing if little is left."""
    if columns(text) * letter <= room:
        return text
    kept = text
    while kept and (columns(kept) + 1) * letter > room:
        kept = kept[:-1]
    return f"{kept.rstrip()}…" if len(kept) > 2 else ""


def _text(match: re.Match[str], texts: Sequence[tuple[str, str]]) -> str:
    anchor = re.search(r"text-anchor: (\w+)", match[1])
    kind, shown = texts[int(match[4])]
    place = f' text-anchor="{anchor[1]}"' if anchor else ""
    return f'<text class="t-{kind}" x="{match[2]}" y="{match[3]}"{place}>{shown}</text>'
