"""What each plan sends, summed by link, beside the finding of its own that leaks most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloven.reporting.digest import Finding, most_leaking


@dataclass(frozen=True)
class Link:
    """What one link carries in one plan, summed."""

    source: str
    target: str
    transfers: int
    bytes: int


@dataclass(frozen=True)
class PlanView:
    """A plan with its sums, and the finding that leaks most of those its links carry."""

    plan: Mapping[str, Any]
    links: tuple[Link, ...]
    most: Finding | None

    @property
    def bytes(self) -> int:
        """All that crosses, for one image."""
        return sum(link.bytes for link in self.links)

    @property
    def heaviest(self) -> Link | None:
        """The link that carries most."""
        return max(self.links, key=lambda link: link.bytes, default=None)

    @property
    def never(self) -> int:
        """How many of the counted shares no link carries."""
        return sum(not share["crosses"] for share in self.plan["counted"])


def plans(summary: Mapping[str, Any]) -> list[PlanView]:
    """Each plan with its sums, and of its findings the one that leaks most."""
    return [
        PlanView(plan, links(plan["transfers"]), most_leaking(_own(plan, summary))) for plan in summary["plans"]
    ]


def _own(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Finding]:
    """A plan's findings: those of its strategy, devices and transform, where it alone could have been attacked.

    Of several plans alike, the one whose shares are counted was attacked; if that leaves more than one, none is.
    """
    alike = [other for other in summary["plans"] if _kind(other) == _kind(plan)]
    attacked = alike if len(alike) == 1 else [other for other in alike if other["counted"]]
    if len(attacked) != 1 or attacked[0] is not plan:
        return []
    return [finding for finding in summary["findings"] if _kind(finding) == _kind(plan)]


def _kind(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["strategy"], row["devices"], row["transform"]


def links(transfers: Sequence[Mapping[str, Any]]) -> tuple[Link, ...]:
    """Transfers summed by link, in the order in which the links are first used."""
    sums: dict[tuple[str, str], list[int]] = {}
    for transfer in transfers:
        sums.setdefault((str(transfer["source"]), str(transfer["target"])), []).append(transfer["bytes"])
    return tuple(Link(source, target, len(sent), sum(sent)) for (source, target), sent in sums.items())
