"""The tables of docs/papers/s1.md, written from the results beside it; its sentences are a person's.

    python -m benchmarks.s1_page [--check]

Results are the ``figure.json`` of figures, and what ``cloven reproduce s1 --claims --json`` printed. With --check
nothing is written; exit code 1 where the page is not what the results say.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.pages import Document, interval, page, table, write
from cloven.papers.s1.experiments import LINKS, PAPER


def bars(document: Document) -> str:
    """The bars as S1 makes them: agreement with its interval, its shares, its floor, and SSIM."""
    columns = (*WHERE, "agreement", "shares", "floor", "SSIM", "sent")
    return table(columns, ([*_where(bar), *_scores(bar)] for bar in document["bars"] if bar["control"] == PAPER))


def controls(document: Document) -> str:
    """A row for each bar, with its agreement as S1 makes it and under each control that has it."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for bar in document["bars"]:
        if bar["control"] != LINKS:
            rows.setdefault(_where(bar), {})[bar["control"]] = interval(bar["agreement"])
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return table(
        (*WHERE, *names), ([*where, *(row.get(name, "") for name in names)] for where, row in rows.items())
    )


def links(document: Document) -> str:
    """All that a link carries, by the strong decoder."""
    found = (bar for bar in document["bars"] if bar["control"] == LINKS)
    columns = (*WHERE, "from", "agreement", "floor", "SSIM")
    return table(columns, ([*_where(bar), bar["where"], *(_scores(bar)[i] for i in (0, 2, 3))] for bar in found))


WHERE = ("data", "strategy", "layer", "devices")


def _where(bar: Mapping[str, Any]) -> tuple[str, ...]:
    return bar["data"], bar["strategy"], bar["layer"], str(bar["devices"])


def _scores(bar: Mapping[str, Any]) -> list[str]:
    return [
        interval(bar["agreement"]),
        f"{min(bar['shares']):.2f} to {max(bar['shares']):.2f}",
        f"{bar['floors']['agreement']:.2f}",
        f"{bar['ssim']['mean']:.2f}",
        "yes" if bar["crosses"] else "never",
    ]


def claims(document: Document) -> str:
    """Every claim with its verdict, and what each control says."""
    rows = (
        [c["claim"], c["sentence"], f"**{c['verdict']}**", "; ".join(map(": ".join, c["controls"].items()))]
        for c in document["claims"]
    )
    return table(("claim", "what S1 says", "verdict", "under each control"), rows)


def setup(document: Document) -> str:
    """Each study: its CNN's accuracy and kappa, images and time."""
    return table(
        ("study", "varies", "CNN", "kappa", "auxiliary images", "victims", "attacks, core minutes"),
        (
            [
                p["name"],
                p["control"],
                _share(p["model_accuracy"]),
                f"{p['model_kappa']:.2f}",
                f"{p['settings']['queries']:,}",
                f"{p['test_images']:,}",
                f"{p['attack_seconds'] / 60:.1f}",
            ]
            for p in document["panels"]
        ),
    )


def cost(document: Document) -> str:
    """Fig. 3: seconds of each device without and with the cipher, by preset and reading, on the first processor."""
    rows = (
        [
            reading["reading"],
            preset["name"],
            bar["processor"],
            bar["device"],
            f"{bar['seconds_without']:.3g}",
            f"{bar['seconds_with']:.3g}",
            f"{bar['ratio']:.2f}",
        ]
        for reading in document["readings"]
        for preset in reading["presets"]
        for bar in preset["bars"]
    )
    return table(("layers counted as", "preset", "processor", "device", "s without", "s with", "times"), rows)


def _share(value: float | None) -> str:
    return "no labels" if value is None else f"{value:.1%}"


PAGE = page(
    "s1", {"bars": bars, "controls": controls, "links": links, "claims": claims, "setup": setup, "cost": cost}
)


if __name__ == "__main__":
    sys.exit(write(PAGE))
