"""The programs of an audit: the traffic of their links, and the observations that leak most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloven.auditing.finding import AXES, Metric
from cloven.auditing.summary import AxisScore, ObservationSummary, ProgramSummary, ProgramTransfer, Summary


@dataclass(frozen=True)
class Link:
    """The traffic of one link in one program."""

    source: str
    target: str
    transfers: int
    bytes: int


@dataclass(frozen=True)
class PlanView:
    """A program with its sums; ``most`` is, on each axis, what leaks most of what listeners read."""

    plan: ProgramSummary
    links: tuple[Link, ...]
    most: Mapping[Metric, tuple[ObservationSummary, AxisScore] | None]

    @property
    def bytes(self) -> int:
        """The bytes of all transfers, for one image."""
        return sum(link.bytes for link in self.links)

    @property
    def heaviest(self) -> Link | None:
        """The link that carries most bytes."""
        return max(self.links, key=lambda link: link.bytes, default=None)

    @property
    def never(self) -> int:
        """The number of counted shares that no link carries."""
        return sum(not share.crosses for share in self.plan.counted)


def plans(summary: Summary) -> list[PlanView]:
    """Return each program with its sums, and of its observations what leaks most."""
    views: list[PlanView] = []
    for plan in summary.programs:
        names = {
            finding.observation
            for finding in summary.findings
            if (finding.plan, finding.transform) == (plan.title, plan.transform)
        }
        crossing = [one for one in summary.observations if one.observation in names and one.exposed]
        most: dict[Metric, tuple[ObservationSummary, AxisScore] | None] = {}
        for axis, metric in AXES.items():
            scored = [(one, score) for one in crossing if (score := one.counts.on(axis)) is not None]
            most[metric] = max(scored, key=lambda pair: pair[1].leakage.high, default=None)
        views.append(PlanView(plan, links(plan.transfers), most))
    return views


def links(transfers: Sequence[ProgramTransfer]) -> tuple[Link, ...]:
    """Return transfers summed by link, in the order in which the links are first used."""
    sums: dict[tuple[str, str], list[int]] = {}
    for transfer in transfers:
        sums.setdefault((transfer.source, transfer.target), []).append(transfer.bytes)
    return tuple(Link(source, target, len(sent), sum(sent)) for (source, target), sent in sums.items())
