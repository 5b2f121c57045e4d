"""Write the tables of docs/papers/s2.md from the results beside the page; its text is written by hand.

    python -m benchmarks.s2_page [--check]

The results are the output of ``cloven reproduce s2 --figure table3 --published --json``, and the documents in the
folders of the measured figures and tables. With --check nothing is written, and the exit code is 1 if the page
differs from the results.
"""

from __future__ import annotations

import sys

from benchmarks.pages import interval, of, page, table, write
from cloven.papers.s2.enclave_fit import PublishedTable
from cloven.papers.s2.enclave_times import SavedTable, TimesFigure
from cloven.papers.s2.privacy import PointScore, ScoresFigure


def printed(document: PublishedTable) -> str:
    """Return Table III with the numbers derived from its times."""
    columns = ["model", "data", "points", "cut after layer", "whole model, s", "divided, s", "printed %"]
    columns += ["derived %", "exact %", "times as fast"]
    rows = []
    for row in document.rows:
        times = [str(row.full_seconds), str(row.partitioned_seconds)]
        percent = [row.printed_percent, row.derived_percent, f"{row.reduction_percent:.2f}", f"{row.ratio:.2f}"]
        rows.append([row.model, row.data, str(row.partition_points), str(row.point), *times, *percent])
    return table(columns, rows)


def fit(document: PublishedTable) -> str:
    """Return the seven published times beside the fitted ones."""
    columns = ["model", "cut after layer", "operations", "weights, MB", "GMAC"]
    columns += ["published, s", "fitted, s", "residual, s"]
    rows = []
    for row in document.fit.rows:
        where = "whole model" if row.point is None else str(row.point)
        load = [str(row.ops), f"{row.weight_bytes / 1e6:.1f}", f"{row.macs / 1e9:.2f}"]
        times = [str(row.published_seconds), f"{row.fitted_seconds:.2f}", f"{row.residual_seconds:+.2f}"]
        rows.append([row.model, where, *load, *times])
    return table(columns, rows)


def times(document: TimesFigure) -> str:
    """Return the seconds per image for each cut of each model."""
    columns = ["model", "layer", "load, s", "first, s", "mean, s", "median, s", "sd, s", "front, s"]
    columns += ["hand-over, ms", "rear, s", "handed over, MB", "time saved, %", "times as fast"]
    rows = []
    for row in document.rows:
        whole = [f"{row.load:.1f}", f"{row.first:.3f}", f"{row.mean:.3f}", f"{row.median:.3f}", f"{row.spread:.3f}"]
        handed = f"{1e3 * row.parts['hand-over']:.1f}"
        parts = [f"{row.parts['front']:.3f}", handed, f"{row.parts['rear']:.3f}", f"{row.handed_bytes / 1e6:.2f}"]
        rows.append([row.model, row.point, *whole, *parts, f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"])
    return table(columns, rows)


def scores(document: ScoresFigure) -> str:
    """Return the SSIM of each attack's reconstructions at each point."""
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
    """Return the cut that each attack's scores choose, and the time that it saves."""
    rows = []
    for row in document.rows:
        saved = ["", "", ""]
        if row.path is not None:
            saved = [f"{row.partitioned_seconds:.3f}", f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"]
        rows.append([row.attack, row.rule, row.path or "no point", f"{row.full_seconds:.3f}", *saved])
    columns = ["attack", "rule", "cut after", "whole model, s", "divided, s", "time saved, %", "times as fast"]
    return table(columns, rows)


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
