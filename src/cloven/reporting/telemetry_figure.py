"""The chart of Fig. 8 of Rajasekar et al. (2024): SSIM and recovered readings of telemetry, by partition point."""

from __future__ import annotations

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.files import replacing
from cloven.papers.points import PAPERS
from cloven.reporting.enclave_figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cloven.papers.s2.figure8 import AttackedModel, TelemetryFigure

STYLES = ("-", "--", ":", "-.")
"""The styles of lines, one for each attack, where colours stand for columns."""


def draw_telemetry(document: TelemetryFigure, path: Path) -> None:
    """Write the chart: a column for each model and data set, SSIM above, the readings of telemetry below."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(5.2 * len(document.models), 7.2))
    above, below = made.subplots(2, len(document.models), squeeze=False)
    for model, upper, lower in zip(document.models, above, below, strict=True):
        _similarity(upper, model, document.threshold)
        _readings(lower, model)
        for place in (upper, lower):
            labels = {row.point: row.label for row in model.rows}
            place.set_xticks(list(labels), list(labels.values()), fontsize=8)
            place.spines[["top", "right"]].set_visible(False)
            place.legend(fontsize=7, frameon=False)
        lower.set_visible(any(row.readings for row in model.rows))  # photographs have none
    size = " x ".join(map(str, document.shape))
    made.suptitle(f"{PAPERS['s2']}, Fig. 8: images of {size}, c-GAN {document.gan_epochs} epochs", fontsize=10)
    made.tight_layout()
    with replacing(path) as part:
        made.savefig(part, dpi=130, format="png")


def _similarity(place: Axes, model: AttackedModel, threshold: float) -> None:
    for colour, attack in zip(COLOURS, dict.fromkeys(row.attack for row in model.rows), strict=False):
        mine = [row for row in model.rows if row.attack == attack]
        points = [row.point for row in mine]
        place.plot(points, [row.ssim.mean for row in mine], ".-", color=colour, label=attack)
        low, high = [row.ssim.low for row in mine], [row.ssim.high for row in mine]
        place.fill_between(points, low, high, color=colour, alpha=0.25, linewidth=0)
    baselines = {row.point: row.baseline for row in model.rows}
    place.plot(list(baselines), list(baselines.values()), "--", color="#777777", label="no-information baseline")
    place.axhline(threshold, color="black", linewidth=0.8)
    place.set_ylim(min(0.0, *(row.ssim.low for row in model.rows)), 1)
    place.set_ylabel("SSIM")
    place.set_title(f"{model.model} on {model.data}", fontsize=9)


def _readings(place: Axes, model: AttackedModel) -> None:
    """Draw the share of the guess's error that is left, for each attack and column; 1 is as good as the guess."""
    for style, attack in zip(STYLES, dict.fromkeys(row.attack for row in model.rows), strict=False):
        mine = [row for row in model.rows if row.attack == attack and row.readings]
        for i, column in enumerate(mine[0].readings if mine else ()):
            left = [nan if (share := row.readings[i].error_left) is None else share for row in mine]
            label = f"{column.column}, {attack}"
            colour = COLOURS[i % len(COLOURS)]
            place.plot([row.point for row in mine], left, f".{style}", color=colour, label=label)
    place.axhline(1, color="#777777", linewidth=0.8, label="best constant guess")
    place.set_ylim(bottom=0)
    place.set_ylabel("error of readings / error of the guess")
