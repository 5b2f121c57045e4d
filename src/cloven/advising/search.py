"""The decision: a branch and bound over divisions, in the order of their cost.

The cost of a division is first estimated with only the coordinator's links encrypted. Encrypting more links can
only add to it. A division whose exposed links are all encrypted, and that only uses trusted devices, leaks nothing
and needs no attack: the best of these is an upper bound. Divisions that may cost less are then attacked in the
order of their cost, until the next one cannot be better than the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from cloven.advising.alternatives import Alternative, Pricing
from cloven.advising.candidates import Candidate
from cloven.advising.leakage import LeakageLedger
from cloven.advising.limits import Excess, Limits
from cloven.advising.taps import ExposedTap
from cloven.auditing.results import Results
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.progress import Progress

MOST_MEASURED, SLACK = 5, 1.25
"""The largest number of divisions that are executed, and the largest ratio of their estimates to the best one."""

WORTH = 0.01
"""The part of the objective that an attack must be able to gain; below it, links are encrypted without one."""

Choice = tuple[Candidate, tuple[str, ...]]
"""A candidate and its encrypted links."""

Measure = Callable[[Plan, Program], float]
"""A function that executes a plan and returns the seconds of one image."""

COSTS_MORE = "is not better than the recommended division"
UNKNOWN = "its cost is unknown"


@dataclass(frozen=True)
class Budget:
    """The time for attacks: it ends at ``deadline``, and an attack is not begun if it would probably end later.

    Half of the time that is left is kept for attacking the winner again.
    """

    deadline: float
    spent: float = 0.0
    attacks: int = 0

    @property
    def left(self) -> float:
        """The seconds that are left, at least one."""
        return max(1.0, self.deadline - time.monotonic())

    def allows(self, count: int) -> bool:
        """Return whether there is time for attacking a number of observations."""
        each = self.spent / self.attacks if self.attacks else 0.0
        return time.monotonic() + 2 * each * count <= self.deadline


@dataclass(frozen=True)
class Decision:
    """A division with the links that were encrypted, and the reason for rejecting it; empty if it is accepted."""

    division: Alternative
    reason: str = ""


@dataclass
class Search:
    """The search for the best division that meets the limits.

    Attributes:
        pricing: the costs of divisions.
        ledger: the leakage of observations.
        limits: the limits on cost and leakage.
        budget: the time for attacks.
        progress: is called after each attack.
        decisions: what was decided about each candidate.
        measure: executes a plan; None if estimates decide.
        measured: the measured seconds of each division that was executed.
        unexplored: the least value that a division can have that was not attacked for lack of time, else infinite.
        spared: whether attacks were left out because they could gain less than `WORTH`.
        ended: whether attacks were left out because the budget ended; no further ones are then begun.
    """

    pricing: Pricing
    ledger: LeakageLedger
    limits: Limits
    budget: Budget
    progress: Progress
    measure: Measure | None = None
    decisions: dict[Candidate, Decision] = field(default_factory=dict)
    measured: dict[Choice, float] = field(default_factory=dict)
    unexplored: float = inf
    spared: bool = False
    ended: bool = False

    def winner(self, divisions: Sequence[Alternative]) -> tuple[Alternative | None, Results | None]:
        """Return the best division that still meets the limits when it is attacked again, and that attack.

        Args:
            divisions: the divisions with only the coordinator's links encrypted, the cheapest first.
        """
        while True:
            self.unexplored = inf
            bound = self.best(divisions, None, attacking=False)
            # A deep cut that leaks too much rules out all earlier ones, and all divisions that send as much.
            best = self.best([*deepest_first(divisions), *divisions], bound, attacking=True)
            if best is not None and self.measure is not None:
                best = self.fastest(best, divisions, self.measure)
                if best is None:
                    continue  # those that were executed are too slow
            if best is None:
                return None, None
            clear = [tap.observation for tap in clear_taps(best) if tap.observation is not None]
            results = None
            if clear and self.ledger.can_confirm:
                self.progress("attacking the best division again", 0, 1)
                results = self.ledger.confirm(clear, self.budget.left)
                self.progress("attacking the best division again", 1, 1)
            if not self.leaking(best):
                return best, results

    def best(
        self, divisions: Iterable[Alternative], bound: Alternative | None, *, attacking: bool
    ) -> Alternative | None:
        """Return the division with the least value that meets the limits; ``bound`` is one that meets them."""
        best = bound
        for division in divisions:
            if best is not None and division.candidate == best.candidate and best.value <= division.value:
                continue
            decision = self.considered(division, inf if best is None else best.value, attacking=attacking)
            self.decisions[division.candidate] = decision
            if not decision.reason:
                if best is not None and best.candidate != division.candidate:
                    self.decisions[best.candidate] = Decision(best, COSTS_MORE)
                best = decision.division
        return best

    def fastest(self, best: Alternative, divisions: Iterable[Alternative], measure: Measure) -> Alternative | None:
        """Return the division that is fastest when executed, among those that are estimated to be nearly the best.

        It is None if all of them exceed the limit on latency.
        """
        near = [self.considered(one, SLACK * best.value, attacking=False) for one in divisions]
        allowed = sorted((one.division for one in near if not one.reason), key=lambda one: one.value)
        executed = list({choice(one): one for one in (best, *allowed)}.values())[:MOST_MEASURED]
        for number, one in enumerate(executed):
            self.progress("executing the best divisions", number, len(executed))
            if choice(one) not in self.measured:
                self.measured[choice(one)] = measure(one.plan, one.program)
        self.progress("executing the best divisions", len(executed), len(executed))
        found = min(executed, key=lambda one: self.measured[choice(one)])
        for one in executed:
            if one is not found:
                self.decisions[one.candidate] = Decision(
                    one, "is slower than the recommended division when executed"
                )
        return None if self.too_slow(found) else found

    def too_slow(self, division: Alternative) -> bool:
        """Return whether a division was executed and exceeded the limit on latency."""
        seconds, limit = self.measured.get(choice(division)), self.limits.latency
        return seconds is not None and limit is not None and seconds > limit

    def considered(self, division: Alternative, bound: float, *, attacking: bool) -> Decision:
        """Return a division with its leaking links encrypted, if its value is then below ``bound`` and allowed.

        Links that are not attacked are encrypted. A division with a device that is not trusted and was not attacked
        is rejected.
        """
        if not division.is_known:
            return Decision(division, UNKNOWN)
        if exceeded := self.limits.exceeded_by(division):
            return Decision(division, in_words(exceeded))
        if division.value >= bound:  # encrypting links can only add to it
            return Decision(division, COSTS_MORE)
        while True:
            decision = self.encrypting(division, self.leaking(division), bound)
            if decision.reason:
                return decision
            waiting = [tap for tap in clear_taps(decision.division) if self.must_attack(tap)]
            if not waiting:
                return decision
            if not attacking:
                break
            if bound - decision.division.value < WORTH * abs(bound) < inf:
                self.spared = True
                break
            self.ended = self.ended or not self.budget.allows(len(waiting))
            if self.ended or self.ledger.images is None:
                self.unexplored = min(self.unexplored, decision.division.value)
                break
            self.attack(waiting)
        return self.encrypting(decision.division, waiting, bound)

    def encrypting(self, division: Alternative, leaking: Sequence[ExposedTap], bound: float) -> Decision:
        """Return a division with the links of some taps encrypted, if it then meets the limits on cost."""
        if devices := [tap for tap in leaking if tap.pair is None]:
            return Decision(division, f"{devices[0].name} is not trusted and {self.reads(devices[0])}")
        found = self.pricing.encrypting(division, [tap.pair for tap in leaking if tap.pair is not None])
        if exceeded := self.limits.exceeded_by(found):
            return Decision(found, f"with its links encrypted, {in_words(exceeded)}")
        if self.too_slow(found):
            return Decision(found, f"takes {self.measured[choice(found)]:.4g} s when executed, above the limit")
        return Decision(found, "" if found.value < bound else COSTS_MORE)

    def reads(self, tap: ExposedTap) -> str:
        """Return what a tap reads beyond the limits, in words."""
        found, limits = self.ledger.at_least(tap), self.limits.leakage
        over = [axis for axis, limit in limits.items() if axis in found and found[axis].leakage > limit]
        if not over:
            return "was not attacked"
        reasons = dict.fromkeys(found[axis].reason for axis in over if found[axis].reason)
        if reasons:
            return f"counts as reading everything: {'; '.join(reasons)}"
        return "can read up to " + " and ".join(f"{found[axis].leakage:.0%} of the {axis}" for axis in over)

    def leaking(self, division: Alternative) -> list[ExposedTap]:
        """Return the taps in clear that leak more than a limit, as far as that is known."""
        found = []
        for tap in clear_taps(division):
            leaks = self.ledger.at_least(tap)
            if any(axis in leaks and leaks[axis].leakage > limit for axis, limit in self.limits.leakage.items()):
                found.append(tap)
        return found

    def must_attack(self, tap: ExposedTap) -> bool:
        """Return whether limits depend on what a tap leaks, and its leakage is not known.

        When no victims are left for another second attack, only taps that were attacked twice are known.
        """
        if tap.observation is None or all(axis in tap.known for axis in self.limits.leakage):
            return False
        return not self.ledger.is_known(tap, again=not self.ledger.can_confirm)

    def attack(self, waiting: Sequence[ExposedTap]) -> None:
        """Attack the observations of taps."""
        start, before = time.monotonic(), self.budget.attacks
        begun = before + len(waiting)  # how many will follow is not known
        self.progress("attacking", before, begun)
        observations = [tap.observation for tap in waiting if tap.observation is not None]
        self.ledger.attack(observations, self.budget.left / 2)
        self.budget = replace(
            self.budget,
            spent=self.budget.spent + time.monotonic() - start,
            attacks=begun,
        )
        self.progress("attacking", begun, begun)


def choice(division: Alternative) -> Choice:
    """Return a division's candidate and its encrypted links."""
    return division.candidate, division.encrypted


def clear_taps(division: Alternative) -> list[ExposedTap]:
    """Return the taps whose listeners can read what they observe."""
    return [tap for tap in division.taps if not division.is_encrypted(tap)]


def deepest_first(divisions: Iterable[Alternative]) -> list[Alternative]:
    """Return the vertical divisions in two parts, those with the latest cut first."""
    found = []
    for division in divisions:
        if (cut := division.candidate.single_cut) is not None:
            model = division.pricing.model
            found.append((model.position[model.find(cut)], division))
    return [division for _, division in sorted(found, key=lambda one: -one[0])]


def in_words(exceeded: Iterable[Excess]) -> str:
    """Return limits that are exceeded in words."""
    return "; ".join(map(str, exceeded))
