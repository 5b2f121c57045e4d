"""Means of the scores of images, with their intervals, and leakage, as documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import inf
from typing import Literal

import torch
from torch import Tensor

from cloven.auditing.finding import (
    BaselineScores,
    IdentifiedRange,
    JudgeRange,
    Leakages,
    Measure,
    Metric,
    RecoveredReadings,
    Scores,
    SeedsRange,
    SSIMRange,
)
from cloven.leakage_scale import leakage
from cloven.score.identification import CANDIDATES
from cloven.score.intervals import UNBOUNDED, Bounds, Interval, of_mean, of_share

POSSIBLE: Mapping[Metric, Bounds] = {"ssim": (-1.0, 1.0), "agreement": (0.0, 1.0)}
"""The smallest and the largest value of each score."""


def ranges(
    scores: Mapping[str, Tensor], *, judge_baseline: float | None = None, threshold: float | None = None
) -> Scores:
    """Return the means of scores ``(seeds, n)`` by name, with their intervals over images, and seeds if several.

    Args:
        scores: ``agreement``; for reconstructions also ``ssim``, ``psnr``, ``identified``, and ``judge`` if there
            is a second classifier.
        judge_baseline: the baseline of the second classifier's agreement.
        threshold: the SSIM above which an image counts as recognisable; by default, none are counted.
    """
    agreement = share_range(scores["agreement"])
    if "ssim" not in scores:
        return Scores(agreement=agreement, ssim=None, psnr=None, identified=None, judge=None)
    ssim, picked = scores["ssim"], scores["identified"]
    candidates = min(CANDIDATES, picked.shape[1])
    return Scores(
        agreement=agreement,
        ssim=SSIMRange(
            **dict(mean_range(ssim, POSSIBLE["ssim"])),
            p95=float(torch.quantile(ssim.double(), 0.95, dim=1).mean()),
            above_threshold=None if threshold is None else share_range(ssim > threshold),
        ),
        psnr=mean_range(scores["psnr"]),
        identified=IdentifiedRange(**dict(share_range(picked)), candidates=candidates, baseline=1 / candidates),
        judge=None
        if judge_baseline is None
        else JudgeRange(**dict(share_range(scores["judge"])), baseline=judge_baseline),
    )


def readings_range(column: str, measure: Literal["error", "accuracy"], scores: Tensor) -> RecoveredReadings:
    """Return the means of a column's scores ``(seeds, 2, n)``: those of an attack, and those of the best guess."""
    found, guessed = scores.double().unbind(1)
    within = (0.0, inf) if measure == "error" else (0.0, 1.0)
    return RecoveredReadings(
        column=column,
        measure=measure,
        score=mean_range(found, within),
        baseline=mean_range(guessed, within),
        gain=mean_range(guessed - found if measure == "error" else found - guessed),
    )


def leakages(found: Scores, baselines: Mapping[str, BaselineScores]) -> Leakages:
    """Return the leakage of the mean scores, each above its highest baseline."""

    def above(measure: Measure, score: SeedsRange | None) -> float | None:
        guesses = [guess for one in baselines.values() if (guess := getattr(one, measure)) is not None]
        return None if score is None or not guesses else leakage(score.mean, max(guesses))

    of_agreement = above("agreement", found.agreement)
    assert of_agreement is not None  # every guess has one
    return Leakages(
        ssim=above("ssim", found.ssim),
        agreement=of_agreement,
        above_threshold=above("above_threshold", found.ssim and found.ssim.above_threshold),
    )


def mean_range(scores: Tensor, within: Bounds = UNBOUNDED) -> SeedsRange:
    """Return the mean of real scores ``(seeds, n)``, which lie ``within`` bounds, with its interval."""
    return _range(of_mean(scores, within=within), scores)


def difference_bounds(metric: Metric) -> Bounds:
    """Return the smallest and the largest difference of two scores."""
    least, most = POSSIBLE[metric]
    return least - most, most - least


def share_range(scores: Tensor) -> SeedsRange:
    """Return the share of the scores ``(seeds, n)`` that are 1, with its interval."""
    return _range(of_share(scores), scores)


def _range(interval: Interval, scores: Tensor) -> SeedsRange:
    if len(scores) == 1:
        return SeedsRange(**asdict(interval), covers="images only")
    means = tuple(scores.double().mean(1).tolist())
    return SeedsRange(**asdict(interval), covers="images and seeds", of_seeds=means)
