"""The leakage of observations: it is measured once for each, and shared by all divisions in which it occurs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cloven.advising.taps import ExposedTap, cut_observations, key_of
from cloven.attacks.attack import Attack
from cloven.attacks.registry import load
from cloven.auditing.cell import is_of
from cloven.auditing.finding import AXES, Axis
from cloven.auditing.given import GivenImages, audit
from cloven.auditing.results import Results
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import ObservationSummary
from cloven.graph.graph import Graph
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
    """The leakage of an observation on an axis that limits apply to.

    ``attack`` is the attack that measured it; None if none was needed, or if the observation counts as leaking
    everything for a ``reason``: no attack measured what it leaks.
    """

    leakage: float
    attack: str | None
    reason: str = ""


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
        suite: the attacks on every observation, each of them once.
        images: the images of the attacks; None if nothing can be attacked.
        jobs: the number of processes.
        known: the leakage of the observations that the whole suite has attacked.
        found: the largest leakage that any attack has measured so far, also of other observations.
        completed: the attacks of the suite that have finished on an observation, by their places in it.
        read: the observations that a label reader has attacked.
        rounds: the number of winners that were attacked again.
        confirmed: the observations that were attacked again.
        observations: the observations whose leakage was measured, by their keys.
    """

    suite: Sequence[Attack | str]
    images: AttackImages | None
    jobs: int = 1
    known: dict[str, dict[Axis, MeasuredLeak]] = field(default_factory=dict)
    found: dict[str, dict[Axis, MeasuredLeak]] = field(default_factory=dict)
    completed: dict[str, set[int]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    rounds: int = 0
    confirmed: set[str] = field(default_factory=set)
    observations: dict[str, Observation] = field(default_factory=dict)

    @property
    def can_confirm(self) -> bool:
        """True if there are victims for another second attack."""
        return self.images is not None and self.rounds < self.images.parts

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the attacks of the suite."""
        return AttackSuite(tuple(self.suite)).names

    def attack(self, observations: Iterable[Observation], seconds: float) -> None:
        """Attack those of some observations whose leakage is not known, with the attacks that are missing.

        It takes at most about that many seconds.
        """
        waiting = {key_of(one): one for one in observations if key_of(one) not in self.known}
        if self.images is None:
            return
        groups: dict[tuple[int, ...], dict[str, Observation]] = {}
        for key, one in waiting.items():
            missing = set(self.missing(key)).intersection(self.suited(one))
            groups.setdefault(tuple(sorted(missing)), {})[key] = one
        limit = self._limit(sum(len(group) * len(places) for places, group in groups.items()), seconds)
        for places, group in groups.items():
            if places:
                self._audit(group, places, self.images.searched(), 0, limit)
        self.known |= {key: self._whole(key) for key in waiting}

    def confirm(self, observations: Iterable[Observation], seconds: float) -> Results | None:
        """Attack observations with a new seed and fresh victims, and keep the larger leakage of each.

        It takes at most about that many seconds. Returns None if there are no observations that an attack works on.
        """
        waiting = {key_of(one): one for one in observations if self.suited(one)}
        if not waiting:
            return None
        assert self.images is not None
        part, self.rounds = self.rounds, self.rounds + 1
        self.confirmed |= waiting.keys()
        self.completed |= {key: set() for key in waiting}  # the whole suite must finish again
        limit = self._limit(len(waiting) * len(self.suite), seconds)
        results = self._audit(waiting, range(len(self.suite)), self.images.fresh(part), FRESH + part, limit)
        self.known |= {key: self._whole(key) for key in waiting}
        return results

    def suited(self, observation: Observation) -> tuple[int, ...]:
        """Return the attacks of the suite that work on an observation, by their places in it."""
        names = AttackSuite(tuple(self.suite)).on(observation, None)
        return tuple(place for place, name in enumerate(self.names) if name in names)

    def missing(self, key: str) -> tuple[int, ...]:
        """Return the attacks of the suite that have not attacked an observation, by their places in it."""
        done = self.completed.get(key, set())
        return tuple(place for place in range(len(self.suite)) if place not in done)

    def _limit(self, trainings: int, seconds: float) -> float:
        """Return the seconds of each of some trainings, so that all of them take about as many as given."""
        return seconds * min(1.0, self.jobs / (trainings or 1))

    def _audit(
        self,
        waiting: Mapping[str, Observation],
        places: Sequence[int],
        victims: GivenImages,
        seed: int,
        limit: float,
    ) -> Results:
        """Attack observations with the attacks at some places of the suite, each for a limited time."""
        assert self.images is not None
        attacks = [self.suite[place] for place in places]
        results = audit(
            list(waiting.values()),
            attacks,
            auxiliary=self.images.auxiliary,
            victims=victims,
            seeds=(seed,),
            attack_seconds=limit,
            jobs=self.jobs,
        )
        self.observations |= waiting
        named = dict(zip(AttackSuite(tuple(attacks)).names, places, strict=True))
        for one in results.observations:
            self._add(one, {named[name] for name in finished(results, one)})
        return results

    def _add(self, one: ObservationSummary, places: Collection[int]) -> None:
        """Keep the leakage that an audit measured, if it is larger than what was found before."""
        self.completed.setdefault(one.observation, set()).update(places)
        self.read |= {one.observation} if one.labels_read else set()
        before = self.found.setdefault(one.observation, {})
        for axis in AXES:
            if (score := one.counts.on(axis)) is not None:
                found = MeasuredLeak(*score.largest)
                before[axis] = max(before.get(axis, found), found, key=lambda leak: leak.leakage)

    def _whole(self, key: str) -> dict[Axis, MeasuredLeak]:
        """Return what an observation leaks: everything where an attack of the suite is missing, or its kind is."""
        return {axis: self._everything(key, axis) or self.found[key][axis] for axis in AXES}

    def _everything(self, key: str, axis: Axis) -> MeasuredLeak | None:
        """Return that everything leaks, if what leaks was not measured."""
        reason = ""
        if missing := self.missing(key):
            reason = f"{', '.join(self.names[place] for place in missing)} did not finish"
        elif axis == "labels" and key not in self.read:
            reason = "no attack that reads labels"
        elif axis not in self.found.get(key, {}):
            reason = f"no attack that reads {axis}"
        return MeasuredLeak(1.0, None, reason) if reason else None

    def take(self, results: Results, model: Graph) -> tuple[int, int]:
        """Keep what an audit of the model measured with attacks of the suite.

        An attack counts if it has the same hyper-parameters. Only the others are run when an observation occurs.

        Returns:
            The number of attacks that need not be run, and the number of their observations.
        """
        counted = {one.observation: set(self._equal(results, one)) for one in results.observations}
        for one in results.observations:
            if places := counted[one.observation]:
                self._add(one, places)
                if not self.missing(one.observation):
                    self.known[one.observation] = self._whole(one.observation)
        self.observations |= {key: one for one in cut_observations(model) if (key := key_of(one)) in self.found}
        return sum(map(len, counted.values())), sum(map(bool, counted.values()))

    def _equal(self, results: Results, one: ObservationSummary) -> Iterator[int]:
        """Yield the attacks of the suite that an audit finished on an observation, by their places in it."""
        ended = finished(results, one)
        for finding in results.findings:
            if finding.observation != one.observation or finding.attack not in ended:
                continue
            cell = results.store.cell(finding.key)
            for place, attack in enumerate(map(load, self.suite)):
                if is_of(cell, attack, results.summary.input):
                    yield place

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
                for axis, leak in self.found.get(name, {}).items():
                    least[axis] = max(least.get(axis, leak), leak, key=lambda one: one.leakage)
        return {**least, **dict.fromkeys(tap.known, EVERYTHING)}


def finished(results: Results, one: ObservationSummary) -> set[str]:
    """Return the attacks on an observation whose training was not ended by a limit on its seconds."""
    cut_short = {
        finding.attack
        for finding in results.findings
        if finding.observation == one.observation and finding.cut_short
    }
    return set(one.attacks) - cut_short


def _taken(images: GivenImages, chosen: Sequence[int]) -> GivenImages:
    return images.take(list(chosen)) if isinstance(images, Images) else images[list(chosen)]
