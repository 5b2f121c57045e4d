"""S1's Fig. 3 drawn from its document: dark without the cipher, bright with it; a column for each preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cloven.errors import ClovenError, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

KINDS = (
    ("seconds", "Processing time", "s", "#17457a", "#9cc7f0"),
    ("joules", "Energy", "J", "#1c5c2c", "#a5d9a7"),
)
"""What the two rows of panels show: keys of a bar, a name, a unit, and its dark and bright colours (S1's)."""
WIDTH, GAP = 0.8, 0.7
"""Of one bar, and between two devices' bars, in bars."""


def draw(document: Row, reading: str = "convolutions") -> Figure:
    """The chart of one reading: time above energy, a panel for each preset, its own scale in each.

    The dark part of a bar is the device without the cipher, the whole bar with it; above it how many times more.
    The caller saves it.

    Args:
        document: what `figure3_document.document` made.
        reading: which of its readings.

    Raises:
        ClovenError: for a reading that the document does not have, and without matplotlib.
    """
    found = next((row for row in document["readings"] if row["reading"] == reading), None)
    if found is None:
        known = ", ".join(row["reading"] for row in document["readings"])
        raise ClovenError(f"the document has no reading {reading!r}; it has {known}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise require("audit", error) from error
    presets = found["presets"]
    figure = Figure(figsize=(5.0 * len(presets), 7.6), layout="constrained")
    panels = figure.subplots(len(KINDS), len(presets), squeeze=False)
    for axes_row, kind in zip(panels, KINDS, strict=True):
        for axes, preset in zip(axes_row, presets, strict=True):
            _panel(axes, preset["bars"], *kind)
    for axes, preset in zip(panels[0], presets, strict=True):
        axes.set_title(preset["title"], fontsize=11)
    figure.supxlabel(_assumed(document["boards"], presets), fontsize=9)
    figure.suptitle(
        f"S1, Fig. 3 as a cost model: {found['model']} cut after {' and '.join(found['cuts'])}, for one image\n"
        "dark: without encryption; whole bar: with Ascon; above it: with / without",
        fontsize=12,
    )
    return figure


def _panel(axes: Axes, bars: Sequence[Row], key: str, name: str, unit: str, dark: str, bright: str) -> None:
    devices = list(dict.fromkeys(bar["device"] for bar in bars))
    places = [i + GAP * devices.index(bar["device"]) for i, bar in enumerate(bars)]
    without, whole = ([bar[f"{key}_{which}"] for bar in bars] for which in ("without", "with"))
    factor, prefix = _scale(max(whole))
    axes.bar(places, [factor * value for value in whole], WIDTH, color=bright, edgecolor=dark, linewidth=0.6)
    axes.bar(places, [factor * value for value in without], WIDTH, color=dark)
    for place, bar, value in zip(places, bars, whole, strict=True):
        axes.annotate(
            f"{bar['ratio']:.3g}",
            (place, factor * value),
            (0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axes.set_xticks(places, [_tick(bar) for bar in bars], fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"{name}, {prefix}{unit}")
    axes.set_ylim(0, 1.12 * factor * max(whole))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _assumed(boards: Sequence[Row], presets: Sequence[Row]) -> str:
    clocks = ", ".join(f"{board['name']} {board['clock'] / 1e9:g} GHz" for board in boards)
    powers = {
        row["name"]: f"{row['name']} {row['power']:g} W" for preset in presets for row in preset["processors"]
    }
    return f"Every panel has a scale of its own. Assumed, not in S1: {clocks}; {', '.join(powers.values())}"


def _tick(bar: Row) -> str:
    return f"{bar['device']}\n{bar['processor'].removeprefix('Cortex-')}"


def _scale(largest: float) -> tuple[float, str]:
    """By what to multiply, and the unit's prefix, so that numbers on an axis are short."""
    return (1e3, "m") if largest < 0.1 else (1.0, "")
