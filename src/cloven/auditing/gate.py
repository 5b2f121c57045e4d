"""A gate for continuous integration: checks whether anything leaks more than a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from cloven.auditing.finding import AXES, Axis
from cloven.auditing.ranking import place_of
from cloven.auditing.summary import ObservationSummary, Summary
from cloven.documents import Document
from cloven.errors import ClovenError


class AcceptedLeaks(Document):
    """Leaks that are accepted: the largest accepted leakage of each check, by its fingerprint."""

    version: Literal[1] = 1
    leakage: dict[str, float]


@dataclass(frozen=True)
class GateCheck:
    """One check: the leakage at a place on an axis, compared with its limit.

    Attributes:
        place: the links or the device, and what is seen there.
        axis: ``pixels`` or ``labels``; None for a check of the whole audit.
        leakage: the upper 95 % limit of the leakage; None if it is unknown.
        limit: the largest leakage that passes; None for a check of the whole audit.
        failure: why it failed; empty if it passed.
        fingerprint: an identifier that is equal in every audit of this place and axis, even if the model was
            trained again.
    """

    place: str
    axis: Axis | None
    leakage: float | None
    limit: float | None
    failure: str
    fingerprint: str


def limits_of(text: str) -> dict[Axis, float]:
    """Return the limits in a text such as ``pixels=0.2,labels=0.3``.

    Raises:
        ClovenError: with each part that is not an axis and a number from 0 to 1.
    """
    found: dict[Axis, float] = {}
    problems = []
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        axis = next((axis for axis in AXES if axis == name), None)
        if axis is None or not 0 <= value <= 1 or axis in found:
            problems.append(
                f"{part!r} is not a limit; expected pixels=SHARE or labels=SHARE from 0 to 1, once each"
            )
        else:
            found[axis] = value
    if problems:
        raise ClovenError(problems)
    return found


def checks(
    summary: Summary, limits: Mapping[Axis, float], accepted: AcceptedLeaks | None = None
) -> tuple[GateCheck, ...]:
    """Return the checks of an audit: one for each place that a listener can read, on each axis with a limit.

    Observations on protected links, and values that are never sent, are not checked. An audit without a verdict
    fails, and so does one with an attack that its budget ended, since the complete attack might find more.

    Args:
        summary: the audit.
        limits: the largest leakage that passes, by axis.
        accepted: leaks that pass although they are above the limit, unless they have become larger.
    """
    known = {} if accepted is None else accepted.leakage
    found = list(_of_the_audit(summary))
    for one in summary.observations:
        if one.exposed:
            found += [_check(summary, one, axis, limit, known) for axis, limit in limits.items()]
    return tuple(found)


def accept(found: tuple[GateCheck, ...]) -> AcceptedLeaks:
    """Return the leaks of all checks that failed, to be accepted from now on."""
    return AcceptedLeaks(
        leakage={one.fingerprint: one.leakage for one in found if one.failure and one.leakage is not None}
    )


def _of_the_audit(summary: Summary) -> Iterator[GateCheck]:
    """Yield failures of the audit as a whole."""
    reasons = [] if summary.verdict.given else [f"there is no verdict: {summary.verdict.reason}"]
    ended = [one.attack for one in summary.findings if one.cut_short]
    reasons += [f"the budget ended the training of {', '.join(dict.fromkeys(ended))}"] if ended else []
    for reason in reasons:
        yield GateCheck("audit", None, None, None, reason, _fingerprint(summary.model, "audit"))


def _check(
    summary: Summary, one: ObservationSummary, axis: Axis, limit: float, known: Mapping[str, float]
) -> GateCheck:
    place = f"{one.strategy}, {place_of(one)}"
    fingerprint = _fingerprint(summary.model, one.strategy, *map("->".join, one.links), one.label, one.view, axis)
    score = one.counts.on(axis)
    if score is None or (axis == "labels" and not one.labels_read):
        failure = f"no attack that reads {axis} was tried"
        return GateCheck(place, axis, None, limit, failure, fingerprint)
    (leakage, _), failure = score.largest, ""
    if leakage > limit and leakage > known.get(fingerprint, -1.0):
        failure = (
            f"{axis} leak up to {leakage:.0%}, above the limit of {limit:.0%}: {score.mean:.2f} "
            f"[{score.low:.2f}, {score.high:.2f}] by {score.attack}, baseline {score.baseline:.2f}"
        )
    return GateCheck(place, axis, leakage, limit, failure, fingerprint)


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
