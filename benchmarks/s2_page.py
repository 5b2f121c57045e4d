"""The tables of docs/papers/s2.md, written from the results beside it; its sentences are a person's.

    python -m benchmarks.s2_page [--check]

Results are what ``cloven reproduce s2 --figure table3 --published --json`` printed, and what the figures and the
table that are measured leave in their folders. With --check nothing is written; exit code 1 where the page is not
what the results say.
"""

from __future__ import annotations

import sys

from benchmarks.pages import interval, of, page, table, write
from cloven.papers.s2.enclave_fit import PublishedTable
from cloven.papers.s2.enclave_times import SavedTable, TimesFigure
from cloven.papers.s2.privacy import PointScore, ScoresFigure


def printed(document: PublishedTable) -> str:
    """Return Table III, with what follows from its times."""
    columns = ["model", "data", "points", "cut after layer", "all inside, s", "divided, s", "printed %"]
    columns += ["derived %", "exact %", "times as fast"]
    rows = []
    for row in document.rows:
        times = [str(row.full_seconds), str(row.partitioned_seconds)]
        percent = [row.printed_percent, row.derived_percent, f"{row.reduction_percent:.2f}", f"{row.ratio:.2f}"]
        rows.append([row.model, row.data, str(row.partition_points), str(row.point), *times, *percent])
    return table(columns, rows)


def fit(document: PublishedTable) -> str:
    """Return the seven times beside those of the fitted cost."""
    columns = ("model", "cut after layer", "operations", "weights, MB", "GMAC", "S2, s", "fitted, s", "residual, s")
    rows = []
    for row in document.fit.rows:
        where = "all inside" if row.point is None else str(row.point)
        load = [str(row.ops), f"{row.weight_bytes / 1e6:.1f}", f"{row.macs / 1e9:.2f}"]
        times = [str(row.published_seconds), f"{row.fitted_seconds:.2f}", f"{row.residual_seconds:+.2f}"]
        rows.append([row.model, where, *load, *times])
    return table(columns, rows)


def times(document: TimesFigure) -> str:
    """Return the seconds of an image for each cut of each model."""
    columns = ["model", "layer", "load, s", "first, s", "mean, s", "median, s", "sd, s", "front, s"]
    columns += ["hand-over, ms", "rear, s", "handed over, MB", "less time, %", "times as fast"]
    rows = []
    for row in document.rows:
        whole = [f"{row.load:.1f}", f"{row.first:.3f}", f"{row.mean:.3f}", f"{row.median:.3f}", f"{row.spread:.3f}"]
        handed = f"{1e3 * row.parts['hand-over']:.1f}"
        parts = [f"{row.parts['front']:.3f}", handed, f"{row.parts['rear']:.3f}", f"{row.handed_bytes / 1e6:.2f}"]
        rows.append([row.model, row.point, *whole, *parts, f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"])
    return table(columns, rows)


def scores(document: ScoresFigure) -> str:
    """Return the SSIM of each attack's reconstructions behind each point."""
    attacks = list(dict.fromkeys(row.attack for row in document.rows))
    points: dict[int, dict[str, PointScore]] = {}
    for row in document.rows:
        points.setdefault(row.point, {})[row.attack] = row
    rows = []
    for found in points.values():
        first = next(iter(found.values()))
        ssim = [interval(found[attack].ssim) for attack in attacks]
        rows.append([first.label, str(first.bytes), *ssim, f"{first.baseline:.2f}"])
    return table(("cut after", "bytes", *attacks, "baseline"), rows)


def choice(document: SavedTable) -> str:
    """Return where each attacker's scores cut, and what that saves."""
    rows = []
    for row in document.rows:
        saved = ["", "", ""]
        if row.path is not None:
            saved = [f"{row.partitioned_seconds:.3f}", f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"]
        rows.append([row.attack, row.rule, row.path or "no point", f"{row.full_seconds:.3f}", *saved])
    return table(("by", "rule", "cut after", "all inside, s", "divided, s", "less time, %", "times as fast"), rows)


PAGE = page(
    "s2",
    {
        "printed": of(PublishedTable, printed),
        "fit": of(PublishedTable, fit),
        "times": of(TimesFigure, times),
        "scores": of(ScoresFigure, scores),
        "choice": of(SavedTable, choice),
    },
)


if __name__ == "__main__":
    sys.exit(write(PAGE))
