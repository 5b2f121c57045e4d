"""The verdict of an audit: the observations that leak most and least on each axis, or why there is no verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from cloven.auditing.finding import AXES, NAMES, Axis, Finding, place, without_protection
from cloven.auditing.summary import (
    AuditVerdict,
    AxisRanking,
    AxisScore,
    Convergence,
    ObservationSummary,
    RankedLeakage,
)

LEAST_KAPPA = 0.3
"""The smallest kappa of a model whose agreement is meaningful; below it, the model has learned too little."""

MOST_ALIKE = 0.5
"""The largest share of equal predictions of a usable model without labels; above it, it has learned too little."""

SHOWN = 3
"""The largest number of observations at one end of an axis that are all named."""

LOWER_BOUND = "These are lower bounds: a stronger attack may reconstruct more."


def gate(kappa: float | None, largest_share: float) -> str | None:
    """Return why no verdict can be given for a model; None if one can.

    Args:
        kappa: Cohen's kappa of the model on held-out images; None without labels.
        largest_share: the share of the victim images to which the model gives its most frequent class.
    """
    if kappa is not None:
        if kappa >= LEAST_KAPPA:
            return None
        return (
            f"the CNN's kappa on held-out images is {kappa:.2f}, below {LEAST_KAPPA}: it has learned too little "
            "for agreement with it to mean anything. Train it longer or give weights."
        )
    if largest_share <= MOST_ALIKE:
        return None
    return (
        f"the CNN gives one class to {largest_share:.0%} of the victim images, more than half, and without labels "
        "nothing shows that this is right: agreement with it means little. Check its weights and normalisation, "
        "or give images with labels."
    )


def verdict(
    refusal: str | None, findings: Sequence[Finding], observations: Sequence[ObservationSummary]
) -> AuditVerdict:
    """Return the ranking of the observations on each axis, and the audit in a few sentences.

    Observations on protected links are ranked separately, by what would leak without the protection.
    """
    crossing = [one for one in observations if one.crosses]
    exposed = [one for one in crossing if one.exposed]
    protected = [one for one in crossing if one.protected]
    if refusal is None and not crossing:
        refusal = "none of the attacked observations is sent over a link"
    if refusal is not None:
        return AuditVerdict(given=False, reason=refusal, sentence=None, rankings=())
    rankings = tuple(rank(exposed, axis) for axis in AXES)
    hidden = tuple(rank(protected, axis) for axis in AXES) if protected else ()
    of = {one.observation: one for one in crossing}
    sentences = [_said(ranking, of) for ranking in rankings] if exposed else []
    if protected:
        which = f"{len(protected)} of {len(crossing)} observations are" if exposed else "All observations are"
        sentences.append(f"{which} on protected links, where a listener sees only ciphertext.")
        sentences += [f"Without the protection: {_said(ranking, of)}" for ranking in hidden]
    counts = [(one.counts.pixels, one.counts.labels) for one in crossing]
    for count, doubt in (
        (
            sum(any(score and score.carried_from for score in both) for both in counts),
            "have a lower score than a deeper one that follows from them: the attacks on them are under-trained",
        ),
        (
            sum(
                any(score and score.exceeded_by and score.exceeded_by.significant for score in of_one)
                for of_one in ((one.own.pixels, one.own.labels) for one in crossing)
            ),
            "have an attack that scores significantly higher on the victims than the one that was chosen on "
            "held-out pairs",
        ),
    ):
        sentences += [f"{count} of {len(crossing)} observations {doubt}."] if count else []
    sentences += [*_curves([score for both in counts for score in both if score]), LOWER_BOUND]
    sentences += _in_clear(findings)
    return AuditVerdict(given=True, reason=None, sentence=" ".join(sentences), rankings=rankings, protected=hidden)


def _curves(scores: Sequence[AxisScore]) -> list[str]:
    """Return a sentence about the learning curves of the strongest attacks, if any were measured."""
    words = [score.converged for score in scores]
    if set(words) <= {"not tested"}:
        return []
    said = [f"{word} ({words.count(word)})" for word in get_args(Convergence) if word in words]
    return [f"Learning curves of the {len(scores)} strongest attacks: {', '.join(said)}."]


def rank(crossing: Sequence[ObservationSummary], axis: Axis) -> AxisRanking:
    """Return the observations that leak most and least on an axis; those with equal values, as shown, are tied.

    If no attack read labels, agreement can show that labels leak, but not that they do not.
    """
    read = {one.observation for one in crossing if axis == "pixels" or one.labels_read}
    scored = {
        one.observation: round(score.leakage.high, 2)
        for one in crossing
        if (score := one.counts.on(axis)) is not None and (one.observation in read or score.leakage.high)
    }
    most = _end(scored, max(scored.values(), default=0.0))
    known = {name: value for name, value in scored.items() if name in read}
    least = _end(known, min(known.values(), default=0.0))
    ranked = [name for name in scored if name in known or name in most.observations]
    return AxisRanking(
        axis=axis,
        most=most if ranked else None,
        least=least if known and least.leakage < most.leakage else None,
        ranked=len(ranked),
        unranked=tuple(one.observation for one in crossing if one.observation not in ranked),
    )


def _end(scored: Mapping[str, float], value: float) -> RankedLeakage:
    return RankedLeakage(leakage=value, observations=tuple(n for n, one in scored.items() if one == value))


def _said(ranking: AxisRanking, of: dict[str, ObservationSummary]) -> str:
    """Return a sentence with the ranking of an axis."""
    axis = ranking.axis.capitalize()
    if ranking.most is None:
        why = {"labels": UNREAD, "pixels": "no image was made"}
        return f"{axis}: not ranked, since {why[ranking.axis]}."
    most, least, names = ranking.most, ranking.least, ranking.most.observations
    amount = f"up to {most.leakage:.0%} of the possible gain" if most.leakage else "nothing beyond the best guess"
    counted = of[names[0]].counts.on(ranking.axis)
    assert counted is not None
    measured = _measured(counted, ranking.axis)
    if ranking.ranked == 1:
        found = f"{named(of[names[0]])} leaks {amount} ({measured})"
    elif len(names) == ranking.ranked:
        found = f"all {ranking.ranked} observations leak alike, {amount} ({measured})"
    else:
        verb, each = ("leaks", "") if len(names) == 1 else ("leak", " each")
        found = f"{_listed(names, of)} {verb} most, {amount}{each} ({measured})"
    if least is not None:
        few = f"{least.leakage:.0%}" if least.leakage else "nothing beyond the best guess"
        found += f"; {_listed(least.observations, of)} least, {few}"
    left = len(ranking.unranked)
    without = f" {left} more {'is' if left == 1 else 'are'} not ranked: {UNREAD}." if left else ""
    return f"{axis}: {found}.{without}"


UNREAD = "no attack that reads labels (such as probe) was tried"
"""The reason for not ranking the labels of an observation."""


def _measured(score: AxisScore, axis: Axis) -> str:
    """Return the score of a leakage in words, with its attack and the best guess."""
    clear = ""
    if score.low <= score.baseline:
        clear = ", which is within chance of it" if score.high >= score.baseline else ", which is better"
    found = f"{NAMES[AXES[axis]]} {score.mean:.2f} by {score.attack}"
    if score.exceeded_by is not None:
        other = score.exceeded_by
        found += f", which was chosen on held-out pairs; {other.attack} has {other.mean:.2f} on the victims"
    return f"{found}; the best guess without the link has {score.baseline:.2f}{clear}"


def named(one: ObservationSummary) -> str:
    """Return the name of an observation for use in a sentence."""
    links = [one.link] if one.link else one.links
    where = " with ".join(" to ".join(link) for link in links)
    how = "" if one.transform == "none" else one.transform
    words = " " in one.label  # else it is the name of a layer, which may contain capitals
    label = one.label[0].lower() + one.label[1:] if words else one.label
    return f"{one.strategy} ({', '.join(part for part in (label, where, how) if part)})"


def place_of(one: ObservationSummary) -> str:
    """Return an observation's links, and its label in the paper view, which sees a part of what they carry."""
    seen = one.label if one.view == "paper" else ""
    where = " ".join(part for part in (place(one.links, one.label), seen) if part)
    return without_protection(where, one.protection)


def _listed(names: Sequence[str], of: dict[str, ObservationSummary]) -> str:
    if len(names) > SHOWN:
        return f"{named(of[names[0]])} and {len(names) - 1} others"
    return " and ".join(named(of[name]) for name in names)


def _in_clear(findings: Sequence[Finding]) -> list[str]:
    """Return a sentence about pixels that are sent in clear, which the scores of whole images do not show."""
    raw: dict[str, float] = {}
    for finding in findings:
        if finding.crosses and finding.raw_image and not finding.protected:
            raw[finding.strategy] = max(raw.get(finding.strategy, 0.0), finding.raw_image)
    said = [f"{strategy} up to {share:.0%}" for strategy, share in raw.items()]
    return [f"Pixels of the image itself are sent in clear: {', '.join(said)} of them."] if said else []
