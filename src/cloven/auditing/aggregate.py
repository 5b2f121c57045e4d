"""Findings: the results of an attack's cells, one a seed, as one row; and the orderings that a paper expects."""

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
    CellResult,
    Finding,
    HeldOut,
    InsideScores,
    JudgeRange,
    Leakages,
    Measured,
    Metric,
    ScoreRange,
    SeedsRange,
    SSIMRange,
    TrainingTime,
)
from cloven.auditing.store import Store
from cloven.auditing.summary import MeasuredOrdering, Shows
from cloven.score.baselines import leakage
from cloven.score.intervals import Interval, bootstrap, over_seeds, paired, wilson

Numbers = TypeVar("Numbers", JudgeRange, InsideScores, HeldOut)


@dataclass(frozen=True, eq=False)
class AttackedCase:
    """An attack on a case with so many pairs and a share of its training time, and its cells' keys, one a seed."""

    case: Case
    attack: str
    pairs: int
    time: float
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Expectation:
    """A statement of a paper about two groups of observations: the first gives the higher score.

    A side is (strategy, layer); layer None takes every layer of that strategy.
    """

    claim: str
    source: str
    sentence: str
    higher: tuple[str, str | None]
    lower: tuple[str, str | None]
    metric: Metric = "agreement"


def finding(attacked: AttackedCase, store: Store, threshold: float) -> Finding:
    """Return the result of an attack on a case: one seed's, or the mean over several."""
    cells = [store.cell(key) for key in attacked.keys]
    measured = _measured(cells[0]) if len(cells) == 1 else _over_seeds(attacked.keys, cells, store)
    found = {**attacked.case.context.model_dump(), **measured.model_dump(), "attack": attacked.attack}
    if measured.ssim is not None:
        exceeds = store.scores(attacked.keys, "ssim").mean(0) > threshold
        found["ssim"]["above_threshold"] = asdict(wilson(int(exceeds.sum()), len(exceeds)))
    return Finding(
        **found,
        key=attacked.keys[0],
        keys=attacked.keys,
        observation=attacked.case.name,
        seeds=tuple(cell.seed for cell in cells),
    )


def _measured(cell: CellResult) -> Measured:
    return Measured(**{name: getattr(cell, name) for name in Measured.model_fields})


def _over_seeds(keys: Sequence[str], cells: Sequence[CellResult], store: Store) -> Measured:
    """Return the mean over seeds; baselines are the highest of any seed, leakage is that of the mean scores."""
    first = _measured(cells[0])
    baselines: dict[str, BaselineScores] = {}
    for name, one in first.baselines.items():
        each = [cell.baselines[name] for cell in cells]
        alike = None if one.ssim is None else max(b.ssim for b in each if b.ssim is not None)
        baselines[name] = BaselineScores(ssim=alike, agreement=max(b.agreement for b in each))
    agreed = _seeds_range(store.scores(keys, "agreement"))
    likeness, noise = None, None
    highest = [b.ssim for b in baselines.values() if b.ssim is not None]
    if first.ssim is not None:
        scored = _seeds_range(store.scores(keys, "ssim"))
        likeness = SSIMRange(**scored.model_dump(), p95=_mean([c.ssim.p95 for c in cells if c.ssim]))
        noise = _seeds_range(store.scores(keys, "psnr"))
    return first.model_copy(
        update={
            "agreement": agreed,
            "ssim": likeness,
            "psnr": noise,
            "kappa": _mean([cell.kappa for cell in cells]),
            "baselines": baselines,
            "leakage": Leakages(
                ssim=leakage(likeness.mean, max(highest)) if likeness and highest else None,
                agreement=leakage(agreed.mean, max(b.agreement for b in baselines.values())),
            ),
            "judge": _mean_of(JudgeRange, [cell.judge for cell in cells]),
            "inside": _mean_of(InsideScores, [cell.inside for cell in cells]),
            "held_out": _mean_of(HeldOut, [cell.held_out for cell in cells]),
            "training": _trained([cell.training for cell in cells if cell.training is not None]),
            "notes": tuple(dict.fromkeys(note for cell in cells for note in cell.notes)),
            "wall_seconds": sum(cell.wall_seconds for cell in cells),
        }
    )


def _seeds_range(scores: Tensor) -> SeedsRange:
    interval = over_seeds(scores)
    return SeedsRange(**asdict(interval), covers="images and seeds", of_seeds=tuple(scores.mean(1).tolist()))


def _trained(each: Sequence[TrainingTime]) -> TrainingTime | None:
    """Return the time that all seeds together took to train."""
    if not each:
        return None
    return TrainingTime(
        processor=each[0].processor,
        seconds=sum(one.seconds for one in each),
        epochs=tuple(chain.from_iterable(one.epochs for one in each)),
        ended=tuple(chain.from_iterable(one.ended for one in each)),
    )


def difference(more: Sequence[str], less: Sequence[str], metric: Metric, store: Store) -> SeedsRange:
    """Return the paired difference of the scores of two attacks, given by their cells' keys, one for each seed."""
    scores = store.scores(more, metric) - store.scores(less, metric)
    return _seeds_range(scores) if len(scores) > 1 else SeedsRange(**asdict(bootstrap(scores[0], seed=0)))


def _mean_of(kind: type[Numbers], each: Sequence[Numbers | None]) -> Numbers | None:
    """Return the mean of each number; None where there are none."""
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
    expected: Iterable[Expectation], every: Sequence[AttackedCase], store: Store, *, seed: int
) -> list[MeasuredOrdering]:
    """Return what a paper expects of its decoder beside the numbers: paired differences over the victim images.

    A group (a strategy at a layer, in the paper's view) scores an image by the mean over its shares and seeds.
    """
    found: list[MeasuredOrdering] = []
    for expectation in expected:
        higher = _group(every, store, expectation.higher, expectation.metric)
        lower = _group(every, store, expectation.lower, expectation.metric)
        if higher is None or lower is None:
            continue
        difference = paired(higher, lower, seed=seed)
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
    """Return whether a difference that is expected to be positive is.

    It ``holds`` where the whole interval lies above zero, ``fails`` where it lies below, else it is ``undecided``.
    """
    if difference.low > 0:
        return "holds"
    return "fails" if difference.high < 0 else "undecided"


def _group(
    every: Sequence[AttackedCase], store: Store, side: tuple[str, str | None], metric: Metric
) -> Tensor | None:
    """Return the scores ``(n,)`` of each victim image, mean over the shares of a strategy at a layer."""
    strategy, layer = side
    found = [
        store.scores(one.keys, metric).mean(0)
        for one in every
        if one.attack == "decoder"
        and one.case.target.strategy == strategy
        and one.case.target.transform == "none"
        and one.case.observation.view == "paper"
        and (layer is None or one.case.layers == (layer,))
    ]
    return torch.stack(found).mean(0) if found else None
