"""Recommend a division: `cloven.advise`.

The cost of a division is first estimated with only the coordinator's links encrypted. Encrypting more links can
only add to it. Divisions are therefore attacked in the order of that cost, and the search ends as soon as the next
one cannot be cheaper than the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal, get_args

from cloven.advising.advice import (
    Advice,
    AdviceReport,
    ComparedDivision,
    CutPoint,
    Rejected,
    Relaxation,
    TapLeakage,
    amount,
)
from cloven.advising.candidates import Candidate, candidates
from cloven.advising.limits import Limits
from cloven.advising.taps import ExposedTap, taps
from cloven.attacks.attack import Attack
from cloven.attacks.registry import load
from cloven.auditing.finding import AXES, Axis
from cloven.auditing.given import GivenImages, audit
from cloven.auditing.results import Results
from cloven.auditing.summary import AxisScore
from cloven.cost.cluster import Cluster
from cloven.cost.estimate import Cost, estimate
from cloven.errors import ClovenError, check_type, shown
from cloven.graph.cuts import cuts
from cloven.graph.graph import Graph
from cloven.partition.compiler import GRAPH, divide, problems
from cloven.partition.observe import observe
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.partition.protection import COORDINATOR, Name, Protection
from cloven.partition.vertical import Vertical
from cloven.zoo.images import Images

Objective = Literal["latency", "throughput", "energy", "traffic"]

SUITE: tuple[str, ...] = ("residual", "probe", "mlp-probe", "conv-probe")
"""The default attacks on every tap."""

FEWEST = 40
"""The smallest number of victims: the search uses one half, the second attack on the winner the other."""

FRESH = 1000
"""The seed of the second attack on the winner; the search uses 0."""

MOST_COMPARED = 200
"""The largest number of divisions in the report."""

MESSAGE = 100_000
"""The bytes of the message for which the costs of ciphers are compared."""


def advise(
    model: Graph,
    cluster: Cluster,
    *,
    auxiliary: GivenImages,
    victims: GivenImages,
    limits: Limits | None = None,
    minimise: Objective = "latency",
    attacks: Attack | str | Sequence[Attack | str] = SUITE,
    budget: float = 600.0,
) -> Advice:
    """Return the division of a model over a cluster that meets the limits at the least cost.

    Vertical cuts, horizontal axes and tiles over up to four devices are compared, with every assignment of devices.
    The exposed links with the coordinator are encrypted, since they carry the image and the answer. Another exposed
    link is encrypted if it leaks more than a limit allows. A device that is not trusted reads everything that it
    receives, encrypted or not. The winner is attacked again with fresh seeds and fresh victims; if it then misses a
    limit, the search continues.

    Args:
        model: the graph that `cloven.capture` returned.
        cluster: the devices and links, with their profiles.
        auxiliary: the attacker's own images, as `cloven.audit` takes them.
        victims: the images that are attacked, likewise; at least 40.
        limits: what the plan may cost and leak.
        minimise: ``latency``, ``energy`` or ``traffic``; or ``throughput``, which is maximised.
        attacks: the attacks on every tap.
        budget: seconds after which no further division is attacked.

    Raises:
        ClovenError: for arguments of another type or out of range.
    """
    check_type(model, Graph, "model", GRAPH)
    check_type(cluster, Cluster, "cluster", "cloven.Cluster.load('cluster.toml')")
    wanted = Limits() if limits is None else limits
    check_type(wanted, Limits, "limits", "cloven.Limits(latency=0.3)")
    if minimise not in get_args(Objective):
        raise ClovenError(f"minimise is {shown(minimise)}; expected one of {', '.join(get_args(Objective))}")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        raise ClovenError(f"budget must be a number of seconds above 0, got {shown(budget)}")
    if len(victims) < FEWEST:
        raise ClovenError(f"there are {len(victims)} victim images; expected at least {FEWEST}")
    suite = tuple(attacks) if isinstance(attacks, list | tuple) else (attacks,)
    if not suite:
        raise ClovenError("attacks is empty; give at least one attack")
    suite = tuple(load(attack) for attack in suite)
    search = _Search(model, cluster, wanted, minimise, suite, auxiliary, victims, time.monotonic() + budget)
    return search.advice()


@dataclass(frozen=True, eq=False)
class Alternative:
    """A candidate with a choice of encrypted links; ``value`` is what is minimised, infinite if it is unknown."""

    candidate: Candidate
    plan: Plan
    program: Program
    cost: Cost
    taps: tuple[ExposedTap, ...]
    value: float

    def is_encrypted(self, tap: ExposedTap) -> bool:
        """Return whether a listener at a tap sees only ciphertext."""
        return tap.pair is not None and self.program.protection.of(*tap.pair) != "none"


@dataclass(frozen=True)
class MeasuredLeak:
    """The upper 95 % limit of the leakage of an observation on an axis; ``attack`` is None if none read it."""

    leakage: float
    attack: str | None


EVERYTHING = MeasuredLeak(1.0, None)


class _Search:
    """The state of a search: the leakage of the observations so far, and the reasons for rejecting divisions."""

    def __init__(
        self,
        model: Graph,
        cluster: Cluster,
        limits: Limits,
        minimise: Objective,
        suite: Sequence[Attack | str],
        auxiliary: GivenImages,
        victims: GivenImages,
        deadline: float,
    ) -> None:
        self.model, self.cluster, self.limits, self.minimise = model, cluster, limits, minimise
        self.suite, self.auxiliary, self.deadline, self.complete = suite, auxiliary, deadline, True
        self.victims, self.fresh_victims = _part(victims, 0), _part(victims, 1)
        self.cipher = _cheapest_cipher(cluster)
        self.leaks: dict[str, dict[Axis, MeasuredLeak]] = {}
        self.rejected: dict[str, Rejected] = {}
        self.outcomes: dict[Candidate, tuple[Alternative, str]] = {}
        self.untested: dict[str, None] = {}

    def advice(self) -> Advice:
        """Return the best division that still meets the limits when it is attacked again."""
        every, self.complete = candidates(self.model, self.cluster)
        if not self.complete:
            self.untested["the model has more cuts than were combined; of equal steps the cheapest were"] = None
        divisions = [found for one in every if (found := self.divided(one)) is not None]
        divisions.sort(key=lambda division: division.value)
        while (winner := self.best(divisions)) is not None:
            results = self.attack(winner, fresh=True)
            if results is not None and not results.verdict.given:
                self.untested[f"the audit gives no verdict on this model: {results.verdict.reason}"] = None
            if all(self.is_allowed(winner, tap) for tap in winner.taps):
                return Advice(self.report(winner, divisions), winner.plan, winner.program, results)
        return Advice(self.report(None, divisions))

    def divided(self, candidate: Candidate) -> Alternative | None:
        """Return a candidate with the coordinator's exposed links encrypted; None if it does not fit the model."""
        if problems(self.model, candidate.strategies, candidate.devices):
            return None
        program = divide(self.model, candidate.strategies, candidate.devices)
        found = taps(program, self.cluster)
        return self.encrypted(candidate, program, found, [tap for tap in found if COORDINATOR in (tap.pair or ())])

    def encrypted(
        self, candidate: Candidate, program: Program, found: tuple[ExposedTap, ...], chosen: Sequence[ExposedTap]
    ) -> Alternative:
        """Return a division with the links of some taps encrypted."""
        links = {frozenset(tap.pair): "-".join(tap.pair) for tap in chosen if tap.pair is not None}
        protection = Protection(links=dict.fromkeys(links.values(), self.cipher))
        plan = Plan(strategy=candidate.strategies, devices=candidate.devices, protection=protection)
        protected = replace(program, protection=protection)
        cost = estimate(protected, self.cluster)
        value = getattr(cost, self.minimise)
        if value is not None and self.minimise == "throughput":
            value = -value
        return Alternative(candidate, plan, protected, cost, found, inf if value is None else float(value))

    def best(self, divisions: Sequence[Alternative]) -> Alternative | None:
        """Return the division with the least value that meets the limits, by the leakage that is known so far."""
        best: Alternative | None = None
        for division in divisions:
            if division.value == inf or division.cost.latency is None:
                self.reject(division, "its cost is unknown: " + "; ".join(division.cost.unknown[:2]))
                continue
            if best is not None and division.value >= best.value:
                self.reject(division, "does not cost less than the recommended division")
                continue
            if exceeded := self.limits.exceeded_by(division.cost):
                self.reject(division, "; ".join(exceeded))
                continue
            if not self.is_attacked(division):
                if time.monotonic() > self.deadline:
                    self.untested["the budget ended before all divisions were attacked"] = None
                    self.reject(division, "was not attacked within the budget")
                    continue
                self.attack(division)
            leaking = [tap for tap in division.taps if not self.is_allowed(division, tap)]
            if devices := [tap for tap in leaking if tap.pair is None]:
                self.reject(division, f"{devices[0].name} is not trusted and receives more than the limits allow")
                continue
            closed = [tap for tap in division.taps if division.is_encrypted(tap) or tap in leaking]
            found = self.encrypted(division.candidate, division.program, division.taps, closed)
            if exceeded := self.limits.exceeded_by(found.cost):
                self.reject(found, "with its leaking links encrypted, " + "; ".join(exceeded))
            elif best is None or found.value < best.value:
                if best is not None:
                    self.reject(best, "does not cost less than the recommended division")
                best = found
            else:
                self.reject(
                    found, "with its leaking links encrypted, it does not cost less than the recommended division"
                )
        return best

    def reject(self, division: Alternative, reason: str) -> None:
        """Record why a division was rejected; only the cheapest division of each strategy is kept."""
        value = None if division.value == inf else abs(division.value)
        entry = Rejected(division=str(division.candidate), objective=value, reason=reason)
        self.outcomes[division.candidate] = division, reason
        before = self.rejected.get(division.candidate.kind)
        if before is None or before.division == entry.division:
            self.rejected[division.candidate.kind] = entry

    # --- leakage ----------------------------------------------------------------------------------------------

    def is_attacked(self, division: Alternative) -> bool:
        """Return whether the leakage of all taps is known, or is not limited."""
        if self.limits.pixel_leakage is None and self.limits.label_leakage is None:
            return True
        return all(tap.observation is None or _key(tap) in self.leaks for tap in division.taps)

    def attack(self, division: Alternative, *, fresh: bool = False) -> Results | None:
        """Attack the new taps in clear, or all of them if ``fresh``, and keep the larger leakage of each."""
        waiting = {
            _key(tap): tap.observation
            for tap in taps(division.program, self.cluster)  # of the protected program, as the report shows it
            if tap.observation is not None
            and not division.is_encrypted(tap)
            and (fresh or _key(tap) not in self.leaks)
        }
        if not waiting:
            return None
        results = audit(
            list(waiting.values()),
            self.suite,
            auxiliary=self.auxiliary,
            victims=self.fresh_victims if fresh else self.victims,
            seeds=(FRESH,) if fresh else (0,),
        )
        for one in results.observations:
            known = self.leaks.setdefault(one.observation, {})
            for axis in AXES:
                found = _leak(one.counts.on(axis))
                known[axis] = max(known.get(axis, found), found, key=lambda leak: leak.leakage)
        return results

    def leak(self, tap: ExposedTap) -> Mapping[Axis, MeasuredLeak]:
        """Return what a tap leaks in clear: all that it knows, else what attacks found, at least the raw pixels."""
        known = dict.fromkeys(tap.known, EVERYTHING)
        if tap.observation is None:
            return known
        found = self.leaks.get(_key(tap), dict.fromkeys(AXES, EVERYTHING))
        raw = MeasuredLeak(tap.observation.raw_image, None)
        pixels = max(found["pixels"], raw, key=lambda leak: leak.leakage)
        return {**found, "pixels": pixels, **known}

    def is_allowed(self, division: Alternative, tap: ExposedTap) -> bool:
        """Return whether a tap is encrypted, or leaks no more than the limits."""
        limits: dict[Axis, float | None] = {
            "pixels": self.limits.pixel_leakage,
            "labels": self.limits.label_leakage,
        }
        leak = self.leak(tap)
        return division.is_encrypted(tap) or all(
            limit is None or axis not in leak or leak[axis].leakage <= limit for axis, limit in limits.items()
        )

    # --- the answer -------------------------------------------------------------------------------------------

    def report(self, winner: Alternative | None, divisions: Sequence[Alternative]) -> AdviceReport:
        """Return the advice as a document."""
        if winner is None:
            reason = "No plan meets the limits." if not self.untested else "No advice within this budget."
        else:
            value = amount(abs(winner.value), self.minimise)
            compared = "those that were compared and attacked" if self.untested else f"{len(divisions)} divisions"
            reason = f"Of {compared}, it has the best {self.minimise} within the limits: {value}."
        leaks = (
            ()
            if winner is None
            else tuple(
                TapLeakage(
                    tap=tap.name,
                    axis=axis,
                    leakage=leak.leakage,
                    attack=leak.attack,
                    protected=winner.is_encrypted(tap),
                )
                for tap in winner.taps
                for axis, leak in self.leak(tap).items()
            )
        )
        chosen = None if winner is None else str(winner.candidate)
        return AdviceReport(
            plan=chosen,
            minimised=self.minimise,
            limits=self.limits,
            reason=reason,
            cost=None if winner is None else winner.cost,
            leakage=leaks,
            rejected=tuple(entry for entry in self.rejected.values() if entry.division != chosen),
            untested=tuple(self.untested),
            assumptions=() if winner is None else winner.cost.assumptions,
            divisions=len(divisions),
            attacked=len(self.leaks),
            compared=self.compared(winner, divisions, reason),
            cuts=self.cuts(divisions),
            nearest=self.nearest(divisions) if winner is None else None,
            method=f"All {len(divisions)} divisions were compared."
            if self.complete
            else (f"{len(divisions)} divisions were compared; the model has more cuts than were combined."),
        )

    def compared(
        self, winner: Alternative | None, divisions: Sequence[Alternative], why: str
    ) -> tuple[ComparedDivision, ...]:
        """Return the divisions with the reason for or against each, the cheapest first."""
        found = []
        for first in divisions:
            division, reason = self.outcomes.get(first.candidate, (first, ""))
            chosen = winner is not None and division.candidate == winner.candidate
            if winner is not None and chosen:
                division, reason = winner, why
            memory = [device.memory for device in division.cost.devices if device.memory is not None]
            found.append(
                ComparedDivision(
                    division=str(division.candidate),
                    kind=division.candidate.kind,
                    names=(),
                    devices=division.candidate.devices,
                    encrypted=tuple(division.plan.protection.links),
                    latency=division.cost.latency,
                    throughput=division.cost.throughput,
                    energy=division.cost.energy,
                    memory=max(memory) if len(memory) == len(division.cost.devices) else None,
                    traffic=division.cost.traffic,
                    measured_latency=None,
                    pixel_leakage=self.plan_leakage(division, "pixels"),
                    label_leakage=self.plan_leakage(division, "labels"),
                    chosen=chosen,
                    reason=reason,
                )
            )
        return tuple(found[:MOST_COMPARED])

    def plan_leakage(self, division: Alternative, axis: Axis) -> float | None:
        """Return the largest leakage of a division's taps in clear on an axis; None if one was not attacked."""
        clear = [tap for tap in division.taps if not division.is_encrypted(tap)]
        if any(tap.observation is not None and _key(tap) not in self.leaks for tap in clear):
            return None
        return max(
            (leak.leakage for tap in clear for on, leak in self.leak(tap).items() if on == axis), default=0.0
        )

    def cuts(self, divisions: Sequence[Alternative]) -> tuple[CutPoint, ...]:
        """Return the vertical cuts in two parts, from the image to the answer."""
        fastest: dict[str, Alternative] = {}
        for division in divisions:
            strategy, latency = division.candidate.strategies[0], division.cost.latency
            if isinstance(strategy, Vertical) and len(strategy.cuts) == 1 and latency is not None:
                before = fastest.get(strategy.cuts[0])
                if before is None or before.cost.latency is None or latency < before.cost.latency:
                    fastest[strategy.cuts[0]] = division
        found = []
        for cut in cuts(self.model):
            if cut.after in fastest:
                division = fastest[cut.after]
                known = self.leaks.get(observe(division.program)[0].fingerprint[:32], {})
                found.append(
                    CutPoint(
                        after=cut.after,
                        share=cut.macs_before / (cut.macs_before + cut.macs_after),
                        bytes=cut.bytes,
                        latency=division.cost.latency,
                        pixel_leakage=known["pixels"].leakage if known else None,
                        label_leakage=known["labels"].leakage if known else None,
                    )
                )
        return tuple(found)

    def nearest(self, divisions: Sequence[Alternative]) -> Relaxation | None:
        """Return the division that exceeds the limits on cost by the least, and by how much."""
        found = [
            Relaxation(division=str(one.candidate), limits=self.limits.exceeded_by(one.cost))
            for one in divisions
            if one.value < inf
        ]
        return min(found, key=lambda one: len(one.limits), default=None)


def _key(tap: ExposedTap) -> str:
    """Return the name under which an audit reports a tap's observation."""
    assert tap.observation is not None
    return tap.observation.fingerprint[:32]


def _leak(score: AxisScore | None) -> MeasuredLeak:
    """Return the leakage by the chosen attack, or by one that scores significantly higher on the victims."""
    if score is None:
        return MeasuredLeak(1.0, "no attack that reads it")
    return MeasuredLeak(*score.largest)


def _part(images: GivenImages, which: int) -> GivenImages:
    """Return every second image, from index ``which`` on."""
    chosen = list(range(which, len(images), 2))
    return images.take(chosen) if isinstance(images, Images) else images[chosen]


def _cheapest_cipher(cluster: Cluster) -> Name:
    """Return the cipher with the least total cost for the devices, of those that all their profiles measure."""
    profiles = [device.profile for device in cluster.devices.values() if device.profile is not None]
    costs: dict[Name, float] = {}
    for name in get_args(Name):
        found = [profile.ciphers[name] for profile in profiles if name in profile.ciphers]
        if found and len(found) == len(profiles):
            costs[name] = sum(cipher.message + MESSAGE * cipher.byte for cipher in found)
    return min(costs, key=lambda name: costs[name], default="aes-128-gcm")
