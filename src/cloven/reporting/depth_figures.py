"""Figures for papers: leakage and scores by the depth of the cut, one figure for each model and strategy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cloven.auditing.finding import AXES, Axis, ScoreRange
from cloven.auditing.summary import AxisScore, Summary
from cloven.errors import require
from cloven.files import file_names
from cloven.reporting import words
from cloven.reporting.depths import CutObservation, by_cut, observed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: Mapping[str, Mapping[str, None]] = {
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
    "svg": dict.fromkeys(("Date", "Creator")),
    "png": {"Software": None},
}
"""The formats of each figure, and the metadata that is left out, so that equal figures are equal files."""

SETTINGS: Any = {
    "pdf.fonttype": 42,
    "svg.hashsalt": "cloven",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours that readers with any colour vision distinguish (Okabe and Ito, 2008)."""
MARKERS = "osD^vP"
SCORES: Mapping[Axis, str] = {"pixels": "SSIM", "labels": "agreement"}
PLACE, HEIGHT, NARROWEST, WIDEST = 0.8, 6.0, 7.0, 24.0
"""The width of a cut in both columns, and the size of a figure, in inches."""
SPREAD = 0.8
"""The part of a cut's width over which its observations are spread."""
LEGEND = (
    "The strongest attack on each observation, with its 95 % interval; black: no-information baseline; hollow: "
    "encrypted or never sent. Leakage = (score - baseline) / (1 - baseline)."
)


@dataclass(frozen=True)
class DepthFigure:
    """The observations of one model and strategy by their cuts, in order of depth."""

    model: str
    strategy: str
    cuts: Mapping[str, Sequence[CutObservation]]

    @property
    def series(self) -> list[str]:
        """The names of the kinds of observations, which have different markers."""
        return list(dict.fromkeys(series_of(one) for members in self.cuts.values() for one in members))


def series_of(one: CutObservation) -> str:
    """Return the kind of an observation: its data set, view and transform."""
    transform = [] if one.observation.transform == "none" else [one.observation.transform]
    return words.clean(", ".join([one.summary.data, f"{one.observation.view} view", *transform]), 60)


def depth_figures(summaries: Sequence[Summary]) -> list[DepthFigure]:
    """Return a figure for each model and strategy, with the observations of all audits of both."""
    found: dict[tuple[str, str], list[CutObservation]] = {}
    for one in observed(summaries):
        found.setdefault((one.summary.model, one.observation.strategy), []).append(one)
    return [DepthFigure(model, strategy, by_cut(members)) for (model, strategy), members in found.items()]


def drawn(summaries: Sequence[Summary]) -> dict[str, bytes]:
    """Return the figures as files in each of `FORMATS`, by the names of the files.

    Raises:
        ClovenError: if matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise require("audit", error) from error
    figures = depth_figures(summaries)
    names = file_names([f"{figure.model}-{figure.strategy}" for figure in figures])
    files = {}
    with mpl.rc_context():
        mpl.rcdefaults()  # nothing of the reader's own matplotlib settings
        mpl.rcParams.update(SETTINGS)
        for name, figure in zip(names, figures, strict=True):
            made = _drawn(figure)
            for kind, metadata in FORMATS.items():
                buffer = io.BytesIO()
                made.savefig(buffer, format=kind, dpi=200, metadata=dict(metadata))
                files[f"{name}.{kind}"] = buffer.getvalue()
    return files


def _drawn(figure: DepthFigure) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    width = min(WIDEST, max(NARROWEST, PLACE * len(figure.cuts)))
    made = Figure(figsize=(width, HEIGHT), layout="constrained")
    panels = made.subplots(2, 2, sharex=True, sharey="row")
    for (above, below), axis in zip(panels.T, AXES, strict=True):
        marks = _marks(figure, axis)
        _leakage(above, marks, axis)
        _scores(below, marks, axis)
        _places(below, list(figure.cuts))
    panels[0][0].set_ylabel("leakage (%)")
    made.suptitle(words.clean(f"{figure.model}, {figure.strategy}", 100))
    keys = [Line2D([], [], label=name, **_style(number)) for number, name in enumerate(figure.series)]
    told = fill(LEGEND, round(14 * width))
    made.legend(handles=keys, loc="outside lower left", ncols=2, frameon=False, title=told, alignment="left")
    return made


@dataclass(frozen=True)
class ScoreMark:
    """A score to draw at ``x``, with the style of its series; hollow if no listener can read the observation."""

    x: float
    style: Mapping[str, Any]
    score: AxisScore

    def draw(self, panel: Axes, ends: ScoreRange | AxisScore, scale: float) -> None:
        """Draw a mean and its interval, multiplied by ``scale``."""
        panel.plot([self.x] * 2, [scale * ends.low, scale * ends.high], color=self.style["color"], linewidth=1.2)
        panel.plot([self.x], [scale * ends.mean], **self.style)


def _marks(figure: DepthFigure, axis: Axis) -> list[ScoreMark]:
    """Return the scores on an axis; those of one cut stand side by side."""
    numbers = {name: number for number, name in enumerate(figure.series)}
    found = []
    for place, members in enumerate(figure.cuts.values()):
        for index, one in enumerate(members):
            score = one.observation.counts.on(axis)
            if score is not None:
                x = place + SPREAD * ((index + 0.5) / len(members) - 0.5)
                hollow = {} if one.observation.exposed else {"markerfacecolor": "white"}
                found.append(ScoreMark(x, _style(numbers[series_of(one)]) | hollow, score))
    return found


def _leakage(panel: Axes, marks: Sequence[ScoreMark], axis: Axis) -> None:
    panel.set_title(axis)
    panel.set_ylim(-4, 104)
    panel.axhline(0, color="black", linestyle="--", linewidth=0.8)
    for mark in marks:
        mark.draw(panel, mark.score.leakage, 100)
    if not marks:
        panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center")


def _scores(panel: Axes, marks: Sequence[ScoreMark], axis: Axis) -> None:
    panel.set_ylabel(SCORES[axis])
    for mark in marks:
        mark.draw(panel, mark.score, 1)
        panel.plot([mark.x - 0.08, mark.x + 0.08], [mark.score.baseline] * 2, color="black", linewidth=1.4)


def _places(panel: Axes, cuts: Sequence[str]) -> None:
    """Write the cuts below a panel."""
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(cuts) > 2 else {}
    panel.set_xticks(range(len(cuts)), [words.clean(name, 32) for name in cuts], **slanted)
    panel.set_xlim(-0.5, len(cuts) - 0.5)


def _style(number: int) -> dict[str, Any]:
    """Return the colour and the marker of a series; 36 series differ in one of them."""
    colour, marker = number % len(COLOURS), (number + number // len(COLOURS)) % len(MARKERS)
    return {"color": COLOURS[colour], "marker": MARKERS[marker], "markersize": 5, "linestyle": "none"}
