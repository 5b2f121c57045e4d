"""The tables of docs/papers/s2.md, written from the results beside it; its sentences are a person's.

    python -m benchmarks.s2_page [--check]

Results are what ``cloven reproduce s2 --figure table3 --published --json`` printed. With --check nothing is
written; exit code 1 where the page is not what the results say.
"""

from __future__ import annotations

import sys

from benchmarks.pages import Document, page, table, write


def printed(document: Document) -> str:
    """Table III, with what follows from its times."""
    columns = ("model", "data", "points", "cut after layer", "all inside, s", "divided, s", "printed %",
               "derived %", "exact %", "times as fast")  # fmt: skip
    return table(
        columns,
        (
            [
                row["model"], row["data"], str(row["partition_points"]), str(row["point"]),
                str(row["full_seconds"]), str(row["partitioned_seconds"]), row["printed_percent"],
                row["derived_percent"], f"{row['reduction_percent']:.2f}", f"{row['ratio']:.2f}",
            ]
            for row in document["rows"]
        ),
    )  # fmt: skip


def fit(document: Document) -> str:
    """The seven times beside what the fitted cost gives."""
    return table(
        ("model", "cut after layer", "operations", "weights, MB", "GMAC", "S2, s", "fitted, s", "residual, s"),
        (
            [
                row["model"], "all inside" if row["point"] is None else str(row["point"]), str(row["ops"]),
                f"{row['weight_bytes'] / 1e6:.1f}", f"{row['macs'] / 1e9:.2f}", str(row["published_seconds"]),
                f"{row['fitted_seconds']:.2f}", f"{row['residual_seconds']:+.2f}",
            ]
            for row in document["fit"]["rows"]
        ),
    )  # fmt: skip


PAGE = page("s2", {"printed": printed, "fit": fit})


if __name__ == "__main__":
    sys.exit(write(PAGE))
