"""The figures of Rajasekar et al. (2024) by partition point: times (3), reconstructions (4 to 6), and SSIM (7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from cloven.files import replacing
from cloven.papers.points import PAPERS
from cloven.reporting.preview import SampledClass, preview

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from cloven.enclave.sweep import ComparedTimes
    from cloven.papers.s2.enclave_times import TimesFigure
    from cloven.papers.s2.privacy import ScoresFigure
    from cloven.reporting.findings import Sample

PARTS = (
    ("front", "#3568b8", ("opened inside", "front")),
    ("hand-over", "#c8453b", ("hand-over", "handed back")),
    ("rear", "#3a9a55", ("rear",)),
    ("rest, in the enclave", "#8a6bb0", ("rest",)),
)
"""The parts of a bar: a name, a colour, and the steps of an inference in it."""
COLUMN = 4.6


def draw(document: TimesFigure, path: Path) -> None:
    """Write the chart of the times."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row.model for row in document.rows))
    made = Figure(figsize=(COLUMN * max(2, len(models)), 4.6))
    for place, model in zip(made.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        _panel(place, [row for row in document.rows if row.model == model], model)
    machine = document.machine
    words = (
        f"Bars: medians of {document.rows[0].samples} images after one warm-up image; dot and line: mean and "
        f"standard deviation. {document.trust}. {machine.processor}, {machine.threads} thread(s) per half, "
        f"rear on {document.accelerator}, hand-over by {document.handover}."
    )
    title = f"{PAPERS['s2']}, Fig. 3: seconds per image by the last layer in the enclave"
    made.suptitle(title, fontsize=12)
    made.text(0.01, 0.02, fill(words, int(31 * COLUMN * max(2, len(models)) / 2.0)), fontsize=8, va="bottom")
    made.subplots_adjust(left=0.06, right=0.99, top=0.85, bottom=0.24, wspace=0.2)
    with replacing(path) as part:
        made.savefig(part, dpi=130, format="png")


def _panel(place: Axes, rows: Sequence[ComparedTimes], model: str) -> None:
    place.set_title(model, fontsize=10)
    place.spines[["top", "right"]].set_visible(False)
    below = [0.0] * len(rows)
    for word, colour, names in PARTS:
        heights = [0.0] * len(rows)
        for name in names:
            heights = [height + row.parts.get(name, 0.0) for height, row in zip(heights, rows, strict=True)]
        if any(heights):
            place.bar(range(len(rows)), heights, 0.8, bottom=below, color=colour, label=word)
            below = [low + height for low, height in zip(below, heights, strict=True)]
    means, spreads = [row.mean for row in rows], [row.spread for row in rows]
    place.errorbar(range(len(rows)), means, spreads, fmt=".", color="black", linewidth=1, markersize=4)
    place.set_xticks(range(len(rows)), [row.point for row in rows], fontsize=8)
    place.set_ylim(
        0, 1.3 * max(m + spread for m, spread in zip([*means, *below], [*spreads, *spreads], strict=True))
    )
    place.tick_params(axis="y", labelsize=8)
    place.set_xlabel("last layer in the enclave", fontsize=8)
    place.legend(fontsize=7, frameon=False, loc="upper left", ncols=2)


COLOURS = ("#c8453b", "#3568b8", "#3a9a55", "#8a6bb0", "#b8872e")


def draw_scores(document: ScoresFigure, path: Path) -> None:
    """Write the chart of SSIM by partition point: a line for each attack, intervals, baselines, the threshold."""
    from matplotlib.figure import Figure

    rows = document.rows
    labels = {row.point: row.label for row in rows}
    made = Figure(figsize=(max(6.0, 0.62 * len(labels) + 2.5), 4.4))
    place = made.subplots()
    for colour, attack in zip(COLOURS, dict.fromkeys(row.attack for row in rows), strict=False):
        mine = [row for row in rows if row.attack == attack]
        points = [row.point for row in mine]
        place.plot(points, [row.ssim.mean for row in mine], ".-", color=colour, label=attack)
        low, high = [row.ssim.low for row in mine], [row.ssim.high for row in mine]
        place.fill_between(points, low, high, color=colour, alpha=0.25, linewidth=0)
    baselines = {row.point: row.baseline for row in rows}
    places, values = list(baselines), list(baselines.values())
    place.plot(places, values, "--", color="#777777", linewidth=1, label="no-information baseline")
    place.axhline(document.threshold, color="black", linewidth=0.8)
    if document.plan is not None:
        rule = "below the baseline" if document.rule == "baseline" else "the paper's rule"
        place.axvline(document.plan.point, color="black", linewidth=0.8, linestyle=":", label=f"{rule}, strongest")
    place.set_xticks(
        list(labels), list(labels.values()), fontsize=8, rotation=35, ha="right", rotation_mode="anchor"
    )
    place.set_ylim(min(0.0, *(row.ssim.low for row in rows)), 1)
    place.set_ylabel("SSIM (Wang 2004)")
    place.spines[["top", "right"]].set_visible(False)
    place.legend(fontsize=8, frameon=False)
    scale = (
        f"{document.queries} training images, {document.victims} scored images, c-GAN {document.gan_epochs} epochs"
    )
    place.set_title(f"{PAPERS['s2']}, Fig. 7: {document.model} on {document.data}\n{scale}", fontsize=9)
    made.tight_layout()
    with replacing(path) as part:
        made.savefig(part, dpi=130, format="png")


USUAL = "usual"
"""The role of the sample that shows the same victim image for all attacks and cuts."""


def draw_reconstructions(document: ScoresFigure, samples: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """Write pictures of one victim image: the original, and what each attack reconstructs at each partition point.

    The victim is that of median contrast. ``samples`` are those of each finding, by its key.
    """
    attacks = list(dict.fromkeys(row.attack for row in document.rows))
    shown: dict[str, list[Sample]] = {}
    for row in document.rows:
        shown.setdefault(row.label, []).extend(one for one in samples[row.key] if one.role == USUAL)
    points = [
        SampledClass(
            label,
            f"SSIM {' '.join(f'{one.ssim:.2f}' for one in some)}",
            np.stack([some[0].original, *(one.reconstruction for one in some)]),
        )
        for label, some in shown.items()
        if some
    ]
    title = f"{PAPERS['s2']}, Figs. 4 to 6: {document.model} on {document.data}"
    caption = f"From left: the original, and its reconstruction by {', '.join(attacks)}, with the SSIM of each."
    with replacing(path) as part:
        part.write_bytes(preview(title, points, caption))
