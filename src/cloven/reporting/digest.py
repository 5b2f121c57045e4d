"""Findings made ready to show: in families, with their baselines, and the strongest attack of each.

Everything here is arithmetic on numbers that the summary holds; nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cloven.auditing.finding import AXES, Axis, Finding, Metric, ScoreRange
from cloven.auditing.summary import AxisScore, ObservationSummary
from cloven.reporting import words
from cloven.reporting.canvas import Colour
from cloven.reporting.figures import Bar, BarGroup, Mark

Standing = Literal["clear", "reaches", "below", "unknown"]

UNNAMED = "program"
"""The strategy of a program that was given in Python without a name."""

METRICS: tuple[Metric, ...] = ("ssim", "agreement")
AXIS_OF: Mapping[Metric, Axis] = {metric: axis for axis, metric in AXES.items()}
Common = tuple[str, tuple[str, ...], str, int | None, str, str, int]
"""The entries that findings of one family share: label, layers, strategy, devices, view, transform, pairs."""
Place = tuple[str, str, tuple[str, ...]]
_COLOURS: tuple[Colour, ...] = ("vertical", "horizontal", "data")
_STRATEGIES: dict[str, int] = {strategy: place for place, strategy in enumerate(_COLOURS)}
_NAMED: dict[str, Colour] = {strategy: strategy for strategy in _COLOURS}
_LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Family:
    """The findings of one layer, divided and seen in one way: on each share or link, by each attack.

    ``observations`` are those of its findings, by their names.
    """

    findings: tuple[Finding, ...]
    observations: Mapping[str, ObservationSummary]

    @property
    def first(self) -> Finding:
        """Any one of them, for what they have in common."""
        return self.findings[0]

    @property
    def name(self) -> str:
        """``horizontal, 4 devices, int8``; without what nobody knows or nobody did."""
        first = self.first
        strategy = "" if first.strategy == UNNAMED else words.clean(first.strategy, 24)
        devices = "" if first.devices is None else words.plural(first.devices, "device")
        changed = "" if first.transform == "none" else words.clean(first.transform, 24)
        return ", ".join(part for part in (strategy, devices, changed) if part)

    @property
    def noun(self) -> str:
        """``share`` or ``link``: the paper counts shares; what really crosses is seen link by link."""
        return "share" if self.first.view == "paper" else "link"

    @property
    def places(self) -> list[tuple[Finding, ...]]:
        """The findings on each share or link, the strongest attack by SSIM first."""
        found: dict[Place, list[Finding]] = {}
        for finding in self.findings:
            place = (finding.observation, str((finding.link, finding.links)), finding.share)
            found.setdefault(place, []).append(finding)
        return [tuple(sorted(attacked, key=self._order)) for attacked in found.values()]

    def _order(self, finding: Finding) -> tuple[bool, float]:
        """Return the order of a finding: the strongest attack on an observation first, then the others by SSIM."""
        counted = self.observations[finding.observation].own.pixels
        strongest = counted is not None and counted.attack == finding.attack
        return not strongest, -(finding.ssim.mean if finding.ssim is not None else float("-inf"))

    @property
    def never(self) -> int:
        """The number of shares or links that are never sent."""
        return sum(not place[0].crosses for place in self.places)

    @property
    def attacks(self) -> list[str]:
        """The attacks, in the order in which they were tried."""
        return list(dict.fromkeys(finding.attack for finding in self.findings))

    def by(self, attack: str, metric: Metric) -> list[Finding]:
        """Return the findings of an attack that have this score."""
        return [f for f in self.findings if f.attack == attack and f.score(metric) is not None]

    def mean(self, metric: Metric, attack: str) -> float | None:
        """Return the plain mean over the means of an attack, as the paper's orderings take it."""
        scores = [score.mean for f in self.by(attack, metric) if (score := f.score(metric)) is not None]
        return sum(scores) / len(scores) if scores else None

    def baseline(self, metric: Metric) -> float | None:
        """Return the highest baseline of any of them: the hardest one to exceed."""
        return max((found[1] for f in self.findings if (found := f.baseline(metric))), default=None)

    def counted(self, metric: Metric) -> list[tuple[Finding, AxisScore]]:
        """Return the score that counts on each share or link, as tables and sentences show it."""
        scores = [(place[0], self.observations[place[0].observation].counts) for place in self.places]
        return [(f, score) for f, counts in scores if (score := counts.on(AXIS_OF[metric])) is not None]


@dataclass(frozen=True)
class Rung:
    """An attack's mean on a family, and its leakage: 0, at most 0.05, to 5, above 0.8."""

    mean: float
    level: int
    strongest: bool  # of its family, and above the baseline


def colour(strategy: str) -> Colour:
    """Return the colour of a strategy; one that has none of its own shares ``other``."""
    return _NAMED.get(strategy, "other")


def standing(finding: Finding, metric: Metric) -> Standing:
    """Return where the interval lies: wholly above the best baseline, wholly below it, or reaching it."""
    baseline = finding.baseline(metric)
    return stands(finding.score(metric), baseline[1] if baseline else None)


def stands(interval: ScoreRange | AxisScore | None, baseline: float | None) -> Standing:
    """Return where an interval lies against a baseline."""
    if interval is None or baseline is None:
        return "unknown"
    if interval.low > baseline:
        return "clear"
    return "below" if interval.high < baseline else "reaches"


def families(findings: Sequence[Finding], observations: Sequence[ObservationSummary]) -> list[Family]:
    """Return one family for each layer, strategy, devices, view, transform and number of pairs, in reading order.

    Layers that the paper counts go first, by number; then what whole links carry.
    """
    by_name = {one.observation: one for one in observations}
    members: dict[Common, list[Finding]] = {}
    for f in findings:
        key = (f.label, f.layers, f.strategy, f.devices, f.view, f.transform, f.pairs)
        members.setdefault(key, []).append(f)
    counted = {finding.label for finding in findings if finding.view == "paper"}
    seen = {place: index for index, place in reversed(list(enumerate(key[:2] for key in members)))}

    def order(key: Common) -> tuple[object, ...]:
        label, modules, strategy, devices, view, transform, pairs = key
        place = _STRATEGIES.get(strategy, len(_STRATEGIES)), strategy
        plain = transform != "none", transform
        ranked = (label not in counted, words.natural(label), seen[label, modules], place)
        return (*ranked, devices or 0, view != "paper", plain, pairs)

    return [Family(tuple(members[key]), by_name) for key in sorted(members, key=order)]


def layers(found: Sequence[Family]) -> list[tuple[str, str, list[Family]]]:
    """Return ``(label, modules, families)``, one for each layer, in the order of ``found``."""
    grouped: dict[tuple[str, str], list[Family]] = {}
    for family in found:
        label = words.clean(family.first.label, 40), words.clean(", ".join(family.first.layers), 60)
        grouped.setdefault(label, []).append(family)
    return [(label, modules, members) for (label, modules), members in grouped.items()]


def chart(found: Sequence[Family], metric: Metric) -> list[BarGroup]:
    """Return the groups of bars of one metric: the scores that count; none where none has this score."""
    attacks = {f.attack for family in found for f in family.findings}
    pairs = {f.pairs for family in found for f in family.findings}
    groups: list[BarGroup] = []
    for label, modules, members in layers(found):
        shown = [family for family in members if family.counted(metric)]
        bars = [_bar(family, metric, name_attack=len(attacks) > 1, name_pairs=len(pairs) > 1) for family in shown]
        if bars:
            named = modules == label or members[0].first.view == "full"
            groups.append(BarGroup(label, "" if named else modules, tuple(bars)))
    return groups


def tried(found: Sequence[Family], metric: Metric) -> list[str]:
    """Return the attacks that have this score, in the order in which they were tried."""
    scored = (f.attack for family in found for f in family.findings if f.score(metric) is not None)
    return list(dict.fromkeys(scored))


def rungs(family: Family, metric: Metric, attacks: Sequence[str]) -> list[Rung | None]:
    """Return how far each attack came, None where it was not tried or has no such score."""
    baseline = family.baseline(metric)
    own = [family.observations[place[0].observation].own.on(AXIS_OF[metric]) for place in family.places]
    strongest = [score.attack for score in own if score is not None]
    best = max(strongest, key=strongest.count, default=None)
    means = [family.mean(metric, attack) for attack in attacks]
    return [
        None
        if mean is None
        else Rung(mean, _level(mean, baseline), attack == best and (baseline is None or mean > baseline))
        for attack, mean in zip(attacks, means, strict=True)
    ]


def _level(mean: float, baseline: float | None) -> int:
    leakage = 0.0 if baseline is None or baseline >= 1 else (mean - baseline) / (1 - baseline)
    return sum(leakage > level for level in _LEVELS)


def _bar(family: Family, metric: Metric, *, name_attack: bool, name_pairs: bool) -> Bar:
    counted = family.counted(metric)
    names = list(dict.fromkeys(score.attack for _, score in counted))
    return Bar(
        name=family.name,
        detail=_detail(family, names if name_attack else [], pairs=name_pairs),
        colour=colour(family.first.strategy),
        mean=sum(score.mean for _, score in counted) / len(counted),
        baseline=max(score.baseline for _, score in counted),
        marks=tuple(Mark(score.mean, score.low, score.high, sent=f.crosses) for f, score in counted),
        hatched=family.first.view == "paper",
        dashed=family.never == len(family.places),
    )


def _detail(family: Family, attacks: Sequence[str], *, pairs: bool) -> str:
    first, amount, never = family.first, len(family.places), family.never
    silent = "never sent" if never == amount else f"{never} of {amount} never sent" if never else ""
    parts = [
        silent,  # first, so that it is never what is cut
        f"by {words.clean(attacks[0], 16)}" if len(attacks) == 1 else "by the strongest" if attacks else "",
        words.clean(first.view, 12),
        words.plural(amount, family.noun) if amount > 1 and never in (0, amount) and not attacks else "",
        f"{words.count(first.pairs)} pairs" if pairs else "",
    ]
    return words.clean(" · ".join(part for part in parts if part), 44)
