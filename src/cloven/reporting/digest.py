"""Findings made ready to show: in families, with their floors, and the strongest attack of each.

Everything here is arithmetic on numbers that the summary holds; nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cloven.reporting import words
from cloven.reporting.canvas import Colour
from cloven.reporting.figures import Bar, Group, Mark

Finding = Mapping[str, Any]
Metric = Literal["agreement", "ssim"]
Standing = Literal["clear", "reaches", "below", "unknown"]

METRICS: tuple[Metric, ...] = ("ssim", "agreement")
_COLOURS: tuple[Colour, ...] = ("vertical", "horizontal", "data")
_COMMON = ("label", "layers", "strategy", "devices", "view", "transform", "pairs")
_STRATEGIES = {strategy: place for place, strategy in enumerate(_COLOURS)}
_LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8)
_UNKNOWN: Mapping[str, Any] = {"mean": None, "low": None, "high": None}


@dataclass(frozen=True)
class Family:
    """What was found of one layer, divided and seen in one way: on each share or link, by each attack."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """Any one of them, for what they have in common."""
        return self.findings[0]

    @property
    def name(self) -> str:
        """``horizontal, 4 devices, int8``; without what nobody knows or nobody did."""
        first = self.first
        devices = "" if first["devices"] is None else words.plural(first["devices"], "device")
        changed = "" if first["transform"] == "none" else words.clean(first["transform"], 24)
        return ", ".join(part for part in (words.clean(first["strategy"], 24), devices, changed) if part)

    @property
    def noun(self) -> str:
        """What they differ in: the paper counts shares; what really crosses is seen link by link."""
        return "share" if self.first["view"] == "paper" else "link"

    @property
    def places(self) -> list[tuple[Finding, ...]]:
        """The findings on each share or link, the strongest attack by SSIM first."""
        found: dict[tuple[Any, ...], list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(_place(finding), []).append(finding)
        return [tuple(sorted(attacked, key=_strength, reverse=True)) for attacked in found.values()]

    @property
    def never(self) -> int:
        """How many shares or links are never sent."""
        return sum(not place[0]["crosses"] for place in self.places)

    @property
    def attacks(self) -> list[str]:
        """The attacks, in the order in which they were tried."""
        return list(dict.fromkeys(finding["attack"] for finding in self.findings))

    @property
    def most(self) -> Finding:
        """The one that leaks most; what a link carries goes before what none does."""
        return max(self.findings, key=lambda finding: (bool(finding["crosses"]), leak(finding)))

    def by(self, attack: str | None, metric: Metric) -> list[Finding]:
        """The findings of an attack that have this score."""
        return [f for f in self.findings if f["attack"] == attack and words.known(score(f, metric)["mean"])]

    def strongest(self, metric: Metric) -> str | None:
        """The attack with the highest mean, of those tried on most shares or links."""
        tried = [attack for attack in self.attacks if self.by(attack, metric)]
        return max(tried, key=lambda a: (len(self.by(a, metric)), self.mean(metric, a) or 0.0), default=None)

    def mean(self, metric: Metric, attack: str | None) -> float | None:
        """The plain mean over the means of an attack, as the paper's orderings take it."""
        scores = [f[metric]["mean"] for f in self.by(attack, metric)]
        return sum(scores) / len(scores) if scores else None

    def floor(self, metric: Metric) -> float | None:
        """The highest floor of any of them: the hardest one to clear."""
        return max((found[1] for f in self.findings if (found := best_floor(f, metric))), default=None)


@dataclass(frozen=True)
class Rung:
    """An attack's mean on a family, and how far it is above the floor: 0, at most 0.05, to 5, above 0.8."""

    mean: float
    level: int
    strongest: bool  # of its family, and above the floor


def score(finding: Finding, metric: str) -> Mapping[str, Any]:
    """A score with its interval; unknown numbers where the attack has none, as one that makes no images."""
    return finding[metric] or _UNKNOWN


def colour(strategy: str) -> Colour:
    """The colour of a strategy; one that has none of its own shares ``other``."""
    return strategy if strategy in _STRATEGIES else "other"


def best_floor(finding: Finding, metric: str) -> tuple[str, float] | None:
    """The name and score of the highest floor, or None where no floor has this metric."""
    scored = [(name, floor[metric]) for name, floor in finding["floors"].items() if words.known(floor.get(metric))]
    return max(scored, key=lambda named: (named[1], named[0]), default=None)


def standing(finding: Finding, metric: str) -> Standing:
    """Where the interval lies: wholly above the best floor, wholly below it, or reaching it."""
    floor = best_floor(finding, metric)
    return stands(score(finding, metric), floor[1] if floor else None)


def stands(interval: Mapping[str, Any], floor: float | None) -> Standing:
    """Where an interval lies against a floor."""
    if floor is None or not (words.known(floor) and words.known(interval["low"]) and words.known(interval["high"])):
        return "unknown"
    if interval["low"] > floor:
        return "clear"
    return "below" if interval["high"] < floor else "reaches"


def leading(finding: Finding) -> Metric:
    """The metric in which a finding is furthest above its floor."""
    return "ssim" if _above(finding, "ssim") >= _above(finding, "agreement") else "agreement"


def leak(finding: Finding) -> float:
    """How far a finding is above its floor, in the metric that shows most; -inf where nothing is known."""
    return _above(finding, leading(finding))


def most_leaking(findings: Iterable[Finding]) -> Finding | None:
    """The finding furthest above its floor in either metric, of those that a link really carries."""
    carried = [finding for finding in findings if finding["crosses"] and words.known(leak(finding))]
    return max(carried, key=leak, default=None)


def families(findings: Sequence[Finding]) -> list[Family]:
    """One family for each layer, strategy, devices, view, transform and number of pairs, in reading order.

    Layers that the paper counts go first, by number; then what whole links carry.
    """
    members: dict[tuple[Any, ...], list[Finding]] = {}
    for finding in findings:
        members.setdefault(tuple(_common(finding, name) for name in _COMMON), []).append(finding)
    counted = {finding["label"] for finding in findings if finding["view"] == "paper"}
    seen = {place: index for index, place in reversed(list(enumerate(key[:2] for key in members)))}

    def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
        label, modules, strategy, devices, view, transform, pairs = key
        place = _STRATEGIES.get(strategy, len(_STRATEGIES)), strategy
        plain = transform != "none", transform
        return (
            label not in counted,
            words.natural(label),
            seen[label, modules],
            place,
            devices or 0,
            view != "paper",
            plain,
            pairs,
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
    """The groups of bars of one metric: of each family its strongest attack; none where none has this score."""
    several = {key: len({f[key] for family in found for f in family.findings}) > 1 for key in ("attack", "pairs")}
    return [
        Group(
            label,
            modules if modules != label else "",
            tuple(_bar(family, metric, several) for family in members if any(f[metric] for f in family.findings)),
        )
        for label, modules, members in layers(found)
        if any(f[metric] for family in members for f in family.findings)
    ]


def tried(found: Sequence[Family], metric: Metric) -> list[str]:
    """The attacks that have this score, in the order in which they were tried."""
    return list(dict.fromkeys(f["attack"] for family in found for f in family.findings if f[metric]))


def rungs(family: Family, metric: Metric, attacks: Sequence[str]) -> list[Rung | None]:
    """How far each attack came, None where it was not tried or has no such score."""
    best, floor = family.strongest(metric), family.floor(metric)
    return [
        None
        if mean is None
        else Rung(mean, _level(mean, floor), attack == best and (floor is None or mean > floor))
        for attack, mean in ((attack, family.mean(metric, attack)) for attack in attacks)
    ]


def _level(mean: float, floor: float | None) -> int:
    above = 0.0 if floor is None or floor >= 1 else (mean - floor) / (1 - floor)
    return sum(above > level for level in _LEVELS)


def _bar(family: Family, metric: Metric, several: Mapping[str, bool]) -> Bar:
    best = family.strongest(metric)
    marked = [finding for finding in family.findings if finding["attack"] == best and finding[metric]]
    return Bar(
        name=family.name,
        detail=_detail(family, best if several["attack"] else None, pairs=several["pairs"]),
        colour=colour(family.first["strategy"]),
        mean=family.mean(metric, best),
        floor=family.floor(metric),
        marks=tuple(_mark(finding, metric) for finding in marked),
        hatched=family.first["view"] == "paper",
        dashed=family.never == len(family.places),
    )


def _place(finding: Finding) -> tuple[Any, ...]:
    return finding["observation"], str(finding["link"]), str(finding["links"]), tuple(finding["share"])


def _strength(finding: Finding) -> float:
    mean = score(finding, "ssim")["mean"]
    return float(mean) if words.known(mean) else float("-inf")


def _above(finding: Finding, metric: Metric) -> float:
    value = finding["leakage_above_floor"].get(metric)
    return float(value) if words.known(value) else float("-inf")


def _mark(finding: Finding, metric: Metric) -> Mark:
    found = score(finding, metric)
    mean, low, high = (found[name] if words.known(found[name]) else None for name in ("mean", "low", "high"))
    return Mark(mean, low, high, sent=bool(finding["crosses"]))


def _detail(family: Family, attack: str | None, *, pairs: bool) -> str:
    first, amount, never = family.first, len(family.places), family.never
    silent = "never sent" if never == amount else f"{never} of {amount} never sent" if never else ""
    parts = [
        silent,  # first, so that it is never what is cut
        f"by {words.clean(attack, 16)}" if attack else "",
        words.clean(first["view"], 12),
        words.plural(amount, family.noun) if amount > 1 and never in (0, amount) and not attack else "",
        f"{words.count(first['pairs'])} pairs" if pairs else "",
    ]
    return words.clean(" · ".join(part for part in parts if part), 44)


def _common(finding: Finding, name: str) -> Any:
    return tuple(finding[name]) if name == "layers" else finding[name]
