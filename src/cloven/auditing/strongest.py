"""The strongest attack on each observation, doubts about the choice, and the comparison of defences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cloven.auditing.aggregate import AttackedCase, difference
from cloven.auditing.cases import Case
from cloven.auditing.convergence import convergence
from cloven.auditing.curves import NEGLIGIBLE
from cloven.auditing.finding import AXES, NAMES, Axis, Finding, Metric
from cloven.auditing.store import Store
from cloven.auditing.summary import (
    AxisScore,
    AxisScores,
    DefenceSummary,
    HigherScore,
    LearningCurve,
    ObservationSummary,
    ProgramSummary,
)
from cloven.partition.determine import determines
from cloven.partition.observe import Observation


def observations(
    every: Sequence[AttackedCase], findings: Sequence[Finding], curve: Sequence[LearningCurve], store: Store
) -> list[ObservationSummary]:
    """Return each observation with its strongest attacks, and with scores carried over from deeper observations.

    The strongest attack is the one with the best score on held-out pairs. These are the attacker's own images, so
    another attack may score higher on the victims. If the difference is significant or more than negligible, a flag
    names that attack; the choice does not change.

    A deeper observation holds no information that is not in an observation that determines it. If the strongest
    attack on the deeper one nevertheless scores significantly higher (its paired interval lies above 0), that score
    is carried over, and a flag says that the attacks here are under-trained.
    """
    cases: dict[str, Case] = {}
    of: dict[str, dict[str, Finding]] = {}
    for attacked, finding in zip(every, findings, strict=True):
        first = cases.get(attacked.case.name)
        if first is None or _exposure(attacked.case) > _exposure(first):  # keep the most exposed of equal ones
            cases[attacked.case.name] = attacked.case
        of.setdefault(attacked.case.name, {})[attacked.attack] = finding
    own = {
        name: AxisScores(
            pixels=_strongest(of[name], "pixels", curve, store), labels=_strongest(of[name], "labels", curve, store)
        )
        for name in cases
    }
    found: list[ObservationSummary] = []
    for name, case in cases.items():
        deeper = [other for other, deep in cases.items() if other != name and _below(case, deep)]
        counts: dict[Axis, AxisScore | None] = {}
        flags: list[str] = []
        for axis, metric in AXES.items():
            mine = own[name].on(axis)
            counts[axis] = mine
            flags += [_doubted(mine, mine.exceeded_by, metric)] if mine and mine.exceeded_by else []
            others = [(other, score) for other in deeper if (score := own[other].on(axis)) is not None]
            if not others:
                continue
            source, most = max(others, key=lambda pair: _chosen_by(pair[1]))
            if mine is not None:
                better, here = of[source][most.attack], of[name][mine.attack]
                if difference(better.keys, here.keys, metric, store).low <= 0:
                    continue
            update = {"carried_from": source, "carried_layers": cases[source].layers}
            counts[axis] = most.model_copy(update=update)
            shown = f"{mine.mean:.2f} by {mine.attack}" if mine else "nothing"
            flags.append(
                f"{NAMES[metric]}: {shown} here, {most.mean:.2f} by {most.attack} on the output of "
                f"{', '.join(cases[source].layers)}, which is computed from what is seen here: the attacks here "
                "are under-trained"
            )
        context = case.context
        found.append(
            ObservationSummary(
                observation=name,
                strategy=context.strategy,
                label=context.label,
                layers=context.layers,
                link=context.link,
                links=context.links,
                view=context.view,
                crosses=context.crosses,
                transform=context.transform,
                attacks=tuple(of[name]),
                labels_read=any(one.ssim is None for one in of[name].values()),
                own=own[name],
                counts=AxisScores(pixels=counts["pixels"], labels=counts["labels"]),
                flags=tuple(flags),
                protection=context.protection,
            )
        )
    return found


def _exposure(case: Case) -> tuple[bool, bool]:
    """Return whether a link carries an observation, and whether it carries it in clear."""
    context = case.context
    return context.crosses, not context.protected


def _below(case: Case, deep: Case) -> bool:
    """Return whether the observation of a case determines that of ``deep``."""
    one, other = case.observation, deep.observation
    if case.target.recorded or deep.target.recorded:
        return False
    return isinstance(one, Observation) and isinstance(other, Observation) and determines(one, other)


def _strongest(
    rows: Mapping[str, Finding], axis: Axis, curve: Sequence[LearningCurve], store: Store
) -> AxisScore | None:
    """Return the score of the best attack on held-out pairs, with its convergence and a doubt about the choice."""
    metric = AXES[axis]
    scored = [score for row in rows.values() if (score := AxisScore.of(row, metric)) is not None]
    # Of equal ones the last is taken: suites go from weak to strong.
    best = max(reversed(scored), key=_chosen_by, default=None)
    if best is None:
        return None
    chosen, higher = rows[best.attack], []
    for other in scored if best.held_out is not None else ():
        more = difference(rows[other.attack].keys, chosen.keys, metric, store)
        if more.low > 0 or more.mean > NEGLIGIBLE:
            higher.append(HigherScore(attack=other.attack, mean=other.mean, difference=more))
    return best.model_copy(
        update={
            "exceeded_by": max(higher, key=lambda one: (one.significant, one.difference.mean), default=None),
            "converged": convergence(curve, chosen, metric),
        }
    )


def _doubted(score: AxisScore, higher: HigherScore, metric: Metric) -> str:
    """Return the flag for an attack that scores higher than the chosen one."""
    more = higher.difference
    chance = "" if higher.significant else ", which may be due to chance"
    return (
        f"{NAMES[metric]}: {score.attack} was chosen on held-out pairs ({score.held_out:.3f}) and has "
        f"{score.mean:.3f} on the victims; {higher.attack} has {higher.mean:.3f} there, "
        f"{more.mean:.3f} [{more.low:.3f}, {more.high:.3f}] more (paired){chance}"
    )


def _chosen_by(score: AxisScore) -> float:
    """Return the score on held-out pairs; if there was only one attack, that on the victims."""
    return score.mean if score.held_out is None else score.held_out


def defences(
    programs: Sequence[ProgramSummary], every: Sequence[Case], found: Sequence[ObservationSummary]
) -> list[DefenceSummary]:
    """Return, for each transform, its accuracy, its bytes and the largest leakage of any link in clear."""
    rows: list[DefenceSummary] = []
    for program in programs:
        names = {case.name for case in every if case.target.title == program.title}
        mine = [o for o in found if o.observation in names and o.exposed and o.transform == program.transform]
        most: dict[Axis, AxisScore | None] = {}
        for axis in AXES:
            scores = (score for one in mine if (score := one.counts.on(axis)) is not None)
            most[axis] = max(scores, key=lambda score: score.leakage.high, default=None)
        rows.append(
            DefenceSummary(
                strategy=program.strategy,
                title=program.title,
                transform=program.transform,
                accuracy=program.accuracy,
                agreement_with_the_model=program.agreement,
                bytes=sum(transfer.bytes for transfer in program.transfers),
                most=AxisScores(pixels=most["pixels"], labels=most["labels"]),
            )
        )
    return rows
