"""Leakage in words: what a listener learns of the image and of its class, as far as the 95 % intervals carry it.

A sentence states what the lower end of an interval supports, and denies only what its upper end excludes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from cloven.auditing.summary import AxisScore
from cloven.reporting import words

TRACE = 0.05
"""Below a twentieth of the possible gain, leakage counts as nothing: some hundred images do not resolve less."""
PART = 0.2
"""From a fifth on, an image counts as recognised: an SSIM of 0.2 is the usual limit of a recognisable image."""
MOST = 0.5
"""From half of the possible gain on, the image is seen, and the class is right for more than half of the images."""

LIMITS = (TRACE, PART, MOST)


class Level(IntEnum):
    """A step of leakage."""

    NOTHING = 0
    TRACE = 1
    PART = 2
    MOST = 3


PIXELS = {
    Level.TRACE: "sees a trace of the image",
    Level.PART: "recognises the image",
    Level.MOST: "sees the image",
}
LABELS = {
    Level.TRACE: "reads a hint of the class",
    Level.PART: "reads the class of some images",
    Level.MOST: "reads the class of most images",
}


def level(leakage: float) -> Level:
    """Return the step of a leakage, (score - baseline) / (1 - baseline)."""
    return Level(sum(leakage >= limit for limit in LIMITS))


@dataclass(frozen=True)
class Leak:
    """Leakage on one axis: the score of the strongest attack, and the steps at both ends of its interval."""

    score: AxisScore

    @property
    def least(self) -> Level:
        """The step that the lower end of the interval supports."""
        return level(self.score.leakage.low)

    @property
    def most(self) -> Level:
        """The step that the upper end, or an attack that scores higher on the victims, does not exclude."""
        other, baseline = self.score.exceeded_by, self.score.baseline
        higher = (other.mean - baseline) / (1 - baseline) if other is not None and baseline < 1 else 0.0
        return level(max(self.score.leakage.high, higher))

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.score.leakage.high

    @property
    def span(self) -> tuple[float, float]:
        """The ends of the interval on a scale of 0 to 100, wide enough to be seen."""
        return _span(self.score.leakage.low, self.high)

    @property
    def shown(self) -> str:
        """The mean with its interval, ``89 % [88, 90]``."""
        leakage = self.score.leakage
        return f"{words.share(leakage.mean)} [{100 * leakage.low:.0f}, {100 * leakage.high:.0f}]"

    def origin(self, name: str) -> str:
        """Return the score of that name from which the leakage is computed, and its attack."""
        score = self.score
        carried = f" at {', '.join(score.carried_layers)}" if score.carried_from else ""
        against = f"{name} {words.interval(score)}, baseline {words.number(score.baseline)}"
        return f"{against}, by {score.attack}{carried}"

    @property
    def nothing(self) -> bool:
        """True where the interval excludes more than nothing."""
        return self.most == Level.NOTHING


@dataclass(frozen=True)
class LeakLimit:
    """Leakage on one axis of which only the upper limit counts, and the attack that reached it.

    ``low`` is the lower end of the attack's interval, 0 if it is unknown. ``attack`` is None if the image or the
    answer itself is there.
    """

    high: float
    attack: str | None
    low: float = 0.0

    @property
    def least(self) -> Level:
        """The step that the lower end supports."""
        return level(self.low)

    @property
    def most(self) -> Level:
        """The step that the upper limit does not exclude."""
        return level(self.high)

    @property
    def span(self) -> tuple[float, float]:
        """The scale of 0 to 100 up to the limit."""
        return _span(0.0, self.high)

    @property
    def shown(self) -> str:
        """The limit, ``up to 18 %``, or ``0 %``."""
        return f"up to {words.share(self.high)}" if round(100 * self.high) else words.share(0.0)

    def origin(self, name: str) -> str:
        """Return the attack; none is needed to read what is sent as it is."""
        return f"{name} by {self.attack}" if self.attack is not None else "no attack is needed"

    @property
    def nothing(self) -> bool:
        """True where the limit excludes more than nothing."""
        return self.most == Level.NOTHING


def _span(low: float, high: float) -> tuple[float, float]:
    return round(max(0.0, 100 * min(low, high - 0.02)), 1), round(100 * max(high, 0.02), 1)


def learned(
    pixels: Leak | LeakLimit | None, labels: Leak | LeakLimit | None, raw: float, *, labels_read: bool
) -> str:
    """Return what a listener learns, as the predicate of a sentence.

    Args:
        pixels: leakage of the image, None where no attack made images.
        labels: leakage of the class.
        raw: the share of the image's own numbers that the listener gets, in [0, 1].
        labels_read: whether an attack that reads labels was tried; without one, nothing is denied of the class.
    """
    if raw >= 1:
        return "gets the image itself"
    seen = f"gets {words.share(raw)} of the image's pixels as they are" if raw else _claimed(pixels, PIXELS)
    read = _claimed(labels, LABELS)
    if raw == 0 and pixels is not None and pixels.least == Level.MOST:
        return seen
    if seen and read:
        return f"{seen} and {read}"
    if seen:
        return seen
    if pixels is None:
        return read or "was not attacked for images"
    if not pixels.nothing:
        doubt = f"perhaps {_noun(PIXELS[pixels.most])} too" if read else f"perhaps {PIXELS[pixels.most]}"
        return f"{read}, {doubt}" if read else doubt
    if read:
        return f"{read}, but not the picture"
    if labels is not None and labels.nothing and labels_read:
        return "learns nothing beyond a guess"
    if labels is not None and labels_read:
        return f"does not see the picture, but perhaps {LABELS[labels.most]}"
    return "does not see the picture, and no attack tried to read the class"


def _claimed(leak: Leak | LeakLimit | None, predicates: dict[Level, str]) -> str:
    """Return what the lower end of an interval supports; empty for nothing."""
    return predicates.get(leak.least, "") if leak is not None else ""


def _noun(predicate: str) -> str:
    return predicate.split(" ", 1)[1]


def ranges() -> Sequence[tuple[Level, str]]:
    """Return each step with the leakages that it stands for."""
    bounds = (0.0, *LIMITS, 1.0)
    return [(step, f"{100 * bounds[step]:.0f} to {words.share(bounds[step + 1])}") for step in Level]
