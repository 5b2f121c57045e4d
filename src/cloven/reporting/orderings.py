"""The paper's expectations beside the measured differences, each with its place on a common scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cloven.auditing.finding import ScoreRange
from cloven.auditing.summary import MeasuredOrdering
from cloven.reporting import words

EXPECTED = {"positive": "above 0", "negative": "below 0", "zero": "0"}


@dataclass(frozen=True)
class Ordering:
    """An expectation of the paper and the difference measured, with its place on a common scale of 0 to 160."""

    ordering: MeasuredOrdering
    marks: Mapping[str, float]

    @property
    def expected(self) -> str:
        """``above 0``."""
        return EXPECTED.get(self.ordering.expected, words.clean(self.ordering.expected, 40))


def orderings(given: Sequence[MeasuredOrdering]) -> tuple[float, list[Ordering]]:
    """Return the common scale's end, and each ordering with its marks on it."""
    reach = max((abs(end) for o in given for end in (o.difference.low, o.difference.high)), default=0.0)
    end = next((step for step in (0.1, 0.2, 0.5, 1.0) if reach <= step), reach or 1.0)
    return end, [Ordering(ordering, _marks(ordering.difference, end)) for ordering in given]


def tally(given: Sequence[MeasuredOrdering]) -> str:
    """Return ``3 hold, 1 fails, 1 undecided``."""
    counts = Counter[str](ordering.shows for ordering in given)
    verbs = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("undecided", "undecided")}
    return ", ".join(words.plural(counts[shows], *verbs[shows]) for shows in verbs if shows in counts)


def _marks(difference: ScoreRange, end: float) -> Mapping[str, float]:
    values = {"low": difference.low, "mean": difference.mean, "high": difference.high}
    return {name: round(80 + 74 * value / end, 2) for name, value in values.items()}
