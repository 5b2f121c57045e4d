"""Findings: the results of an attack averaged over its seeds; and the orderings that a paper expects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from cloven.auditing.cases import Case
from cloven.auditing.finding import (
    BaselineScores,
    Finding,
    HeldOut,
    InsideScores,
    Metric,
    ScoreRange,
    SeedsRange,
    TrainingTime,
)
from cloven.auditing.ranges import difference_bounds, leakages, mean_range, ranges, readings_range
from cloven.auditing.store import Store
from cloven.auditing.summary import MeasuredOrdering, Shows
from cloven.score.intervals import Interval, paired, wilson

Numbers = TypeVar("Numbers", InsideScores, HeldOut)


@dataclass(frozen=True, eq=False)
class AttackedCase:
    """An attack on a case, with a number of pairs and a share of its training time.

    ``keys`` are the keys of its cells, one for each seed.
    """

    case: Case
    attack: str
    pairs: int
    time: float
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Expectation:
    """A statement of a paper that one group of observations gives a higher score than another.

    A group is (strategy, layer); with the layer None it includes every layer of the strategy.
    """

    claim: str
    source: str
    sentence: str
    higher: tuple[str, str | None]
    lower: tuple[str, str | None]
    metric: Metric = "agreement"


def finding(attacked: AttackedCase, store: Store, threshold: float) -> Finding:
    """Return the result of an attack on a case, averaged over its seeds.

    Each baseline is the highest of any seed. Leakage is computed from the mean scores.
    """
    cells, tensors = [store.cell(key) for key in attacked.keys], [store.tensors(key) for key in attacked.keys]
    first = cells[0]

    def of_each(kind: str) -> dict[str, Tensor]:
        """Return the tensors ``(seeds, n)`` of a kind by name."""
        names = [name for name in tensors[0] if name.startswith(kind)]
        return {name.removeprefix(kind): torch.stack([one[name] for one in tensors]) for name in names}

    judges = [cell.judge.baseline for cell in cells if cell.judge is not None]
    scores = ranges(of_each("score/"), judge_baseline=_mean(judges) if judges else None, threshold=threshold)
    recovered, guesses, baselines = of_each("reading/"), of_each("guess/"), {}
    for name in first.baselines:
        each = [cell.baselines[name] for cell in cells]
        baselines[name] = BaselineScores(
            ssim=max((one.ssim for one in each if one.ssim is not None), default=None),
            agreement=max(one.agreement for one in each),
            above_threshold=float((guesses[name] > threshold).double().mean(1).max()) if name in guesses else None,
        )
    return Finding(
        **attacked.case.context.model_dump() | dict(scores),
        attack=attacked.attack,
        parameters=first.parameters,
        pairs=first.pairs,
        victims=first.victims,
        kappa=_mean([cell.kappa for cell in cells]),
        baselines=baselines,
        leakage=leakages(scores, baselines),
        inside=_mean_of(InsideScores, [cell.inside for cell in cells]),
        held_out=_mean_of(HeldOut, [cell.held_out for cell in cells]),
        training=_trained([cell.training for cell in cells if cell.training is not None]),
        notes=tuple(dict.fromkeys(note for cell in cells for note in cell.notes)),
        readings=tuple(readings_range(one.column, one.measure, recovered[one.column]) for one in first.readings),
        wall_seconds=sum(cell.wall_seconds for cell in cells),
        key=attacked.keys[0],
        keys=attacked.keys,
        observation=attacked.case.name,
        seeds=tuple(cell.seed for cell in cells),
    )


def _trained(each: Sequence[TrainingTime]) -> TrainingTime | None:
    """Return the training time of all seeds together."""
    if not each:
        return None
    return TrainingTime(
        processor=each[0].processor,
        seconds=sum(one.seconds for one in each),
        epochs=tuple(chain.from_iterable(one.epochs for one in each)),
        ended=tuple(chain.from_iterable(one.ended for one in each)),
    )


def difference(more: Sequence[str], less: Sequence[str], metric: Metric, store: Store) -> SeedsRange:
    """Return the paired difference of the scores of two attacks, given by their cells' keys, one for each seed.

    It covers as many seeds as both have.

    Where no label differs, the interval reaches to the Wilson limit of a share of 0 among as many images, on both
    sides of 0.
    """
    seeds = min(len(more), len(less))
    differences = store.scores(more[:seeds], metric) - store.scores(less[:seeds], metric)
    found = mean_range(differences, difference_bounds(metric))
    if metric == "ssim" or bool(differences.any()):
        return found
    limit = wilson(0.0, differences.shape[1]).high
    return found.model_copy(update={"low": -limit, "high": limit})


def _mean_of(kind: type[Numbers], each: Sequence[Numbers | None]) -> Numbers | None:
    """Return a document with the mean of each number; None if there are no documents."""
    known = [one.model_dump() for one in each if one is not None]
    if not known:
        return None
    means: dict[str, float] = {
        name: _mean([one[name] for one in known]) for name, value in known[0].items() if isinstance(value, float)
    }
    return kind.model_validate(known[0] | means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def orderings(
    expected: Iterable[Expectation], every: Sequence[AttackedCase], store: Store
) -> list[MeasuredOrdering]:
    """Return what a paper expects of its decoder, with the measured paired difference over images and seeds.

    The score that a group (a strategy at a layer, in the paper's view) gives an image is the mean over its shares.
    """
    found: list[MeasuredOrdering] = []
    for expectation in expected:
        higher = _group(every, store, expectation.higher, expectation.metric)
        lower = _group(every, store, expectation.lower, expectation.metric)
        if higher is None or lower is None:
            continue
        difference = paired(higher, lower, within=difference_bounds(expectation.metric))
        found.append(
            MeasuredOrdering(
                claim=expectation.claim,
                source=expectation.source,
                sentence=expectation.sentence,
                metric=expectation.metric,
                expected="positive",
                difference=ScoreRange(**asdict(difference)),
                shows=shows(difference),
            )
        )
    return found


def shows(difference: Interval) -> Shows:
    """Return whether the expectation that a difference is positive ``holds``, ``fails`` or is ``undecided``.

    It holds where the whole interval lies above zero, and fails where the whole interval lies below zero.
    """
    if difference.low > 0:
        return "holds"
    return "fails" if difference.high < 0 else "undecided"


def _group(
    every: Sequence[AttackedCase], store: Store, side: tuple[str, str | None], metric: Metric
) -> Tensor | None:
    """Return the scores ``(seeds, n)`` of the victim images, averaged over the shares of a strategy at a layer."""
    strategy, layer = side
    found = [
        store.scores(one.keys, metric)
        for one in every
        if one.attack == "decoder"
        and one.case.target.strategy == strategy
        and one.case.target.transform == "none"
        and one.case.observation.view == "paper"
        and (layer is None or one.case.layers == (layer,))
    ]
    return torch.stack(found).mean(0) if found else None
