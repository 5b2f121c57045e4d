"""The page: one HTML file that asks nobody for anything, from a summary and a few pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from cloven.errors import ClovenError, require
from cloven.report import digest, figures, words
from cloven.report.pictures import Picture, picture

if TYPE_CHECKING:
    import numpy as np
    from jinja2 import Environment
    from numpy.typing import NDArray

SCHEMA = 1
OPEN_ROWS = 40  # a table of more rows starts folded
STANDS = {
    "clear": "its interval clear of the floor",
    "reaches": "but its interval reaches the floor",
    "below": "its interval below the floor",
    "unknown": "with no floor or interval to hold it against",
}
_ROLES = ("best", "median", "worst")


@dataclass(frozen=True, eq=False)
class Sample:
    """One victim image beside what was rebuilt of it; images are ``(channels, height, width)``."""

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

    finding: digest.Finding
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Album:
    """The strips of one family: what leaks most is shown, the others are folded."""

    family: digest.Family
    shown: Strip
    folded: tuple[Strip, ...]


def render(summary: Mapping[str, Any], samples: Mapping[str, Sequence[Sample]]) -> str:
    """The whole page; ``samples`` by the key of their finding. Equal input gives equal bytes."""
    if summary.get("schema") != SCHEMA:
        raise ClovenError(
            f"a summary of schema {SCHEMA} is drawn here, got {summary.get('schema')!r}: make it again"
        )
    # Copies, so that each finding is an object of its own: keys may be equal, on several links or in plans.
    summary = {**summary, "findings": [dict(finding) for finding in summary["findings"]]}
    places = {id(finding): f"finding-{index}" for index, finding in enumerate(summary["findings"])}
    found = digest.families(summary["findings"])
    end, orderings = digest.orderings(summary["orderings"])
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            summary=summary,
            capture=summary.get("capture"),
            families=found,
            rows=[finding for family in found for finding in family.findings],
            distinct=len({finding["key"] for finding in summary["findings"]}),
            anchor=lambda finding: places[id(finding)],
            charts=_charts(found),
            albums=_albums(found, samples),
            plans=digest.plans(summary),
            most=digest.most_leaking(summary["findings"]),
            floors=list(dict.fromkeys(name for finding in summary["findings"] for name in finding["floors"])),
            orderings=orderings,
            end=end,
            tally=digest.tally(summary["orderings"]),
            open_rows=OPEN_ROWS,
        )
    )


def _charts(found: Sequence[digest.Family]) -> list[tuple[str, str]]:
    if not found:
        return []
    return [
        (
            "Agreement",
            figures.bars("agreement", "Agreement by layer and strategy", digest.chart(found, "agreement")),
        ),
        ("SSIM", figures.bars("ssim", "SSIM by layer and strategy", digest.chart(found, "ssim"))),
    ]


def _albums(found: Sequence[digest.Family], samples: Mapping[str, Sequence[Sample]]) -> list[Album]:
    albums = []
    for family in found:
        kept = digest.Family(tuple(finding for finding in family.findings if samples.get(finding["key"])))
        if kept.findings:
            strips = {id(finding): _strip(finding, samples[finding["key"]]) for finding in kept.findings}
            shown = strips.pop(id(kept.most))
            albums.append(Album(family, shown, tuple(strips.values())))
    return albums


def _strip(finding: digest.Finding, samples: Sequence[Sample]) -> Strip:
    ordered = sorted(samples, key=lambda s: _ROLES.index(s.role) if s.role in _ROLES else len(_ROLES))
    return Strip(finding, tuple(Shot(s, picture(s.original), picture(s.reconstruction)) for s in ordered))


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise require("audit", error) from error
    folder = files("cloven.report")
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (
        words.bounds, words.clean, words.count, words.duration, words.interval, words.listed, words.number,
        words.percent, words.plural, words.shape, words.signed, words.size, words.spread, words.tiny,
    ):  # fmt: skip
        environment.filters[filter_.__name__] = filter_
    environment.filters["drawn"] = Markup  # for our own SVG only
    environment.globals.update(
        best_floor=digest.best_floor,
        colour=digest.colour,
        leading=digest.leading,
        standing=digest.standing,
        size=words.size,
        metrics={"agreement": "agreement", "ssim": "SSIM"},
        stands=STANDS,
    )
    return environment
