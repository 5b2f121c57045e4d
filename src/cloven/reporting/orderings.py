"""What the paper expects, beside what was measured: each difference with its place on a common scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cloven.reporting import words

EXPECTED = {"positive": "above 0", "negative": "below 0", "zero": "0"}


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
