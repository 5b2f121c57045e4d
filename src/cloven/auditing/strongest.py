"""The strongest attack on each observation, what deeper ones add, convergence, and what defences do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from cloven.auditing.aggregate import AttackedCase
from cloven.auditing.cases import Case
from cloven.auditing.finding import AXES, Axis, Finding, Metric, ScoreRange
from cloven.auditing.store import Store
from cloven.auditing.summary import (
    AxisScore,
    AxisScores,
    Convergence,
    CurvePoint,
    DefenceSummary,
    LearningCurve,
    ObservationSummary,
    ProgramSummary,
)
from cloven.partition.determine import determines
from cloven.partition.observe import Observation
from cloven.score.baselines import leakage
from cloven.score.intervals import paired

RISES = 0.005
"""A smaller rise of a score between half of the pairs and all of them counts as none."""

NAMES: Mapping[Metric, str] = {"ssim": "SSIM", "agreement": "agreement"}


def curves(every: Sequence[AttackedCase], store: Store) -> list[LearningCurve]:
    """Return the score of each attack on each observation against the number of pairs, and whether it still rises.

    It does where the whole interval of the paired difference between all pairs and half of them lies above 0 and
    the mean above `RISES`.
    """
    groups: dict[tuple[str, str], dict[int, AttackedCase]] = {}
    for one in every:
        groups.setdefault((one.case.name, one.attack), {})[one.pairs] = one
    found: list[LearningCurve] = []
    for (name, attack), members in groups.items():
        ordered = [members[pairs] for pairs in sorted(members)]
        if len(ordered) < 2:
            continue
        case, half, whole = ordered[0].case, ordered[-2], ordered[-1]
        metric: Metric = "agreement" if store.cell(whole.keys[0]).ssim is None else "ssim"
        more, less = (store.scores(one.keys, metric).mean(0) for one in (whole, half))
        difference = paired(more, less, seed=0)
        found.append(
            LearningCurve(
                observation=name,
                attack=attack,
                strategy=case.target.strategy,
                label=case.label,
                layers=case.layers,
                transform=case.target.transform,
                points=tuple(_point(one, store) for one in ordered),
                metric=metric,
                rise=ScoreRange(**asdict(difference)),
                converged="not converged" if difference.low > 0 and difference.mean > RISES else "converged",
            )
        )
    return found


def _point(one: AttackedCase, store: Store) -> CurvePoint:
    """Return the means over seeds of the score and of both ends of its interval."""
    cells = [store.cell(key) for key in one.keys]
    found: dict[Metric, ScoreRange | None] = {}
    for metric in AXES.values():
        scores = [score for cell in cells if (score := cell.score(metric)) is not None]
        ends = {part: sum(getattr(s, part) for s in scores) / len(cells) for part in ("mean", "low", "high")}
        found[metric] = ScoreRange(**ends) if scores else None
    return CurvePoint(pairs=one.pairs, ssim=found["ssim"], agreement=found["agreement"])


def observations(
    every: Sequence[AttackedCase], findings: Sequence[Finding], curve: Sequence[LearningCurve], store: Store
) -> list[ObservationSummary]:
    """Return each observation with its strongest attacks, and with what follows from deeper observations.

    Deeper observations hold nothing that is not in those that determine them. Where the strongest attack on a
    deeper one scores higher all the same, and the difference is beyond chance (its paired interval lies above 0),
    that score is carried over, and a flag says that the attacks here are under-trained.
    """
    cases: dict[str, Case] = {}
    of: dict[str, dict[str, Finding]] = {}
    for attacked, finding in zip(every, findings, strict=True):
        first = cases.get(attacked.case.name)
        if first is None or not first.observation.crosses:  # of equal observations one that a link carries
            cases[attacked.case.name] = attacked.case
        of.setdefault(attacked.case.name, {})[attacked.attack] = finding
    own = {
        name: AxisScores(pixels=_strongest(rows.values(), "pixels"), labels=_strongest(rows.values(), "labels"))
        for name, rows in ((name, of[name]) for name in cases)
    }
    rises = {(one.observation, one.attack): one.converged for one in curve}
    found: list[ObservationSummary] = []
    for name, case in cases.items():
        deeper = [other for other, deep in cases.items() if other != name and _below(case, deep)]
        counts: dict[Axis, AxisScore | None] = {}
        flags: list[str] = []
        for axis, metric in AXES.items():
            mine = own[name].on(axis)
            counts[axis] = mine
            others = [(other, score) for other in deeper if (score := own[other].on(axis)) is not None]
            if not others:
                continue
            source, most = max(others, key=lambda pair: _chosen_by(pair[1]))
            if mine is not None:
                better, here = of[source][most.attack], of[name][mine.attack]
                difference = paired(
                    store.scores(better.keys, metric).mean(0), store.scores(here.keys, metric).mean(0), seed=0
                )
                if difference.low <= 0:
                    continue
            update = {"carried_from": source, "carried_layers": cases[source].layers}
            counts[axis] = most.model_copy(update=update)
            shown = f"{mine.mean:.2f} by {mine.attack}" if mine else "nothing"
            flags.append(
                f"{NAMES[metric]}: {shown} here, {most.mean:.2f} by {most.attack} deeper, at "
                f"{', '.join(cases[source].layers)}, which follows from what is seen here: the attacks here are "
                "under-trained"
            )
        context, leading = case.context, own[name].pixels or own[name].labels
        converged: Convergence = rises.get((name, leading.attack), "not tested") if leading else "not tested"
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
                converged=converged,
            )
        )
    return found


def _below(case: Case, deep: Case) -> bool:
    """Return whether what is seen deep follows from what is seen in a case."""
    one, other = case.observation, deep.observation
    if case.target.recorded or deep.target.recorded:
        return False
    return isinstance(one, Observation) and isinstance(other, Observation) and determines(one, other)


def _strongest(rows: Iterable[Finding], axis: Axis) -> AxisScore | None:
    """Return the score of the attack that is best on held-out pairs."""
    metric = AXES[axis]
    scored = [score for row in rows if (score := axis_score(row, metric)) is not None]
    return max(scored, key=_chosen_by, default=None)


def axis_score(row: Finding, metric: Metric) -> AxisScore | None:
    """Return the score of one attack on one axis."""
    score, baseline = row.score(metric), row.baseline(metric)
    if score is None or baseline is None:
        return None
    low, mean, high = (max(0.0, leakage(value, baseline[1])) for value in (score.low, score.mean, score.high))
    return AxisScore(
        attack=row.attack,
        mean=score.mean,
        low=score.low,
        high=score.high,
        baseline=baseline[1],
        held_out=getattr(row.held_out, metric) if row.held_out is not None else None,
        leakage=ScoreRange(mean=mean, low=low, high=high),
    )


def _chosen_by(score: AxisScore) -> float:
    """Return the score on held-out pairs; where there was one attack, that on the victims: nothing is chosen."""
    return score.mean if score.held_out is None else score.held_out


def defences(
    programs: Sequence[ProgramSummary], every: Sequence[Case], found: Sequence[ObservationSummary]
) -> list[DefenceSummary]:
    """Return what each transform costs and hides: accuracy, bytes and the most that any link leaks."""
    rows: list[DefenceSummary] = []
    for program in programs:
        names = {case.name for case in every if case.target.title == program.title}
        mine = [o for o in found if o.observation in names and o.crosses and o.transform == program.transform]
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
