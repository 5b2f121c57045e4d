"""A summary made ready to show: findings in families, transfers summed by link, what leaks most.

Everything here is arithmetic on numbers that the summary holds; nothing is measured again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from cloven.report import words
from cloven.report.figures import Bar, Colour, Group, Mark

Finding = Mapping[str, Any]
Metric = Literal["agreement", "ssim"]
Standing = Literal["clear", "reaches", "below", "unknown"]

EXPECTED = {"positive": "above 0", "negative": "below 0", "zero": "0"}
_COLOURS: tuple[Colour, ...] = ("vertical", "horizontal", "data")
_COMMON = ("label", "layers", "strategy", "devices", "view", "attack", "pairs")
_STRATEGIES = {strategy: place for place, strategy in enumerate(_COLOURS)}


@dataclass(frozen=True)
class Family:
    """The findings that differ only in which share, or which link, was seen: one bar of a chart."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """Any one of them, for what they have in common."""
        return self.findings[0]

    @property
    def name(self) -> str:
        """``horizontal, 4 devices``; the strategy alone where nobody counted the devices."""
        strategy, devices = words.clean(self.first["strategy"], 24), self.first["devices"]
        return strategy if devices is None else f"{strategy}, {words.plural(devices, 'device')}"

    @property
    def noun(self) -> str:
        """What they differ in: the paper counts shares; what really crosses is seen link by link."""
        return "share" if self.first["view"] == "paper" else "link"

    @property
    def never(self) -> int:
        """How many of them the link never carries."""
        return sum(not finding["crosses"] for finding in self.findings)

    @property
    def most(self) -> Finding:
        """The one that leaks most; what a link carries goes before what none does."""
        return max(self.findings, key=lambda finding: (bool(finding["crosses"]), leak(finding)))

    def mean(self, metric: Metric) -> float | None:
        """The plain mean over the means, as the paper's orderings take it."""
        scores = [f[metric]["mean"] for f in self.findings if words.known(f[metric]["mean"])]
        return sum(scores) / len(scores) if scores else None

    def floor(self, metric: Metric) -> float | None:
        """The highest floor of any of them: the hardest one to clear."""
        return max((found[1] for f in self.findings if (found := best_floor(f, metric))), default=None)


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


@dataclass(frozen=True)
class Ordering:
    """An expectation of the paper and the difference measured, with its place on a common scale of 0 to 160."""

    ordering: Mapping[str, Any]
    marks: Mapping[str, float] | None

    @property
    def expected(self) -> str:
        """``above 0``."""
        expected = str(self.ordering["expected"])
        return EXPECTED.get(expected, words.clean(expected, 40))


def colour(strategy: str) -> Colour:
    """The colour of a strategy; one that has none of its own shares ``other``."""
    return strategy if strategy in _STRATEGIES else "other"


def best_floor(finding: Finding, metric: Metric) -> tuple[str, float] | None:
    """The name and score of the highest floor, or None where no floor has this metric."""
    scored = [(name, floor[metric]) for name, floor in finding["floors"].items() if words.known(floor.get(metric))]
    return max(scored, key=lambda named: (named[1], named[0]), default=None)


def standing(finding: Finding, metric: Metric) -> Standing:
    """Where the interval lies: wholly above the best floor, wholly below it, or reaching it."""
    score, floor = finding[metric], best_floor(finding, metric)
    if floor is None or not (words.known(score["low"]) and words.known(score["high"])):
        return "unknown"
    if score["low"] > floor[1]:
        return "clear"
    return "below" if score["high"] < floor[1] else "reaches"


def leading(finding: Finding) -> Metric:
    """The metric in which a finding is furthest above its floor."""
    return "ssim" if _above(finding, "ssim") > _above(finding, "agreement") else "agreement"


def leak(finding: Finding) -> float:
    """How far a finding is above its floor, in the metric that shows most; -inf where nothing is known."""
    return _above(finding, leading(finding))


def most_leaking(findings: Iterable[Finding]) -> Finding | None:
    """The finding furthest above its floor in either metric, of those that a link really carries."""
    carried = [finding for finding in findings if finding["crosses"] and words.known(leak(finding))]
    return max(carried, key=leak, default=None)


def families(findings: Sequence[Finding]) -> list[Family]:
    """One family for each layer, strategy, number of devices, view and attack, in reading order.

    Layers that the paper counts go first, by number; then what whole links carry.
    """
    members: dict[tuple[Any, ...], list[Finding]] = {}
    for finding in findings:
        members.setdefault(tuple(_common(finding, name) for name in _COMMON), []).append(finding)
    counted = {finding["label"] for finding in findings if finding["view"] == "paper"}
    seen = {place: index for index, place in reversed(list(enumerate(key[:2] for key in members)))}

    def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
        label, modules, strategy, devices, view, *rest = key
        place = _STRATEGIES.get(strategy, len(_STRATEGIES)), strategy
        return (
            label not in counted,
            words.natural(label),
            seen[label, modules],
            place,
            devices,
            view != "paper",
            *rest,
        )

    return [Family(tuple(members[key])) for key in sorted(members, key=order)]


def layers(found: Sequence[Family]) -> list[tuple[str, str, list[Family]]]:
    """``(label, modules, families)``, one for each layer, in the order of ``found``."""
    grouped: dict[tuple[str, str], list[Family]] = {}
    for family in found:
        label = words.clean(family.first["label"], 40), words.clean(", ".join(family.first["layers"]), 60)
        grouped.setdefault(label, []).append(family)
    return [(label, modules, members) for (label, modules), members in grouped.items()]


def chart(found: Sequence[Family], metric: Metric) -> list[Group]:
    """The groups of bars of one metric."""
    several = {key: len({f.first[key] for f in found}) > 1 for key in ("attack", "pairs")}
    return [
        Group(
            label,
            modules if modules != label else "",
            tuple(
                Bar(
                    name=family.name,
                    detail=_detail(family, several),
                    colour=colour(family.first["strategy"]),
                    mean=family.mean(metric),
                    floor=family.floor(metric),
                    marks=tuple(_mark(finding, metric) for finding in family.findings),
                    hatched=family.first["view"] == "paper",
                    dashed=family.never == len(family.findings),
                )
                for family in members
            ),
        )
        for label, modules, members in layers(found)
    ]


def plans(summary: Mapping[str, Any]) -> list[PlanView]:
    """Each plan with its sums, and of its findings the one that leaks most."""
    return [
        PlanView(plan, links(plan["transfers"]), most_leaking(_own(plan, summary))) for plan in summary["plans"]
    ]


def _own(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Finding]:
    """A plan's findings: those of its strategy and devices, where it alone could have been attacked.

    Of several plans alike, the one whose shares are counted was attacked; if that leaves more than one, none is.
    """
    place = plan["strategy"], plan["devices"]
    alike = [other for other in summary["plans"] if (other["strategy"], other["devices"]) == place]
    attacked = alike if len(alike) == 1 else [other for other in alike if other["counted"]]
    if len(attacked) != 1 or attacked[0] is not plan:
        return []
    return [finding for finding in summary["findings"] if (finding["strategy"], finding["devices"]) == place]


def links(transfers: Sequence[Mapping[str, Any]]) -> tuple[Link, ...]:
    """Transfers summed by link, in the order in which the links are first used."""
    sums: dict[tuple[str, str], list[int]] = {}
    for transfer in transfers:
        sums.setdefault((str(transfer["source"]), str(transfer["target"])), []).append(transfer["bytes"])
    return tuple(Link(source, target, len(sent), sum(sent)) for (source, target), sent in sums.items())


def orderings(given: Sequence[Mapping[str, Any]]) -> tuple[float, list[Ordering]]:
    """The common scale's end, and each ordering with its marks on it."""
    reach = [abs(value) for o in given for value in o["difference"].values() if words.known(value)]
    end = next((step for step in (0.1, 0.2, 0.5, 1.0) if max(reach, default=0.0) <= step), max(reach, default=1.0))
    return end, [Ordering(ordering, _marks(ordering["difference"], end)) for ordering in given]


def tally(given: Sequence[Mapping[str, Any]]) -> str:
    """``3 hold, 1 fails, 1 undecided``."""
    counts = Counter(words.clean(ordering["shows"], 24) for ordering in given)
    verbs = {"holds": ("holds", "hold"), "fails": ("fails", "fail")}
    known = [shows for shows in ("holds", "fails", "undecided") if shows in counts]
    rest = sorted(set(counts) - set(known))
    return ", ".join(words.plural(counts[shows], *verbs.get(shows, (shows, shows))) for shows in known + rest)


def _marks(difference: Mapping[str, float | None], end: float) -> Mapping[str, float] | None:
    values = {name: difference[name] for name in ("low", "mean", "high")}
    if not all(words.known(value) for value in values.values()):
        return None
    return {name: round(80 + 74 * cast(float, value) / end, 2) for name, value in values.items()}


def _above(finding: Finding, metric: Metric) -> float:
    value = finding["leakage_above_floor"].get(metric)
    return float(value) if words.known(value) else float("-inf")


def _mark(finding: Finding, metric: Metric) -> Mark:
    score = finding[metric]
    mean, low, high = (score[name] if words.known(score[name]) else None for name in ("mean", "low", "high"))
    return Mark(mean, low, high, sent=bool(finding["crosses"]))


def _detail(family: Family, several: Mapping[str, bool]) -> str:
    first, amount, never = family.first, len(family.findings), family.never
    silent = "never sent" if never == amount else f"{never} of {amount} never sent" if never else ""
    parts = [
        silent,  # first, so that it is never what is cut
        words.clean(first["view"], 12),
        words.plural(amount, family.noun) if amount > 1 and never in (0, amount) else "",
        words.clean(first["attack"], 12) if several["attack"] else "",
        f"{words.count(first['pairs'])} pairs" if several["pairs"] else "",
    ]
    return words.clean(" · ".join(part for part in parts if part), 44)


def _common(finding: Finding, name: str) -> Any:
    return tuple(finding[name]) if name == "layers" else finding[name]
