"""The charts of an advice: the front of cost against leakage, and leakage and cost by depth.

A chart is data in the units of its drawing; the template draws it. Each dot is named when the pointer is over it or
it has the focus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cloven.advising.advice import ComparedDivision, CutPoint
from cloven.advising.limits import Limits
from cloven.auditing.finding import Axis
from cloven.reporting import words

LEFT, RIGHT = 46.0, 392.0
TOP, BOTTOM = 44.0, 244.0
LANE = 24.0
"""The height of the lane of divisions that were not attacked."""
HEIGHT = 296.0

LOGARITHMIC = 12.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""
APART = 62.0
"""The least distance of two ticks."""
LETTER = 13.0
"""The width and height of a letter that names a dot."""

Shape = Literal["diamond", "circle", "square", "triangle", "cross"]
SHAPES: Mapping[str, tuple[Shape, str]] = {
    "one device": ("diamond", "ink"),
    "vertical": ("circle", "vertical"),
    "horizontal": ("square", "horizontal"),
    "data": ("triangle", "data"),
}
"""The shape and the colour of each strategy's dots."""
OTHERS: tuple[Shape, str] = ("cross", "other")

WRITTEN: Mapping[str, Callable[[float | None], str]] = {
    "latency": words.seconds,
    "throughput": words.rate,
    "energy": words.joules,
    "traffic": words.octets,
}
"""The functions that write an objective of a search as text, with its unit."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at a position of the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A division in a chart.

    Attributes:
        index: the row of the division in the table.
        x, y: its position.
        shape, colour: those of its strategy.
        description: the division in words, with its cost and leakage.
        letter: the letter of a named division; empty for the others.
        chosen: whether it is the recommended one.
        best: whether it is on the Pareto front: no other costs less and leaks less.
    """

    index: int
    x: float
    y: float
    shape: Shape
    colour: str
    description: str
    letter: str
    chosen: bool
    best: bool


@dataclass(frozen=True)
class LetterPlace:
    """The position of a letter, and that of its dot."""

    letter: str
    x: float
    y: float
    dot: tuple[float, float]

    @property
    def distant(self) -> bool:
        """True if a line must lead to the dot."""
        return math.dist((self.x, self.y), self.dot) > 1.3 * LETTER


@dataclass(frozen=True)
class Front:
    """The cost of every compared division against its leakage on one axis.

    Attributes:
        axis: pixels or labels.
        quantity: what the horizontal axis shows.
        logarithmic: whether it is logarithmic.
        across: its ticks.
        up: the ticks of the leakage.
        dots: the divisions, the most important last.
        letters: the letters beside the named ones.
        line: the path through the Pareto front.
        cost_limit: the limit on the cost; None if there is none.
        leakage_limit: the limit on the leakage; None if there is none.
        unknown: the number of divisions of unknown cost, which are not drawn.
        unattacked: the number of divisions that were not attacked, whose leakage is unknown.
    """

    axis: Axis
    quantity: str
    logarithmic: bool
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    letters: tuple[LetterPlace, ...]
    line: str
    cost_limit: Tick | None
    leakage_limit: Tick | None
    unknown: int
    unattacked: int

    @property
    def description(self) -> str:
        """The chart in a sentence, for readers who do not see it."""
        best = [dot.description for dot in sorted(self.dots, key=lambda dot: dot.x) if dot.best]
        return f"{words.plural(len(self.dots), 'division')}. No other costs less and leaks less than: " + (
            "; ".join(best) if best else "none was attacked"
        )


@dataclass(frozen=True)
class _CostScale:
    """From a value to a position between two ends of the drawing."""

    low: float
    high: float
    logarithmic: bool
    start: float = LEFT + 8
    end: float = RIGHT - 8

    def __call__(self, value: float) -> float:
        low, high, value = ((math.log(one) if self.logarithmic else one) for one in (self.low, self.high, value))
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, written: Callable[[float | None], str]) -> tuple[Tick, ...]:
        """Return round values that lie apart."""
        found: list[Tick] = []
        for value in self._round():
            at = self(value)
            if all(abs(at - tick.at) >= APART for tick in found):
                found.append(Tick(at, written(value)))
        return tuple(found)

    def _round(self) -> list[float]:
        """Return round values between the ends: powers of ten first, on a logarithmic axis."""
        if self.low == self.high:
            return [self.low]
        if not self.logarithmic:
            step = 10.0 ** math.floor(math.log10(self.high - self.low))
            step = next(one for one in (step / 5, step / 2, step, 2 * step) if (self.high - self.low) / one <= 5.5)
            first = math.ceil(self.low / step)
            return [i * step for i in range(first, math.floor(self.high / step) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [factor * 10.0**power for factor in (1, 3, 2, 5) for power in powers]
        return [value for value in values if self.low <= value <= self.high]


def strategy(kind: str) -> tuple[Shape, str]:
    """Return the shape and the colour of a kind of division."""
    return SHAPES.get(kind.split(",", 1)[0], OTHERS)


def letters(compared: Sequence[ComparedDivision]) -> dict[int, str]:
    """Return a letter for each named division, by its position."""
    named = [index for index, one in enumerate(compared) if one.names]
    return {index: _letter(place) for place, index in enumerate(named)}


def _letter(place: int) -> str:
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")


def leakage(division: ComparedDivision, axis: Axis) -> float | None:
    """Return what a division leaks on an axis; None if it was not attacked."""
    return division.pixel_leakage if axis == "pixels" else division.label_leakage


def front(compared: Sequence[ComparedDivision], axis: Axis, quantity: str, limits: Limits) -> Front | None:
    """Return the chart of an estimated quantity against the leakage on an axis; None if no cost is known."""
    costs = {i: float(value) for i, one in enumerate(compared) if (value := getattr(one, quantity)) is not None}
    if not costs:
        return None
    most = getattr(limits, quantity, None)
    scale = _across([*costs.values(), *([] if most is None else [most])])
    top = limits.leakage.get(axis)
    leaks = {i: leak for i in costs if (leak := leakage(compared[i], axis)) is not None}
    is_maximised = quantity == "throughput"
    prefix = "at least" if is_maximised else "limit"
    best = _best({i: (-costs[i] if is_maximised else costs[i], leak) for i, leak in leaks.items()})
    named = letters(compared)
    dots = [
        Dot(
            index=i,
            x=scale(costs[i]),
            y=_height(leaks.get(i)),
            shape=strategy(compared[i].kind)[0],
            colour=strategy(compared[i].kind)[1],
            description=described(compared[i], quantity),
            letter=named.get(i, ""),
            chosen=compared[i].chosen,
            best=i in best,
        )
        for i in costs
    ]
    leakage_limit = None if top is None else Tick(_height(top), f"limit {words.share(top)}")
    return Front(
        axis=axis,
        quantity=quantity,
        logarithmic=scale.logarithmic,
        across=scale.ticks(WRITTEN[quantity]),
        up=tuple(Tick(_height(value), words.share(value)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)),
        dots=tuple(sorted(dots, key=lambda dot: (dot.chosen, bool(dot.letter), dot.best))),
        letters=_placed([dot for dot in dots if dot.letter], leakage_limit),
        line=_steps([dot for dot in dots if dot.best], rising=is_maximised),
        cost_limit=None if most is None else Tick(scale(most), f"{prefix} {WRITTEN[quantity](most)}"),
        leakage_limit=leakage_limit,
        unknown=len(compared) - len(costs),
        unattacked=len(costs) - len(leaks),
    )


def described(division: ComparedDivision, quantity: str) -> str:
    """Return a division in words, with its estimated cost and its leakage."""
    names = f"{words.listed(division.names)}: " if division.names else ""
    leaks = [
        f"{axis} not attacked" if leak is None else f"{axis} up to {words.share(leak)}"
        for axis, leak in (("pixels", division.pixel_leakage), ("labels", division.label_leakage))
    ]
    shown = f"{quantity} {WRITTEN[quantity](getattr(division, quantity))}"
    return words.clean(f"{names}{division.division}. {shown}, {', '.join(leaks)}", 240)


def _across(values: Sequence[float]) -> _CostScale:
    low, high = min(values), max(values)
    return _CostScale(low, high, logarithmic=low > 0 and high / low >= LOGARITHMIC)


def _height(share: float | None) -> float:
    """Return the vertical position of a leakage; for None, that of the lane of what was not attacked."""
    return LANE if share is None else round(BOTTOM - (BOTTOM - TOP) * share, 1)


def _best(points: Mapping[int, tuple[float, float]]) -> set[int]:
    """Return the Pareto front: the points for which no other is smaller in both values."""
    found, least = set(), math.inf
    for index, (_, leak) in sorted(points.items(), key=lambda item: item[1]):
        if leak < least:
            found.add(index)
            least = leak
    return found


def _steps(dots: Sequence[Dot], *, rising: bool) -> str:
    """Return the path from one dot to the next in steps that no division lies below."""
    ordered = sorted(dots, key=lambda dot: dot.x)
    first = [f"M{ordered[0].x} {ordered[0].y}"] if len(ordered) > 1 else []
    return "".join([*first, *(f"V{dot.y}H{dot.x}" if rising else f"H{dot.x}V{dot.y}" for dot in ordered[1:])])


def _placed(dots: Sequence[Dot], leakage_limit: Tick | None) -> tuple[LetterPlace, ...]:
    """Return a free place beside each named dot for its letter, as near as possible."""
    taken = [(dot.x, dot.y, 5.0) for dot in dots]
    if leakage_limit is not None:  # the words at the right end of the line
        taken += [(RIGHT - step, leakage_limit.at - 8, 7.0) for step in (6, 18, 30, 42, 54, 66)]
    found = []
    for dot in dots:
        choices = [
            (dot.x + distance * math.cos(turn), dot.y + distance * math.sin(turn))
            for distance in (LETTER, 1.7 * LETTER, 2.6 * LETTER, 3.5 * LETTER, 4.5 * LETTER, 6 * LETTER)
            for turn in (math.pi * i / 6 for i in (11, 1, 9, 3, 7, 5, 10, 2, 8, 4, 0, 6))
        ]
        inside = [
            (x, y)
            for x, y in choices
            if LEFT + LETTER / 2 <= x <= RIGHT - LETTER / 2 and LANE - 6 <= y <= BOTTOM - LETTER / 2
        ]
        x, y = next(
            (
                (x, y)
                for x, y in inside
                if all(max(abs(x - left), abs(y - top)) >= room + LETTER / 2 for left, top, room in taken)
            ),
            choices[0],
        )
        taken.append((x, y, LETTER / 2))
        found.append(LetterPlace(dot.letter, round(x, 1), round(y, 1), (dot.x, dot.y)))
    return tuple(found)


PANELS: Mapping[str, tuple[float, float]] = {
    "leakage": (12.0, 152.0),
    "latency": (184.0, 234.0),
    "bytes": (266.0, 316.0),
}
"""The upper and the lower end of each panel of the chart by depth."""
NAMES = 82.0
"""The height of the names of the cuts below it."""
MOST_NAMED = 24
"""Of more cuts, only every second or third is named."""


@dataclass(frozen=True)
class Series:
    """The values of a panel: a path with gaps where a value is unknown, and its dots."""

    name: str
    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CutColumn:
    """A cut in the chart by depth: where its column is, its name, and its leakage and costs in words."""

    left: float
    width: float
    name: str
    description: str
    chosen: bool

    @property
    def middle(self) -> float:
        """The middle of the column."""
        return round(self.left + self.width / 2, 1)


@dataclass(frozen=True)
class Depth:
    """Leakage and cost of a cut in two, by depth.

    Attributes:
        columns: the cuts, from the image to the answer.
        leakages: leakage of the pixels and of the labels.
        latency: the latency of the best division with each cut.
        bytes: the bytes that cross each cut.
        up: the ticks of each panel.
        limits: the limits on the leakage, and that on the latency, with their panel's axis.
        attacked: how many cuts were attacked; empty if all were.
        sentence: the cuts that leak least.
        height: the height of the drawing.
    """

    columns: tuple[CutColumn, ...]
    leakages: tuple[Series, ...]
    latency: Series
    bytes: Series
    up: tuple[Tick, ...]
    limits: tuple[tuple[str, Tick], ...]
    attacked: str
    sentence: str
    height: float


def depth(cuts: Sequence[CutPoint], limits: Limits, chosen: Sequence[str]) -> Depth | None:
    """Return the chart of the cuts; None if there are none. ``chosen`` are the cuts of the recommended plan."""
    if not cuts:
        return None
    wide = (RIGHT - LEFT) / len(cuts)
    named = math.ceil(len(cuts) / MOST_NAMED)
    columns = tuple(
        CutColumn(
            left=round(LEFT + i * wide, 1),
            width=round(wide, 1),
            name=words.clean(one.after, 13) if i % named == 0 or one.after in chosen else "",
            description=_described(one),
            chosen=one.after in chosen,
        )
        for i, one in enumerate(cuts)
    )
    across = [column.middle for column in columns]
    latency, size = _ceiling([one.latency for one in cuts]), _ceiling([one.bytes for one in cuts])
    found: list[tuple[str, Tick]] = [
        (axis, Tick(_up("leakage", most), words.share(most))) for axis, most in limits.leakage.items()
    ]
    if limits.latency is not None and limits.latency <= latency:
        found.append(("latency", Tick(_up("latency", limits.latency / latency), words.seconds(limits.latency))))
    return Depth(
        columns=columns,
        leakages=(
            _series("pixels", across, [one.pixel_leakage for one in cuts], "leakage"),
            _series("labels", across, [one.label_leakage for one in cuts], "leakage"),
        ),
        latency=_series(
            "latency", across, [None if one.latency is None else one.latency / latency for one in cuts], "latency"
        ),
        bytes=_series("bytes", across, [one.bytes / size for one in cuts], "bytes"),
        up=(
            *(Tick(_up("leakage", value), words.share(value)) for value in (0.0, 0.5, 1.0)),
            Tick(_up("latency", 0.0), "0"),
            Tick(_up("latency", 1.0), words.seconds(latency)),
            Tick(_up("bytes", 0.0), "0"),
            Tick(_up("bytes", 1.0), words.octets(size)),
        ),
        limits=tuple(found),
        attacked=_attacked(cuts),
        sentence=_least(cuts),
        height=PANELS["bytes"][1] + NAMES,
    )


def _described(cut: CutPoint) -> str:
    """Return a cut in words."""
    leaks = [
        f"{axis} not attacked" if leak is None else f"{axis} up to {words.share(leak)}"
        for axis, leak in (("pixels", cut.pixel_leakage), ("labels", cut.label_leakage))
    ]
    before = f"{words.share(cut.share)} of the multiply-accumulates before it"
    return words.clean(
        f"After {cut.after}, {before}: {', '.join(leaks)}; {words.seconds(cut.latency)}, {words.octets(cut.bytes)}",
        240,
    )


def _attacked(cuts: Sequence[CutPoint]) -> str:
    """Return how many cuts were attacked; empty if all were."""
    number = sum(one.pixel_leakage is not None for one in cuts)
    if number == len(cuts):
        return ""
    shown = f"{number or 'None'} of {words.plural(len(cuts), 'cut')} {'was' if number < 2 else 'were'}"
    why = "the search did not need to know what the others leak, and the picture does not show it"
    return f"{shown} attacked by the whole suite: {why}."


def _least(cuts: Sequence[CutPoint]) -> str:
    """Return the cuts that leak least; empty if fewer than two were attacked."""
    attacked = [
        (one, one.pixel_leakage, one.label_leakage)
        for one in cuts
        if one.pixel_leakage is not None and one.label_leakage is not None
    ]
    if len(attacked) < 2:
        return ""
    pixels = min(attacked, key=lambda found: (found[1], found[2]))
    labels = min(attacked, key=lambda found: (found[2], found[1]))
    if pixels[0] is labels[0]:
        return f"The cut after {words.clean(pixels[0].after, 40)} leaks least on both axes."
    return (
        f"No cut leaks least on both axes: pixels leak least after {words.clean(pixels[0].after, 40)} "
        f"({words.share(pixels[1])}), labels after {words.clean(labels[0].after, 40)} ({words.share(labels[2])})."
    )


def _ceiling(values: Sequence[float | None]) -> float:
    """Return the next of 1, 1.5, 2, 3, 5 and 8 times a power of ten that holds all values."""
    most = max((value for value in values if value is not None), default=0.0)
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(factor * power for factor in (1, 1.5, 2, 3, 5, 8, 10) if factor * power >= most * (1 - 1e-9))


def _up(panel: str, share: float) -> float:
    top, bottom = PANELS[panel]
    return round(bottom - (bottom - top) * share, 1)


def _series(name: str, across: Sequence[float], values: Sequence[float | None], panel: str) -> Series:
    """Return a line through known values, with a gap where one is unknown."""
    path, dots, is_pen_down = [], [], False
    for x, value in zip(across, values, strict=True):
        if value is not None:
            at = x, _up(panel, value)
            path.append(f"{'L' if is_pen_down else 'M'}{at[0]} {at[1]}")
            dots.append(at)
        is_pen_down = value is not None
    return Series(name, "".join(path), tuple(dots))
