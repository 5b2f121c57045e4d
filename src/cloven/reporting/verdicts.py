"""Of each observation the score that counts: the strongest attack's, or that of a deeper one where it is more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloven.reporting import words
from cloven.reporting.digest import METRICS, Finding, Metric, Standing, best_floor, score, stands

UNTESTED = "not tested"
GAUGE = 6.0, 134.0
"""Where 0 and 1 lie on a gauge, in its units."""


@dataclass(frozen=True)
class Reading:
    """The score that counts in one metric.

    ``score`` has attack, mean, low, high, floor and above; ``own`` is the strongest of the attacks on this
    observation itself; ``carried`` says that ``score`` is a deeper observation's, which follows from this one.
    """

    score: Mapping[str, Any]
    own: Mapping[str, Any] | None
    carried: bool
    finding: Finding | None

    @property
    def standing(self) -> Standing:
        """Where its interval lies against its floor."""
        return stands(self.score, self.score["floor"])

    @property
    def above(self) -> float:
        """How far it is above its floor; -inf where that is not known."""
        value = self.score["above"]
        return float(value) if words.known(value) else float("-inf")

    @property
    def gauge(self) -> dict[str, float]:
        """Mean, ends of the interval and floor on a gauge, of those that are known."""
        start, end = GAUGE
        return {
            name: round(start + (end - start) * min(1.0, max(0.0, self.score[name])), 1)
            for name in ("mean", "low", "high", "floor")
            if words.known(self.score[name])
        }


@dataclass(frozen=True)
class Verdict:
    """One observation: what was seen, and the readings of it."""

    row: Mapping[str, Any]
    finding: Finding | None
    readings: Mapping[Metric, Reading | None]

    @property
    def leading(self) -> Metric | None:
        """The metric in which it is furthest above its floor; None where nothing is known."""
        known = [metric for metric in METRICS if (found := self.readings[metric]) and words.known(found.above)]
        return max(known, key=self._above, default=None)

    @property
    def leak(self) -> float:
        """How far it is above its floor in that metric; -inf where nothing is known."""
        return max(self._above(metric) for metric in METRICS)

    def _above(self, metric: Metric) -> float:
        found = self.readings[metric]
        return found.above if found else float("-inf")


def verdicts(summary: Mapping[str, Any]) -> list[Verdict]:
    """What leaks most first; what no link carries last."""
    findings: dict[str, dict[str, Finding]] = {}
    for finding in summary["findings"]:
        findings.setdefault(finding["observation"], {}).setdefault(finding["attack"], finding)
    rows = summary["verdicts"] or [_row(list(attacked.values())) for attacked in findings.values()]
    found = [_verdict(row, findings.get(row["observation"], {})) for row in rows]
    return sorted(found, key=lambda verdict: (not verdict.row["crosses"], -verdict.leak))


def worst(found: Sequence[Verdict]) -> Verdict | None:
    """The observation that leaks most, of those that a link really carries."""
    return next((verdict for verdict in found if verdict.row["crosses"] and verdict.leading), None)


def _verdict(row: Mapping[str, Any], attacked: Mapping[str, Finding]) -> Verdict:
    readings = {metric: _reading(row, metric, attacked) for metric in METRICS}
    return Verdict(row, next(iter(attacked.values()), None), readings)


def _reading(row: Mapping[str, Any], metric: Metric, attacked: Mapping[str, Finding]) -> Reading | None:
    own, carried = row["strongest"][metric], row["carried"][metric]
    if not (own or carried):
        return None
    return Reading(carried or own, own, carried is not None, attacked.get(own["attack"]) if own else None)


def _row(attacked: Sequence[Finding]) -> dict[str, Any]:
    """An observation of a summary without verdicts, as that of a capture."""
    first = attacked[0]
    kept = ("observation", "strategy", "label", "layers", "link", "links", "view", "crosses", "transform")
    return {
        **{name: first[name] for name in kept},
        "attacks": [finding["attack"] for finding in attacked],
        "strongest": {metric: _strongest(attacked, metric) for metric in METRICS},
        "carried": dict.fromkeys(METRICS),
        "flags": [],
        "converged": UNTESTED,
    }


def _strongest(attacked: Sequence[Finding], metric: Metric) -> dict[str, Any] | None:
    known = [finding for finding in attacked if words.known(score(finding, metric)["mean"])]
    if not known:
        return None
    best = max(known, key=lambda finding: float(finding[metric]["mean"]))
    floor = best_floor(best, metric)
    return {
        "attack": best["attack"],
        **{part: best[metric][part] for part in ("mean", "low", "high")},
        "floor": floor[1] if floor else None,
        "above": best["leakage_above_floor"][metric],
    }
