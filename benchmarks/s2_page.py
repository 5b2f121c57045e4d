"""The tables of docs/papers/s2.md, written from the results beside it; its sentences are a person's.

    python -m benchmarks.s2_page [--check]

Results are what ``cloven reproduce s2 --figure table3 --published --json`` printed, and what the figures and the
table that are measured leave in their folders. With --check nothing is written; exit code 1 where the page is not
what the results say.
"""

from __future__ import annotations

import sys

from benchmarks.pages import Document, interval, page, table, write


def printed(document: Document) -> str:
    """Table III, with what follows from its times."""
    columns = (
        "model",
        "data",
        "points",
        "cut after layer",
        "all inside, s",
        "divided, s",
        "printed %",
        "derived %",
        "exact %",
        "times as fast",
    )
    return table(
        columns,
        (
            [
                row["model"],
                row["data"],
                str(row["partition_points"]),
                str(row["point"]),
                str(row["full_seconds"]),
                str(row["partitioned_seconds"]),
                row["printed_percent"],
                row["derived_percent"],
                f"{row['reduction_percent']:.2f}",
                f"{row['ratio']:.2f}",
            ]
            for row in document["rows"]
        ),
    )


def fit(document: Document) -> str:
    """The seven times beside what the fitted cost gives."""
    return table(
        ("model", "cut after layer", "operations", "weights, MB", "GMAC", "S2, s", "fitted, s", "residual, s"),
        (
            [
                row["model"],
                "all inside" if row["point"] is None else str(row["point"]),
                str(row["ops"]),
                f"{row['weight_bytes'] / 1e6:.1f}",
                f"{row['macs'] / 1e9:.2f}",
                str(row["published_seconds"]),
                f"{row['fitted_seconds']:.2f}",
                f"{row['residual_seconds']:+.2f}",
            ]
            for row in document["fit"]["rows"]
        ),
    )


def times(document: Document) -> str:
    """Seconds of an image for each cut of each model."""
    return table(
        (
            "model",
            "layer",
            "load, s",
            "first, s",
            "mean, s",
            "median, s",
            "sd, s",
            "front, s",
            "hand-over, ms",
            "rear, s",
            "handed over, MB",
            "less time, %",
            "times as fast",
        ),
        (
            [
                row["model"],
                row["point"],
                f"{row['load']:.1f}",
                *(f"{row[name]:.3f}" for name in ("first", "mean", "median", "spread")),
                f"{row['parts']['front']:.3f}",
                f"{1e3 * row['parts']['hand-over']:.1f}",
                f"{row['parts']['rear']:.3f}",
                f"{row['handed_bytes'] / 1e6:.2f}",
                f"{row['reduction_percent']:.1f}",
                f"{row['ratio']:.2f}",
            ]
            for row in document["rows"]
        ),
    )


def scores(document: Document) -> str:
    """SSIM of what each attack rebuilds behind each point."""
    attacks = list(dict.fromkeys(row["attack"] for row in document["rows"]))
    points: dict[int, dict[str, Document]] = {}
    for row in document["rows"]:
        points.setdefault(row["point"], {})[row["attack"]] = row
    return table(
        ("cut after", "bytes", *attacks, "floor"),
        (
            [
                first["label"],
                str(first["bytes"]),
                *(interval(rows[attack]["ssim"]) for attack in attacks),
                f"{first['floor']:.2f}",
            ]
            for rows in points.values()
            for first in [next(iter(rows.values()))]
        ),
    )


SAVED = (("partitioned_seconds", ".3f"), ("reduction_percent", ".1f"), ("ratio", ".2f"))


def choice(document: Document) -> str:
    """Where each attacker's scores cut, and what that saves."""
    return table(
        ("by", "rule", "cut after", "all inside, s", "divided, s", "less time, %", "times as fast"),
        (
            [
                row["attack"],
                row["rule"],
                row["path"] or "no point",
                f"{row['full_seconds']:.3f}",
                *(f"{row[name]:{form}}" if row["path"] else "" for name, form in SAVED),
            ]
            for row in document["rows"]
        ),
    )


PAGE = page("s2", {"printed": printed, "fit": fit, "times": times, "scores": scores, "choice": choice})


if __name__ == "__main__":
    sys.exit(write(PAGE))
