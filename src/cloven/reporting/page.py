"""The report as one HTML file that makes no request, from a summary and a few pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from cloven.auditing.finding import Metric
from cloven.auditing.summary import DefenceSummary, LearningCurve, Over, Summary
from cloven.reporting import digest, figures, orderings, overview, panels, plans, series, verdicts
from cloven.reporting.findings import Sample, albums, evidence, faces
from cloven.reporting.templates import environment

OPEN_VERDICTS = 10  # of more observations, so many are shown and the others folded
OPEN_PANELS = 12
NAMES: Mapping[str, str] = {"agreement": "Agreement", "ssim": "SSIM"}


@dataclass(frozen=True)
class SuiteTable:
    """Every attack on every family: the attacks that have a score, and their rungs."""

    attacks: Mapping[Metric, Sequence[str]]
    lines: tuple[tuple[digest.Family, Mapping[Metric, Sequence[digest.Rung | None]]], ...]


@dataclass(frozen=True)
class Curves:
    """Learning curves drawn: of the observations that leak most, and of the others."""

    shown: list[tuple[str, str]]
    folded: list[tuple[str, str]]
    more: int
    rising: int


def render(summary: Summary, samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return the whole page; ``samples`` by the key of their finding. Equal input gives equal bytes."""
    rows, found = overview.drawn(summary), evidence(summary)
    summary, families = found["summary"], found["families"]
    seen = verdicts.verdicts(summary)
    end, expected = orderings.orderings(summary.orderings)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            **found,
            divisions=rows,
            faces=faces(samples),
            capture=summary.capture,
            verdicts=seen,
            first=_first(seen),
            tested=bool(summary.curves),
            at={verdict.row.observation: verdict.row for verdict in seen},
            charts=_charts(families),
            suite=_suite(families),
            curves=_curves(summary.curves, seen),
            defences=_defences(summary.defences),
            albums=albums(families, samples),
            plans=plans.plans(summary),
            orderings=expected,
            end=end,
            tally=orderings.tally(summary.orderings),
        )
    )


def _first(seen: Sequence[verdicts.Verdict]) -> int:
    """Return how many verdicts are shown unfolded: those on what a link carries, if they are not many."""
    crossing = sum(verdict.row.crosses for verdict in seen) or len(seen)
    return len(seen) if len(seen) <= OPEN_VERDICTS else min(crossing, OPEN_VERDICTS)


def _charts(found: Sequence[digest.Family]) -> list[tuple[str, str]]:
    drawn = [(metric, digest.chart(found, metric)) for metric in digest.METRICS]
    return [
        (NAMES[metric], figures.bars(metric, f"{NAMES[metric]} by layer and strategy", groups))
        for metric, groups in drawn
        if groups
    ]


def _suite(found: Sequence[digest.Family]) -> SuiteTable | None:
    attacks = {metric: digest.tried(found, metric) for metric in digest.METRICS}
    shown = {metric: names for metric, names in attacks.items() if names}
    if max(map(len, shown.values()), default=0) < 2:
        return None
    lines = [
        (family, {metric: digest.rungs(family, metric, names) for metric, names in shown.items()})
        for family in found
    ]
    return SuiteTable(shown, tuple(lines))


def _curves(rows: Sequence[LearningCurve], seen: Sequence[verdicts.Verdict]) -> Curves | None:
    drawn = {
        f"{NAMES[metric]} against {over}": series.curves(rows, seen, metric, over)
        for metric in digest.METRICS
        for over in get_args(Over)
    }
    if not any(drawn.values()):
        return None
    most = max(map(len, drawn.values()))
    first = most if most <= OPEN_PANELS else OPEN_PANELS - OPEN_PANELS // 3
    return Curves(
        shown=_panels("curves", {title: panels_[:first] for title, panels_ in drawn.items()}),
        folded=_panels("more-curves", {title: panels_[first:] for title, panels_ in drawn.items()}),
        more=most - first,
        rising=sum(row.rises for row in rows),
    )


def _defences(rows: Sequence[DefenceSummary]) -> list[tuple[str, str]]:
    drawn = {NAMES[metric]: series.defences(rows, metric) for metric in digest.METRICS}
    return _panels("defences", drawn, in_a_row=1)


def _panels(name: str, drawn: Mapping[str, Sequence[panels.Panel]], *, in_a_row: int = 2) -> list[tuple[str, str]]:
    """Return charts by their titles."""
    return [
        (title, panels.panels(f"{name}-{title.lower().replace(' ', '-')}", title, found, in_a_row=in_a_row))
        for title, found in drawn.items()
        if found
    ]
