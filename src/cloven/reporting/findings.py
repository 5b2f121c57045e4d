"""The evidence of a page: the findings of an audit, and victim images beside their reconstructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from cloven.auditing.finding import Finding
from cloven.auditing.summary import Summary
from cloven.reporting import digest
from cloven.reporting.pictures import Picture, picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROLES = ("best", "median", "worst")


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


class Evidence(TypedDict):
    """The names that the templates of the findings and the pictures use."""

    summary: Summary
    families: list[digest.Family]
    rows: list[Finding]
    attacks: list[str]
    baselines: list[str]
    inside: bool
    anchor: Callable[[Finding], str]


def evidence(summary: Summary) -> Evidence:
    """Return the findings of an audit in families.

    Its summary has copies of the findings, so that each is an object of its own: keys may be equal, on several
    links or in plans.
    """
    findings = [finding.model_copy() for finding in summary.findings]
    places = {id(finding): f"finding-{index}" for index, finding in enumerate(findings)}
    families = digest.families(findings, summary.observations)
    return Evidence(
        summary=summary.model_copy(update={"findings": tuple(findings)}),
        families=families,
        rows=[finding for family in families for place in family.places for finding in place],
        attacks=list(dict.fromkeys(finding.attack for finding in findings)),
        baselines=list(dict.fromkeys(name for finding in findings for name in finding.baselines)),
        inside=any(finding.inside for finding in findings),
        anchor=lambda finding: places[id(finding)],
    )


def faces(samples: Mapping[str, Sequence[Sample]]) -> dict[str, tuple[Picture, Picture]]:
    """Return the victim image of usual contrast and its reconstruction; the median one where that was not kept."""
    found: dict[str, tuple[Picture, Picture]] = {}
    for key, shown in samples.items():
        by_role = {sample.role: sample for sample in shown}
        sample = by_role.get("usual") or by_role.get("median")
        if sample is not None:
            found[key] = picture(sample.original), picture(sample.reconstruction)
    return found


def albums(found: Sequence[digest.Family], samples: Mapping[str, Sequence[Sample]]) -> list[Album]:
    """Return the pictures of each family: of the highest SSIM, and folded those of other attacks and places."""
    found_albums = []
    for family in found:
        shown_of = ([f for f in place if f.ssim is not None and samples.get(f.key)] for place in family.places)
        places = [kept for kept in shown_of if kept]
        if places:
            places.sort(key=lambda place: not place[0].crosses)
            carried = [place for place in places if place[0].crosses == places[0][0].crosses]
            best = max(carried, key=lambda place: place[0].ssim.mean if place[0].ssim is not None else 0.0)
            others = [*best[1:], *(place[0] for place in places if place is not best)]
            shown, *folded = (_strip(finding, samples[finding.key]) for finding in [best[0], *others])
            found_albums.append(Album(family, shown, tuple(folded)))
    return found_albums


def _strip(finding: Finding, samples: Sequence[Sample]) -> Strip:
    ordered = [sample for role in ROLES for sample in samples if sample.role == role]
    return Strip(finding, tuple(Shot(s, picture(s.original), picture(s.reconstruction)) for s in ordered))
