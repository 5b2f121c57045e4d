"""The report as one HTML file that makes no request, from a summary and a few pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, get_args

from cloven.auditing.finding import Finding, Metric
from cloven.auditing.summary import DefenceSummary, LearningCurve, Over, Summary
from cloven.errors import require
from cloven.reporting import digest, figures, levels, orderings, overview, panels, plans, series, verdicts, words
from cloven.reporting.pictures import Picture, picture

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment
    from numpy.typing import NDArray

OPEN_ROWS = 40  # a table of more rows starts folded
OPEN_VERDICTS = 10  # of more observations, so many are shown and the others folded
OPEN_PANELS = 12
MOST_ACROSS = 5  # of more devices, a chain is drawn downwards
NAMES: Mapping[str, str] = {"agreement": "Agreement", "ssim": "SSIM"}
_ROLES = ("best", "median", "worst")


@dataclass(frozen=True, eq=False)
class Sample:
    """A victim image and its reconstruction; images are ``(channels, height, width)``."""

    role: str  # "best", "median" or "worst", by SSIM over the victim images
    ssim: float
    agrees: bool  # the CNN gives the reconstruction the class that it gives the original
    original: NDArray[np.uint8]
    reconstruction: NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """A sample ready to show."""

    sample: Sample
    original: Picture
    reconstruction: Picture


@dataclass(frozen=True)
class Strip:
    """The shots of one finding."""

    finding: Finding
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Album:
    """The strips of one family: what leaks most is shown, the others are folded."""

    family: digest.Family
    shown: Strip
    folded: tuple[Strip, ...]


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
    rows = overview.drawn(summary)
    # Copies, so that each finding is an object of its own: keys may be equal, on several links or in plans.
    findings = [finding.model_copy() for finding in summary.findings]
    places = {id(finding): f"finding-{index}" for index, finding in enumerate(findings)}
    summary = summary.model_copy(update={"findings": tuple(findings)})
    found, seen = digest.families(findings, summary.observations), verdicts.verdicts(summary)
    end, expected = orderings.orderings(summary.orderings)
    by_name = {verdict.row.observation: verdict for verdict in seen}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            summary=summary,
            divisions=rows,
            faces=_faces(samples),
            steps=levels.ranges(),
            limits=levels.LIMITS,
            most_across=MOST_ACROSS,
            capture=summary.capture,
            families=found,
            rows=[finding for family in found for place in family.places for finding in place],
            verdicts=seen,
            first=_first(seen),
            tested=bool(summary.curves),
            at={name: verdict.row for name, verdict in by_name.items()},
            anchor=lambda finding: places[id(finding)],
            charts=_charts(found),
            suite=_suite(found),
            curves=_curves(summary.curves, seen),
            defences=_defences(summary.defences),
            albums=_albums(found, samples),
            plans=plans.plans(summary),
            attacks=list(dict.fromkeys(finding.attack for finding in findings)),
            inside=any(finding.inside for finding in findings),
            baselines=list(dict.fromkeys(name for finding in findings for name in finding.baselines)),
            orderings=expected,
            end=end,
            tally=orderings.tally(summary.orderings),
            open_rows=OPEN_ROWS,
        )
    )


def _faces(samples: Mapping[str, Sequence[Sample]]) -> dict[str, tuple[Picture, Picture]]:
    """Return the victim image of usual contrast and its reconstruction; the median one where that was not kept."""
    found: dict[str, tuple[Picture, Picture]] = {}
    for key, shown in samples.items():
        by_role = {sample.role: sample for sample in shown}
        sample = by_role.get("usual") or by_role.get("median")
        if sample is not None:
            found[key] = picture(sample.original), picture(sample.reconstruction)
    return found


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


def _albums(found: Sequence[digest.Family], samples: Mapping[str, Sequence[Sample]]) -> list[Album]:
    """Return the pictures of each family: of the highest SSIM, and folded those of other attacks and places."""
    albums = []
    for family in found:
        shown_of = ([f for f in place if f.ssim is not None and samples.get(f.key)] for place in family.places)
        places = [kept for kept in shown_of if kept]
        if places:
            places.sort(key=lambda place: not place[0].crosses)
            carried = [place for place in places if place[0].crosses == places[0][0].crosses]
            best = max(carried, key=lambda place: place[0].ssim.mean if place[0].ssim is not None else 0.0)
            others = [*best[1:], *(place[0] for place in places if place is not best)]
            shown, *folded = (_strip(finding, samples[finding.key]) for finding in [best[0], *others])
            albums.append(Album(family, shown, tuple(folded)))
    return albums


def _strip(finding: Finding, samples: Sequence[Sample]) -> Strip:
    ordered = [sample for role in _ROLES for sample in samples if sample.role == role]
    return Strip(finding, tuple(Shot(s, picture(s.original), picture(s.reconstruction)) for s in ordered))


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise require("audit", error) from error
    folder = files("cloven.reporting")
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (
        words.bounds,
        words.capital,
        words.clean,
        words.count,
        words.duration,
        words.interval,
        words.listed,
        words.number,
        words.percent,
        words.plural,
        words.shape,
        words.share,
        words.signed,
        words.size,
        words.spread,
        words.tiny,
    ):
        environment.filters[filter_.__name__] = filter_
    environment.filters["drawn"] = Markup  # for our own SVG only
    environment.globals.update(
        named=series.named,
        seen_at=series.where,
        colour=digest.colour,
        standing=digest.standing,
        size=words.size,
        metrics={"agreement": "agreement", "ssim": "SSIM"},
    )
    return environment
