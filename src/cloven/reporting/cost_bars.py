"""The chart of Fig. 3 of Mehrafrooz et al. (2025): times without and with encryption, a column for each preset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloven.errors import ClovenError, require
from cloven.papers.points import PAPERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cloven.papers.s1.figure3 import CostBar
    from cloven.papers.s1.figure3_document import CostFigure, PresetBars
    from cloven.papers.s1.figure3_presets import Board

TIME = ("Processing time", "s", "#17457a", "#9cc7f0")
ENERGY = ("Energy", "J", "#1c5c2c", "#a5d9a7")
"""The two rows of panels: a name, a unit, and a dark and a bright colour, as in the paper."""
WIDTH, GAP = 0.8, 0.7
"""The width of a bar and of the gap between the bars of two devices, in units of the axis."""


def draw(document: CostFigure, reading: str = "convolutions") -> Figure:
    """Return the chart of one reading: time above energy, with a panel of its own scale for each preset.

    The dark part of a bar is the value without the cipher, the whole bar the value with it, and the number above
    the bar their ratio. The caller saves the chart.

    Args:
        document: the document of the figure.
        reading: one of its readings.

    Raises:
        ClovenError: for a reading that the document does not have, or without matplotlib.
    """
    found = next((row for row in document.readings if row.reading == reading), None)
    if found is None:
        known = ", ".join(row.reading for row in document.readings)
        raise ClovenError(f"the document has no reading {reading!r}; choose from {known}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise require("audit", error) from error
    presets = found.presets
    figure = Figure(figsize=(5.0 * len(presets), 7.6), layout="constrained")
    for (above, below), preset in zip(figure.subplots(2, len(presets), squeeze=False).T, presets, strict=True):
        without, whole = [bar.seconds_without for bar in preset.bars], [bar.seconds_with for bar in preset.bars]
        _panel(above, preset.bars, without, whole, *TIME)
        without, whole = [bar.joules_without for bar in preset.bars], [bar.joules_with for bar in preset.bars]
        _panel(below, preset.bars, without, whole, *ENERGY)
        above.set_title(preset.title, fontsize=11)
    figure.supxlabel(_assumed(document.boards, presets), fontsize=9)
    figure.suptitle(
        f"{PAPERS['s1']}, Fig. 3 as a cost model: {found.model} cut after {' and '.join(found.cuts)}, one image\n"
        "dark: without encryption; whole bar: with Ascon; number: ratio",
        fontsize=12,
    )
    return figure


def _panel(
    axes: Axes,
    bars: Sequence[CostBar],
    without: Sequence[float],
    whole: Sequence[float],
    name: str,
    unit: str,
    dark: str,
    bright: str,
) -> None:
    devices = list(dict.fromkeys(bar.device for bar in bars))
    places = [i + GAP * devices.index(bar.device) for i, bar in enumerate(bars)]
    factor, prefix = _scale(max(whole))
    axes.bar(places, [factor * value for value in whole], WIDTH, color=bright, edgecolor=dark, linewidth=0.6)
    axes.bar(places, [factor * value for value in without], WIDTH, color=dark)
    for place, bar, value in zip(places, bars, whole, strict=True):
        axes.annotate(
            f"{bar.ratio:.3g}",
            (place, factor * value),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    names = [f"{bar.device}\n{bar.processor.removeprefix('Cortex-')}" for bar in bars]
    axes.set_xticks(places, names, fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"{name}, {prefix}{unit}")
    axes.set_ylim(0, 1.12 * factor * max(whole))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _assumed(boards: Sequence[Board], presets: Sequence[PresetBars]) -> str:
    clocks = ", ".join(f"{board.name} {board.clock / 1e9:g} GHz" for board in boards)
    powers: dict[str, str] = {}
    for preset in presets:
        for name, profile in preset.profiles.items():
            if profile.power is not None:
                powers[name] = f"{name} {profile.power.busy:g} W"
    return f"Each panel has its own scale. Assumed, not in the paper: {clocks}; {', '.join(powers.values())}"


def _scale(largest: float) -> tuple[float, str]:
    """Return a factor and the prefix of the unit for an axis up to a value."""
    return (1e3, "m") if largest < 0.1 else (1.0, "")
