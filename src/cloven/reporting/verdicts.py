"""Each observation with the scores that count: the strongest attack's, or that of a deeper one where it is more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloven.auditing.finding import AXES, Finding, Metric
from cloven.auditing.results import ranked
from cloven.auditing.summary import AxisScore, ObservationSummary, Summary
from cloven.reporting.digest import Standing, stands

GAUGE = 6.0, 134.0
"""The positions of 0 and 1 on a gauge, in its units."""


@dataclass(frozen=True)
class Reading:
    """The score that counts in one metric.

    ``own`` is the strongest of the attacks on this observation itself; ``carried`` says that ``score`` is a deeper
    observation's, which follows from this one.
    """

    score: AxisScore
    own: AxisScore | None
    finding: Finding | None

    @property
    def carried(self) -> bool:
        """True where the score is a deeper observation's."""
        return self.score.carried_from is not None

    @property
    def standing(self) -> Standing:
        """The position of the interval relative to the baseline."""
        return stands(self.score, self.score.baseline)

    @property
    def gauge(self) -> Mapping[str, float]:
        """Mean, ends of the interval and baseline on a gauge."""
        start, end = GAUGE
        score = self.score
        values = {"mean": score.mean, "low": score.low, "high": score.high, "baseline": score.baseline}
        return {name: round(start + (end - start) * min(1.0, max(0.0, value)), 1) for name, value in values.items()}


@dataclass(frozen=True)
class Verdict:
    """One observation: what was seen, and the readings of it."""

    row: ObservationSummary
    finding: Finding | None
    readings: Mapping[Metric, Reading | None]

    @property
    def carried(self) -> bool:
        """True where a score is a deeper observation's."""
        return any(one is not None and one.carried for one in self.readings.values())

    @property
    def doubted(self) -> bool:
        """True where an attack scores higher on the victims than the one that was chosen."""
        return any(score is not None and score.exceeded_by is not None for score in self._own)

    @property
    def rising(self) -> bool:
        """True where the score of a strongest attack still rises."""
        found = [one.score.converged for one in self.readings.values() if one is not None]
        return any(word.startswith("still rises") for word in found)

    @property
    def _own(self) -> tuple[AxisScore | None, ...]:
        return self.row.own.pixels, self.row.own.labels


def verdicts(summary: Summary) -> list[Verdict]:
    """Return the observations in their order of `ranked`."""
    findings: dict[str, dict[str, Finding]] = {}
    for finding in summary.findings:
        findings.setdefault(finding.observation, {}).setdefault(finding.attack, finding)
    found: list[Verdict] = []
    for row in ranked(summary):
        attacked = findings.get(row.observation, {})
        readings: dict[Metric, Reading | None] = {}
        for axis, metric in AXES.items():
            score, own = row.counts.on(axis), row.own.on(axis)
            by = attacked.get(own.attack) if own is not None else None
            readings[metric] = Reading(score, own, by) if score is not None else None
        found.append(Verdict(row, next(iter(attacked.values()), None), readings))
    return found
