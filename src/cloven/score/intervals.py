"""Intervals of means over seeds of an attack and over images, the two samples that every score is of.

Scores are ``(s, n)``: of ``s`` seeds of an attack on the same ``n`` images. With one seed an interval is over
images only. ``python -m benchmarks.coverage`` measures how often they cover, of trained attacks on real images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.checks import check_lengths

LEVEL = 0.95

Bounds = tuple[float, float]
"""The lowest and the highest value that a score, or a difference, can have."""

UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """A mean and the interval about it: ``low <= mean <= high``."""

    mean: float
    low: float
    high: float


def of_mean(scores: Tensor, *, within: Bounds = UNBOUNDED, level: float = LEVEL) -> Interval:
    """Return the mean of real-valued scores ``(s, n)`` and its interval over seeds and images, n at least 2.

    A score is the sum of an effect of its seed, one of its image, and noise of the two: a two-way random-effects
    model (Searle, Casella and McCulloch, Variance Components, 1992, Sect. 4.5). The variance of the mean has two
    parts: that between the means of seeds, over ``s``, with ``s - 1`` degrees of freedom; and that between the
    means of images, over ``n``, less the noise that the first part has already, with ``n - 1``. Its root is
    multiplied by a quantile of t half-way between two that are known to be too low and too high where the parts are
    alike: that of Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946, Eq. 17), and the mean of the
    quantiles of the parts, weighted with them (Cochran, Biometrics 20, 1964). Scores that are all equal give an
    interval of no width. The interval is cut off at the values ``within`` which a score lies.

    Raises:
        ClovenError: for scores of another shape, and for NaN or infinity.
    """
    rows = _rows(scores)
    return _about(float(rows.mean()), _uncertainty(_variances(rows), level), within)


def of_share(scores: Tensor, *, level: float = LEVEL) -> Interval:
    """Return the share of yes ``(s, n)``, or the mean of shares in [0, 1], and its interval over seeds and images.

    It is Wilson's, inside [0, 1], of as many images as would give the variance that `of_mean` finds, and with its
    quantile; where all scores are equal, of ``n`` images. See Kott, Andersson and Nerman, Two-Sided Coverage
    Intervals for Small Proportions Based on Survey Data, FCSM 2001.

    Raises:
        ClovenError: for scores of another shape, or outside [0, 1].
    """
    rows = _rows(scores)
    if not bool(((rows >= 0) & (rows <= 1)).all()):
        raise ClovenError(f"shares must lie in [0, 1], got {float(rows.min()):g} to {float(rows.max()):g}")
    share, found = float(rows.mean()), _uncertainty(_variances(rows), level)
    if not found.variance:
        return wilson(share, rows.shape[1], level=level)
    return wilson(share, share * (1 - share) / found.variance, quantile=found.quantile, level=level)


def paired(a: Tensor, b: Tensor, *, within: Bounds = UNBOUNDED, level: float = LEVEL) -> Interval:
    """Return the mean of ``a - b`` and its interval: ``(s, n)`` and ``(t, n)``, of the same images in order.

    It is that of `of_mean` for the differences seed by seed, of as many seeds as both have. Images that are hard
    for both make no difference, so that it is narrower than two separate intervals. Where no image differs it has
    no width, which does not prove that none would. ``within`` are the values that a difference can have.
    """
    one, other = _rows(a), _rows(b)
    check_lengths("the first scores", one.T, "the second", other.T)
    seeds = min(len(one), len(other))
    return of_mean(one[:seeds] - other[:seeds], within=within, level=level)


def unpaired(a: Tensor, b: Tensor, *, within: Bounds = UNBOUNDED, level: float = LEVEL) -> Interval:
    """Return the mean of ``a`` less that of ``b`` and its interval: ``(s, n)`` and ``(t, m)``, of other images.

    The variances between seeds and between images of both sides are added; see `of_mean`.
    """
    one, other = _rows(a), _rows(b)
    found = _uncertainty([*_variances(one), *_variances(other)], level)
    return _about(float(one.mean() - other.mean()), found, within)


def wilson(share: float, n: float, *, quantile: float | None = None, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a proportion of ``n``: inside [0, 1], of some width at 0 and at 1 too.

    ``quantile`` stands for the normal one where the variance is not known as exactly as that of ``n`` draws is.
    """
    _check_level(level)
    if not 0 <= share <= 1 or not n > 0:
        raise ClovenError(f"a share must lie between 0 and 1, of more than 0 images; got {share} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2) if quantile is None else quantile
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


class _Variance(NamedTuple):
    """A part of the variance of a mean, as it is estimated, and the degrees of freedom of the estimate."""

    value: float
    freedom: int


class _Uncertainty(NamedTuple):
    """The variance of a mean, and what its root is multiplied by."""

    variance: float
    quantile: float


def _variances(rows: Tensor) -> list[_Variance]:
    """Return the parts of the variance of the mean of ``(s, n)``: between seeds, if there are any, and images."""
    seeds, images = rows.shape
    of_images = float(rows.mean(0).var()) / images
    if seeds == 1:
        return [_Variance(of_images, images - 1)]
    noise = rows - rows.mean(0, keepdim=True) - rows.mean(1, keepdim=True) + rows.mean()
    counted = float(noise.square().sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
    return [
        _Variance(float(rows.mean(1).var()) / seeds, seeds - 1),
        _Variance(max(0.0, of_images - counted), images - 1),
    ]


def _uncertainty(parts: Sequence[_Variance], level: float) -> _Uncertainty:
    """Return the sum of the parts, and the quantile of t that belongs to it; see `of_mean`."""
    from scipy.special import stdtrit

    _check_level(level)
    variance, tail = sum(part.value for part in parts), (1 + level) / 2
    if not variance:
        return _Uncertainty(0.0, 0.0)
    weights = [part.value / variance for part in parts]
    satterthwaite = 1 / sum(weight**2 / part.freedom for weight, part in zip(weights, parts, strict=True))
    cochran = sum(weight * stdtrit(part.freedom, tail) for weight, part in zip(weights, parts, strict=True))
    return _Uncertainty(variance, float(stdtrit(satterthwaite, tail) + cochran) / 2)


def _about(centre: float, found: _Uncertainty, within: Bounds) -> Interval:
    half, (least, most) = found.quantile * math.sqrt(found.variance), within
    return Interval(centre, min(centre, max(least, centre - half)), max(centre, min(most, centre + half)))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ClovenError(f"level must lie between 0 and 1, got {level}; {LEVEL} is usual")


def _rows(scores: Tensor) -> Tensor:
    """Return scores ``(seeds, images)`` in float64 on the CPU; yes and no as 1 and 0."""
    if scores.ndim != 2 or not len(scores):
        raise ClovenError(f"scores (seeds, images) are needed, got the shape {tuple(scores.shape)}")
    if scores.shape[1] < 2:
        raise ClovenError(
            f"an interval needs scores of at least 2 images, got {scores.shape[1]}; score more images"
        )
    rows = scores.detach().to("cpu", torch.float64)
    if not bool(rows.isfinite().all()):
        broken = int((~rows.isfinite()).any(0).sum())
        raise ClovenError(
            f"scores must be finite, got NaN or infinity for {broken} of {rows.shape[1]} images; "
            "look at what made them, a mean would hide it"
        )
    return rows
