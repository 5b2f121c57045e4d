"""The answer of a search as a document: the plan, what it leaks, and why each other division was not chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from cloven.advising.advice import (
    AdviceReport,
    ComparedDivision,
    CutPoint,
    Rejected,
    Relaxation,
    TapLeakage,
    amount,
)
from cloven.advising.alternatives import Alternative
from cloven.advising.candidates import Candidate
from cloven.advising.leakage import SUITE
from cloven.advising.search import COSTS_MORE, WORTH, Decision, Search, choice, clear_taps, in_words
from cloven.advising.taps import key_of
from cloven.auditing.finding import AXES, Axis
from cloven.auditing.results import Results
from cloven.graph.cuts import cuts
from cloven.partition.observe import seen_on

MOST_COMPARED = 200
"""The largest number of divisions in the report, besides those that were attacked or have a name."""

NOT_EXECUTED = "its estimate is not among the best few, which were executed"

SPARED = f" Links were encrypted without an attack where that costs less than {WORTH:.0%}."


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The end of a search.

    Attributes:
        search: the search.
        divisions: the divisions with only the coordinator's links encrypted, the cheapest first.
        winner: the recommended division; None if there is none.
        names: the names of candidates from the literature.
        method: how the divisions were found, in a sentence.
    """

    search: Search
    divisions: Sequence[Alternative]
    winner: Alternative | None
    results: Results | None
    names: Mapping[Candidate, Sequence[str]]
    method: str

    @cached_property
    def cuts(self) -> tuple[CutPoint, ...]:
        """The vertical cuts in two parts, from the image to the answer."""
        fastest: dict[str, Alternative] = {}
        for division in sorted(self.divisions, key=lambda one: one.latency or inf):
            if (after := division.candidate.single_cut) is not None:
                fastest.setdefault(after, division)
        found = []
        for cut in cuts(self.search.pricing.model):
            if cut.after not in fastest:
                continue
            division = fastest[cut.after]
            seen = seen_on(division.program, (division.source, division.sink))
            leaks = self.search.ledger.known.get(key_of(seen), {})
            found.append(
                CutPoint(
                    after=cut.after,
                    share=cut.macs_before / ((cut.macs_before + cut.macs_after) or 1),
                    bytes=cut.bytes,
                    latency=division.latency,
                    pixel_leakage=leaks["pixels"].leakage if leaks else None,
                    label_leakage=leaks["labels"].leakage if leaks else None,
                )
            )
        return tuple(found)


def report_of(result: SearchResult) -> AdviceReport:
    """Return the advice as a document."""
    search, winner = result.search, result.winner
    reason = _reason(result)
    compared = tuple(_compared(result, reason))
    nearest, relaxed = (None, ()) if winner is not None else _nearest(result)
    shown = winner or nearest
    return AdviceReport(
        plan=None if winner is None else str(winner.candidate),
        minimised=search.pricing.minimise,
        limits=search.limits,
        reason=reason,
        cost=None if winner is None else winner.cost,
        leakage=() if winner is None else tuple(_leakage(search, winner)),
        rejected=tuple(_rejected(result)),
        untested=tuple(_untested(result)),
        assumptions=() if shown is None else shown.cost.assumptions,
        divisions=len(result.divisions),
        attacked=len(search.ledger.known),
        compared=compared,
        cuts=result.cuts,
        nearest=None if nearest is None else Relaxation(division=str(nearest.candidate), limits=relaxed),
        method=result.method + (SPARED if search.spared else ""),
    )


def _reason(result: SearchResult) -> str:
    search, winner = result.search, result.winner
    if winner is None:
        if not any(one.is_known for one in result.divisions):
            return "The cost of no division is known."
        limited = search.ended or search.unexplored < inf
        return "No advice within this budget." if limited else "No plan meets the limits."
    minimised = search.pricing.minimise
    value = amount(abs(winner.value), minimised)
    if (seconds := search.measured.get(choice(winner))) is not None:
        took, number = amount(seconds, "latency"), len(search.measured)
        one = "the one with the best estimate within the limits was executed"
        several = f"the {number} with the best estimates within the limits were executed; this one is the fastest"
        executed = several if number > 1 else one
        reason = f"Of {len(result.divisions):,} divisions, {executed}: {took}, estimated {value}."
    else:
        reason = f"Of {len(result.divisions):,} divisions, it has the best {minimised} within the limits: {value}."
    if search.unexplored < winner.value:
        other = amount(abs(search.unexplored), minimised)
        reason += f" Divisions that were not attacked could reach {other} at best."
    return reason


def _leakage(search: Search, winner: Alternative) -> Iterator[TapLeakage]:
    for tap in winner.taps:
        leaks = search.ledger.of(tap)
        for axis in AXES:
            leak = leaks.get(axis)
            attacked = axis in tap.known or search.ledger.is_known(tap)
            if leak is not None:
                yield TapLeakage(
                    tap=tap.name,
                    axis=axis,
                    leakage=leak.leakage if attacked else None,
                    attack=leak.attack if attacked else None,
                    reason=leak.reason if attacked else "",
                    protected=winner.is_encrypted(tap),
                )


def plan_leakage(search: Search, division: Alternative, axis: Axis) -> float | None:
    """Return the largest leakage of a division's taps in clear on an axis; None if one of them was not attacked."""
    found = [0.0]
    for tap in clear_taps(division):
        if axis not in tap.known and not search.ledger.is_known(tap):
            return None
        leaks = search.ledger.of(tap)
        found += [leaks[axis].leakage] if axis in leaks else []
    return max(found)


# --- the other divisions --------------------------------------------------------------------------------------


def _compared(result: SearchResult, reason: str) -> Iterator[ComparedDivision]:
    """Yield the divisions with the reason for or against each, the cheapest first."""
    search, winner = result.search, result.winner
    named = _named(result)
    seen = set()
    for number, first in enumerate(result.divisions):
        decision = search.decisions.get(first.candidate, Decision(first))
        chosen = winner is not None and winner.candidate == first.candidate
        division = winner if winner is not None and chosen else decision.division
        names = named.pop(division, ())
        seen.add(choice(division))
        cheaper = winner is None or first.value < winner.value  # only these were looked at
        if (
            number < MOST_COMPARED
            or chosen
            or names
            or choice(division) in search.measured
            or (cheaper and plan_leakage(search, division, "pixels") is not None)
        ):
            why = reason if chosen else _lost(result, decision)
            yield _row(search, division, names, why, chosen=chosen)
    for division, names in named.items():
        if choice(division) not in seen:
            why = _lost(result, Decision(division, _fate(search, division)))
            yield _row(search, division, names, why, chosen=False)


def _lost(result: SearchResult, decision: Decision) -> str:
    """Return why a division is not the recommended one, which may have a larger estimate if it was executed."""
    winner, is_measured = result.winner, bool(result.search.measured)
    if is_measured and winner is not None and decision.reason == COSTS_MORE:
        return COSTS_MORE if decision.division.value >= winner.value else NOT_EXECUTED
    return decision.reason


def _fate(search: Search, division: Alternative) -> str:
    """Return why a named division is not the recommended one."""
    if exceeded := search.limits.exceeded_by(division):
        return in_words(exceeded)
    leaking = search.leaking(division)
    if leaking:
        return f"{leaking[0].name} {search.reads(leaking[0])}"
    if waiting := [tap.name for tap in clear_taps(division) if search.must_attack(tap)]:
        return f"{waiting[0]} was not attacked"
    return COSTS_MORE


def _row(
    search: Search, division: Alternative, names: Sequence[str], reason: str, *, chosen: bool
) -> ComparedDivision:
    return ComparedDivision(
        division=str(division.candidate),
        kind=division.candidate.kind,
        names=tuple(names),
        devices=division.candidate.devices,
        encrypted=division.encrypted,
        latency=division.latency,
        throughput=division.throughput,
        energy=division.energy,
        memory=division.memory,
        traffic=division.traffic,
        measured_latency=search.measured.get(choice(division)),
        pixel_leakage=plan_leakage(search, division, "pixels"),
        label_leakage=plan_leakage(search, division, "labels"),
        chosen=chosen,
        reason=reason,
    )


def _named(result: SearchResult) -> dict[Alternative, list[str]]:
    """Return the named divisions: those from the literature, and the extremes of the search.

    Divisions from the literature do not consider what leaks: only the coordinator's links are encrypted.
    """
    search = result.search
    found: dict[Alternative, list[str]] = {}

    def name(division: Alternative | None, text: str) -> None:
        if division is not None:
            found.setdefault(division, []).append(text)

    known = [one for one in result.divisions if one.value < inf and one.latency is not None]
    within = [one for one in known if not search.limits.exceeded_by(one)]
    name(within[0] if within else None, "the search without leakage (AutoDiCE)")
    devices = search.pricing.cluster.devices
    trusted = [one for one in within if all(devices[name].trusted for name in one.candidate.devices)]
    single = (one for one in trusted or known if one.candidate.kind == "one device")
    name(next(single, None), "everything on one device")
    several = (search.pricing.all_encrypted(one) for one in trusted if one.candidate.kind != "one device")
    name(min(several, key=lambda one: one.value, default=None), "every link encrypted")
    if result.winner is not None:
        name(result.winner, "only the links that leak encrypted")
    name(_first_safe_cut(result), "the first cut below the limits (Rajasekar et al.)")
    for division in result.divisions:
        for text in result.names.get(division.candidate, ()):
            name(division, text)
    return found


def _first_safe_cut(result: SearchResult) -> Alternative | None:
    """Return the cheapest division at the first cut from which on no cut leaks more than the limits."""
    search, first = result.search, None
    limits = search.limits.leakage
    for point in reversed(result.cuts):
        leaks: Mapping[Axis, float | None] = {"pixels": point.pixel_leakage, "labels": point.label_leakage}
        if not limits or any((leak := leaks[axis]) is None or leak > limit for axis, limit in limits.items()):
            break
        first = point.after
    matching = (one for one in result.divisions if first is not None and one.candidate.single_cut == first)
    return next(matching, None)


def _rejected(result: SearchResult) -> Iterator[Rejected]:
    """Yield a division of each other strategy: the cheapest that only lost by its cost, if there is one."""
    found: dict[str, Decision] = {}
    for first in result.divisions:
        decision = result.search.decisions.get(first.candidate)
        if decision is None or (result.winner is not None and result.winner.candidate == first.candidate):
            continue
        before = found.get(first.candidate.kind)
        if before is None or (decision.reason == COSTS_MORE and before.reason != COSTS_MORE):
            found[first.candidate.kind] = decision
    for decision in found.values():
        yield Rejected(
            division=str(decision.division.candidate),
            objective=None if decision.division.value == inf else abs(decision.division.value),
            reason=_lost(result, decision),
        )


def _untested(result: SearchResult) -> Iterator[str]:
    """Yield what was not tested, or is not known."""
    search = result.search
    names = search.ledger.names
    if names != SUITE:
        yield f"attacks: {', '.join(names)}, not the default suite ({', '.join(SUITE)})"
    if search.ended:
        yield "the budget ended before all divisions were attacked"
    without = [one for one in result.divisions if not one.is_known]
    if without:
        which = "all" if len(without) == len(result.divisions) else f"{len(without):,}"
        unknown = dict.fromkeys(text for one in without for text in one.unknown)
        yield f"the cost of {which} of {len(result.divisions):,} divisions is unknown: {'; '.join(unknown)}"
    if _is_unconfirmed(result):
        yield "the plan was not attacked again: there are no fresh victims"
    if result.results is not None and not result.results.verdict.given:
        yield f"the audit gives no verdict on this model: {result.results.verdict.reason}"


def _is_unconfirmed(result: SearchResult) -> bool:
    """Return whether the plan has a tap in clear that was not attacked again."""
    taps = [] if result.winner is None else clear_taps(result.winner)
    return any(not result.search.ledger.is_known(tap, again=True) for tap in taps)


# --- the nearest division -------------------------------------------------------------------------------------


def _nearest(result: SearchResult) -> tuple[Alternative | None, tuple[str, ...]]:
    """Return the division that comes closest to the limits, and those that it exceeds, in words.

    It is the one with the smallest sum of excesses: those of costs relative to the limit, those of leakage as they
    are. Divisions are compared with their links encrypted as they were decided, and with only the coordinator's.
    """
    search = result.search
    least = inf
    nearest: tuple[Alternative | None, tuple[str, ...]] = None, ()
    for first in result.divisions:
        decision = search.decisions.get(first.candidate, Decision(first))
        for division in dict.fromkeys((decision.division, first)):
            total, limits = 0.0, []
            for excess, text in excesses(search, division):
                total += excess
                limits.append(text)
                if total >= least:
                    break
            if total < least:
                least, nearest = total, (division, tuple(limits))
    return nearest


def excesses(search: Search, division: Alternative) -> Iterator[tuple[float, str]]:
    """Yield by how much a division exceeds each limit, and the limit to relax, in words; infinite if unknown."""
    if not division.is_known:
        yield inf, "its cost is unknown"
    if (limit := search.limits.latency) is not None and search.too_slow(division):
        seconds = search.measured[choice(division)]
        took, most = amount(seconds, "latency"), amount(limit, "latency")
        yield seconds / limit - 1, f"latency when executed: {took} instead of {most}"
    for over in search.limits.exceeded_by(division):
        yield over.relative, f"{over.name}: {over.reached} instead of {over.allowed}"
    for axis, limit in search.limits.leakage.items():
        leak = plan_leakage(search, division, axis)
        if leak is None:
            yield inf, f"{axis}: not attacked"
        elif leak > limit:
            yield leak - limit, f"{axis[:-1]} leakage: {leak:.0%} instead of {limit:.0%}"
