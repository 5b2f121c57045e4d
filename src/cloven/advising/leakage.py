"""The leakage of observations: it is measured once for each, and shared by all divisions in which it occurs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from cloven.advising.taps import ExposedTap, key_of
from cloven.attacks.attack import Attack
from cloven.auditing.finding import AXES, Axis
from cloven.auditing.given import GivenImages, audit
from cloven.auditing.results import Results
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import AxisScore, ObservationSummary
from cloven.partition.determine import determines
from cloven.partition.observe import Observation
from cloven.zoo.images import Images

SUITE: tuple[str, ...] = ("residual", "probe", "mlp-probe", "conv-probe")
"""The minimum suite: a plan is recommended only if these attacks, or those given instead, finished on all its
taps.
"""

LEAST_VICTIMS = 20
"""The smallest number of victims of one attack."""

FEWEST = 2 * LEAST_VICTIMS
"""The smallest number of victims: the search uses one half, the second attack on the winner the other."""

CONFIRMATIONS = 2
"""The largest number of winners that are attacked again, each with victims of its own."""

FRESH = 1000
"""The seed of the second attack on the first winner, the next one is that of the second; the search uses 0."""


@dataclass(frozen=True)
class MeasuredLeak:
    """The leakage of an observation on an axis that limits apply to; ``attack`` is None if none was needed."""

    leakage: float
    attack: str | None


EVERYTHING = MeasuredLeak(1.0, None)

Leaks = Mapping[Axis, MeasuredLeak]


@dataclass(frozen=True, eq=False)
class AttackImages:
    """The images of the attacks: the attacker's own, and victims, of which parts are used for each purpose."""

    auxiliary: GivenImages
    victims: GivenImages

    @property
    def parts(self) -> int:
        """The number of winners that can be attacked again, each with victims of its own."""
        return min(CONFIRMATIONS, (len(self.victims) // 2) // LEAST_VICTIMS)

    def searched(self) -> GivenImages:
        """Return the victims of the search: every second image."""
        return _taken(self.victims, range(0, len(self.victims), 2))

    def fresh(self, part: int) -> GivenImages:
        """Return the victims of a second attack: a part of the others."""
        return _taken(self.victims, range(1 + 2 * part, len(self.victims), 2 * self.parts))


@dataclass
class LeakageLedger:
    """The leakage of observations, by their keys.

    Attributes:
        suite: the attacks on every observation.
        images: the images of the attacks; None if nothing can be attacked.
        jobs: the number of processes.
        known: the leakage that is known so far.
        rounds: the number of winners that were attacked again.
        confirmed: the observations that were attacked again.
        observations: the observations whose leakage was measured, by their keys.
    """

    suite: Sequence[Attack | str]
    images: AttackImages | None
    jobs: int = 1
    known: dict[str, dict[Axis, MeasuredLeak]] = field(default_factory=dict)
    rounds: int = 0
    confirmed: set[str] = field(default_factory=set)
    observations: dict[str, Observation] = field(default_factory=dict)

    @property
    def can_confirm(self) -> bool:
        """True if there are victims for another second attack."""
        return self.images is not None and self.rounds < self.images.parts

    def attack(self, observations: Iterable[Observation], seconds: float) -> None:
        """Attack those of some observations whose leakage is not known, for at most about that many seconds."""
        waiting = {key_of(one): one for one in observations if key_of(one) not in self.known}
        if waiting and self.images is not None:
            self._audit(waiting, self.images.searched(), 0, seconds)

    def confirm(self, observations: Iterable[Observation], seconds: float) -> Results | None:
        """Attack observations with a new seed and fresh victims, and keep the larger leakage of each.

        It takes at most about that many seconds. Returns None if there are no observations.
        """
        waiting = {key_of(one): one for one in observations}
        if not waiting:
            return None
        assert self.images is not None
        part, self.rounds = self.rounds, self.rounds + 1
        self.confirmed |= waiting.keys()
        return self._audit(waiting, self.images.fresh(part), FRESH + part, seconds)

    def _audit(
        self, waiting: Mapping[str, Observation], victims: GivenImages, seed: int, seconds: float
    ) -> Results:
        assert self.images is not None
        trainings = len(waiting) * len(self.suite)
        results = audit(
            list(waiting.values()),
            self.suite,
            auxiliary=self.images.auxiliary,
            victims=victims,
            seeds=(seed,),
            attack_seconds=seconds * min(1.0, self.jobs / trainings),
            jobs=self.jobs,
        )
        self.observations |= waiting
        for one in results.observations:
            self.add(one, finished(results, one))
        return results

    def add(self, one: ObservationSummary, ended: Set[str]) -> None:
        """Keep the leakage that an audit measured, if it is larger than what is known.

        Attacks other than those that ``ended``, and labels that no label reader attacked, count as leaking
        everything.
        """
        missing = [name for name in AttackSuite(tuple(self.suite)).names if name not in ended]
        known = self.known.setdefault(one.observation, {})
        for axis in AXES:
            found = _measured(one.counts.on(axis))
            if axis == "labels" and not one.labels_read:
                found = MeasuredLeak(1.0, "no label reader")
            if missing:
                found = MeasuredLeak(1.0, f"{', '.join(missing)} did not finish")
            known[axis] = max(known.get(axis, found), found, key=lambda leak: leak.leakage)

    def take(self, results: Results) -> int:
        """Keep the leakage that an audit measured, and return the number of its observations that count.

        Observations that the whole suite did not attack are left out, and are attacked when they occur.
        """
        names = AttackSuite(tuple(self.suite)).names
        usable = [one for one in results.observations if finished(results, one).issuperset(names)]
        for one in usable:
            self.add(one, set(names))
        return len({one.observation for one in usable})

    def of(self, tap: ExposedTap) -> Leaks:
        """Return what a tap leaks in clear.

        It is all that the listener has by definition, and at least the pixels of the image that are sent as they
        are; else what attacks found. Everything else counts as leaking until it is attacked.
        """
        known = dict.fromkeys(tap.known, EVERYTHING)
        if tap.observation is None:
            return known
        found = self.known.get(tap.key, dict.fromkeys(AXES, EVERYTHING))
        raw = MeasuredLeak(tap.raw_image, None)
        return {**found, "pixels": max(found["pixels"], raw, key=lambda leak: leak.leakage), **known}

    def is_known(self, tap: ExposedTap, *, again: bool = False) -> bool:
        """Return whether the leakage of a tap is known; with ``again``, from two attacks."""
        return tap.observation is None or tap.key in (self.confirmed if again else self.known)

    def at_least(self, tap: ExposedTap) -> Leaks:
        """Return what a tap leaks at least, if its own leakage is not known: what follows from it leaks.

        By the data-processing inequality, an observation leaks no less than one that can be computed from it.
        """
        if self.is_known(tap) or tap.observation is None:
            return self.of(tap)
        least: dict[Axis, MeasuredLeak] = {"pixels": MeasuredLeak(tap.raw_image, None)}
        for name, deep in self.observations.items():
            if determines(tap.observation, deep):
                for axis, leak in self.known[name].items():
                    least[axis] = max(least.get(axis, leak), leak, key=lambda one: one.leakage)
        return {**least, **dict.fromkeys(tap.known, EVERYTHING)}


def finished(results: Results, one: ObservationSummary) -> set[str]:
    """Return the attacks on an observation whose training was not ended by a limit on its seconds."""
    cut_short = {
        finding.attack
        for finding in results.findings
        if finding.observation == one.observation
        and finding.training is not None
        and "budget" in finding.training.ended
    }
    return set(one.attacks) - cut_short


def _measured(score: AxisScore | None) -> MeasuredLeak:
    """Return the leakage by the chosen attack, or by one that scores significantly higher on the victims."""
    return MeasuredLeak(1.0, "no attack that reads it") if score is None else MeasuredLeak(*score.largest)


def _taken(images: GivenImages, chosen: Sequence[int]) -> GivenImages:
    return images.take(list(chosen)) if isinstance(images, Images) else images[list(chosen)]
