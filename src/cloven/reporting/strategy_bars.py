"""The charts of Figs. 5 and 6 of Mehrafrooz et al. (2025): a row for each control, a column for each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from cloven.files import replacing
from cloven.papers.points import PAPERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cloven.papers.s1.figure_document import BarRow, StrategyFigure

COLOURS: Mapping[str, str] = {
    "vertical": "#3568b8",
    "horizontal": "#3a9a55",
    "data": "#c8453b",
    "hybrid": "#8a6bb0",
}
"""The colours of the paper: vertical blue, horizontal green, data red (Sect. 5.2). It has no hybrids."""
PICTURE = "figure.png"
WIDTH, ROW, COLUMN = 0.8, 2.5, 5.0
LETTERS = 82
"""The characters in a line of text under a column."""
LEGEND = (
    "Bar: mean over shares, seeds and images; black: 95 % interval; grey: lowest to highest share; "
    "dashed: no-information baseline; hatched: no link carries this tensor"
)


def write(folder: Path, document: StrategyFigure) -> Path:
    """Write ``figure.png`` from a figure's document, and return its path."""
    made, path = drawn(document), folder / PICTURE
    with replacing(path) as part:
        made.savefig(part, dpi=130, format="png")
    return path


def drawn(document: StrategyFigure) -> Figure:
    """Return the chart: a column for each data set, a row for each control."""
    from matplotlib.figure import Figure

    bars = document.bars
    controls = list(dict.fromkeys(bar.control for bar in bars))
    data = list(dict.fromkeys(bar.data for bar in bars))
    said = _said(document)
    foot = 0.145 * sum(line.count("\n") + 1 for line in said) + 0.3
    height = ROW * len(controls) + foot + 0.7
    made = Figure(figsize=(COLUMN * max(2, len(data)), height))
    axes = made.subplots(len(controls), len(data), squeeze=False, sharey=True)
    for line, control in zip(axes, controls, strict=True):
        for place, name in zip(line, data, strict=True):
            if mine := [bar for bar in bars if (bar.control, bar.data) == (control, name)]:
                _panel(place, mine, _title(document, name, control))
            else:
                place.set_axis_off()
        line[0].set_ylabel("agreement")
    title = f"{PAPERS['s1']}, {document.title}, scale {document.scale.name}"
    title += "" if document.progress.complete else f" (unfinished: {document.progress})"
    made.suptitle(title, y=1 - 0.15 / height, fontsize=12)
    ends = {"top": 1 - 0.65 / height, "bottom": (foot + 0.55) / height}
    made.subplots_adjust(left=0.07, right=0.99, hspace=0.75, wspace=0.05, **ends)
    made.text(0.01, 0.1 / height, "\n".join(said), fontsize=8, va="bottom")
    return made


def _title(document: StrategyFigure, data: str, control: str) -> str:
    """Return the title of a panel: the CNN, its accuracy, and the control."""
    panels = [panel for panel in document.panels if panel.data.partition(":")[0] == data]
    found = next(panel for panel in panels if panel.control == control)
    known = found.model_accuracy is not None
    model = f"{found.model} on {data}" + (f" ({found.model_accuracy:.1%})" if known else "")
    doubt = "" if found.verdict.given or not known else "\nNO VERDICT: kappa below 0.3"
    return f"{model}: {control}{doubt}"


def _panel(place: Axes, bars: Sequence[BarRow], title: str) -> None:
    place.set_title(title, fontsize=9)
    place.set_ylim(0, 1)
    place.tick_params(labelsize=7)
    place.spines[["top", "right"]].set_visible(False)
    for x, bar in enumerate(bars):
        score, shares = bar.agreement, bar.shares
        hatch = None if bar.crosses else "///"
        colour = COLOURS[bar.strategy]
        place.bar(x, score.mean, WIDTH, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
        place.plot([x + 0.22] * 2, [min(shares), max(shares)], color="#999999", linewidth=3, solid_capstyle="butt")
        place.plot([x] * 2, [score.low, score.high], color="black", linewidth=1.2)
        baseline = [bar.baselines.agreement] * 2
        place.plot([x - WIDTH / 2, x + WIDTH / 2], baseline, color="black", linestyle="--", linewidth=0.9)
    several = len({bar.devices for bar in bars}) > 1
    names = [_name(bar, devices=several) for bar in bars]
    place.set_xticks(range(len(bars)), names, fontsize=7, rotation=30, ha="right", rotation_mode="anchor")


def _name(bar: BarRow, *, devices: bool) -> str:
    where = bar.where or bar.layer
    return f"{bar.strategy[0].upper()} {where}" + (f", {bar.devices} devices" if devices else "")


def _said(document: StrategyFigure) -> list[str]:
    """Return the lines under the chart: differences from the paper, the legend, and the verdicts on the claims."""
    smaller = "; ".join(document.smaller) or "none"
    lines = [f"Differences from the paper: {smaller}.", f"{LEGEND}."]
    for claim in document.claims:
        if claim.controls:
            controls = ", ".join(f"{control}: {word}" for control, word in claim.controls.items())
            basis = f"; {claim.basis}" if claim.basis else ""
            lines.append(f"{claim.claim} {claim.sentence}: {claim.verdict.upper()} ({controls}{basis})")
    columns = max(2, len({bar.data for bar in document.bars}))
    return [fill(line, LETTERS * columns, subsequent_indent="    ") for line in lines]
