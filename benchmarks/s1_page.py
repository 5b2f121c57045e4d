"""Write the tables of docs/papers/s1.md from the results beside the page; its text is written by hand.

    python -m benchmarks.s1_page [--check]

The results are the ``figure.json`` of each figure and the output of ``cloven reproduce s1 --claims --json``. With
--check nothing is written, and the exit code is 1 if the page differs from the results.
"""

from __future__ import annotations

import sys

from benchmarks.pages import interval, of, page, table, write
from cloven.papers.s1.experiments import LINKS, PAPER
from cloven.papers.s1.figure3_document import CostFigure
from cloven.papers.s1.figure_document import BarRow, JudgedClaims, StrategyFigure

WHERE = ("data", "strategy", "layer", "devices")


def bars(figure: StrategyFigure) -> str:
    """Return the bars as in the paper: agreement with interval, range of shares and baseline, and SSIM."""
    columns = (*WHERE, "agreement", "shares", "baseline", "SSIM", "sent")
    rows = []
    for bar in figure.bars:
        if bar.control == PAPER:
            shares = f"{min(bar.shares):.2f} to {max(bar.shares):.2f}"
            sent = "yes" if bar.crosses else "never"
            scores = [
                interval(bar.agreement),
                shares,
                f"{bar.baselines.agreement:.2f}",
                f"{bar.ssim.mean:.2f}",
                sent,
            ]
            rows.append([*_where(bar), *scores])
    return table(columns, rows)


def controls(figure: StrategyFigure) -> str:
    """Return a row for each bar, with its agreement as in the paper and under each control that has the bar."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    names: dict[str, None] = {}
    for bar in figure.bars:
        if bar.control != LINKS:
            found.setdefault(_where(bar), {})[bar.control] = interval(bar.agreement)
            names[bar.control] = None
    rows = []
    for where, row in found.items():
        rows.append([*where, *(row.get(name, "") for name in names)])
    return table((*WHERE, *names), rows)


def links(figure: StrategyFigure) -> str:
    """Return the bars of all tensors on a link, attacked by the strong decoder."""
    rows = []
    for bar in figure.bars:
        if bar.control == LINKS:
            scores = [interval(bar.agreement), f"{bar.baselines.agreement:.2f}", f"{bar.ssim.mean:.2f}"]
            rows.append([*_where(bar), bar.where, *scores])
    return table((*WHERE, "link", "agreement", "baseline", "SSIM"), rows)


def _where(bar: BarRow) -> tuple[str, ...]:
    return bar.data, bar.strategy, bar.layer, str(bar.devices)


def claims(document: JudgedClaims) -> str:
    """Return every claim with its verdict, over all and under each control."""
    rows = (
        [c.claim, c.sentence, f"**{c.verdict}**", "; ".join(map(": ".join, c.controls.items()))]
        for c in document.claims
    )
    return table(("claim", "statement", "verdict", "under each control"), rows)


def setup(figure: StrategyFigure) -> str:
    """Return a row for each study: accuracy and kappa of its CNN, numbers of images, and time."""
    return table(
        ("study", "control", "CNN accuracy", "kappa", "auxiliary images", "victims", "attacks, core minutes"),
        (
            [
                p.name,
                p.control,
                "no labels" if p.model_accuracy is None else f"{p.model_accuracy:.1%}",
                f"{p.model_kappa:.2f}",
                f"{p.settings['queries']:,}",
                f"{p.test_images:,}",
                f"{p.attack_seconds / 60:.1f}",
            ]
            for p in figure.panels
        ),
    )


def cost(figure: CostFigure) -> str:
    """Return Fig. 3: seconds of each device without and with the cipher, by reading, preset and processor."""
    rows = []
    for reading in figure.readings:
        for preset in reading.presets:
            for bar in preset.bars:
                times = [f"{bar.seconds_without:.3g}", f"{bar.seconds_with:.3g}", f"{bar.ratio:.2f}"]
                rows.append([reading.reading, preset.name, bar.processor, bar.device, *times])
    return table(("layers counted as", "preset", "processor", "device", "s without", "s with", "ratio"), rows)


PAGE = page(
    "s1",
    {
        "bars": of(StrategyFigure, bars),
        "controls": of(StrategyFigure, controls),
        "links": of(StrategyFigure, links),
        "claims": of(JudgedClaims, claims),
        "setup": of(StrategyFigure, setup),
        "cost": of(CostFigure, cost),
    },
)


if __name__ == "__main__":
    sys.exit(write(PAGE))
