"""Intervals of means over images: bootstrap for real-valued scores, Wilson's for a share of yes and no.

The images are the sample. Seeds of an attack are another source of spread; `clustered` and `unpaired` count both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.checks import check_lengths

CHUNK_VALUES = 2**20
"""Values drawn at a time (at least one resample)."""


@dataclass(frozen=True)
class Interval:
    """A mean and the interval about it: ``low <= mean <= high``."""

    mean: float
    low: float
    high: float


def bootstrap(values: Tensor, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Return the percentile bootstrap of the mean of real-valued scores ``(n,)``, one an image, n at least 2.

    Equal values give an interval of no width. For yes and no that overstates what is known, so bool is
    refused: see `wilson`.
    """
    _check_level(level)
    if resamples < 1:
        raise ClovenError(f"resamples must be 1 or more, got {resamples}; 2000 is usual")
    scores = _real(values)
    centre = float(scores.mean())
    low, high = _tails(_resampled_means(scores - centre, resamples, seed), level)
    return Interval(centre, centre + min(low, 0.0), centre + max(high, 0.0))


def clustered(values: Tensor, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Return the bootstrap of the mean of scores ``(s, n)`` of ``s`` seeds of an attack on ``n`` images, over both.

    Each resample draws seeds and images with replacement: what an attack scores depends on either. One seed says
    nothing about the spread over seeds; its interval is that of `bootstrap`. Yes and no are taken as 1 and 0.
    """
    _check_level(level)
    scores = _of_seeds(values)
    centre = float(scores.mean())
    means = _clustered_means(scores, resamples, torch.Generator().manual_seed(seed))
    low, high = _tails(means, level)
    return Interval(centre, min(low, centre), max(high, centre))


def over_seeds(values: Tensor, *, level: float = 0.95) -> Interval:
    """Return the mean of scores ``(s, n)`` of ``s`` seeds on ``n`` images, with a t-interval over both.

    The half width is the root of the sum of two squares: the standard error between seeds times t with ``s - 1``
    degrees of freedom, and that between images times the normal quantile. Scores of yes and no are taken as 1 and
    0, and their interval contains Wilson's over the images, which has some width where all are alike.

    Raises:
        ClovenError: for fewer than two seeds.
    """
    from scipy.stats import t

    _check_level(level)
    scores = _of_seeds(values)
    seeds, images = scores.shape
    if seeds < 2:
        raise ClovenError(f"an interval over seeds needs two or more, got {seeds}; use bootstrap or wilson")
    centre = float(scores.mean())
    tail = (1 + level) / 2
    of_seeds = float(t.ppf(tail, seeds - 1)) * float(scores.mean(1).std()) / math.sqrt(seeds)
    of_images = NormalDist().inv_cdf(tail) * float(scores.mean(0).std()) / math.sqrt(images)
    half = math.hypot(of_seeds, of_images)
    if bool(((values == 0) | (values == 1)).all()):
        least = wilson(round(centre * images), images, level)
        low, high = min(least.low, centre - half), max(least.high, centre + half)
        return Interval(centre, max(0.0, low), min(1.0, high))
    return Interval(centre, centre - half, centre + half)


def unpaired(a: Tensor, b: Tensor, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Return the bootstrap of the mean of ``a`` less that of ``b``: ``(s, n)`` and ``(t, m)`` of different images.

    Seeds and images are drawn with replacement on each side apart, as in `clustered`.
    """
    _check_level(level)
    one, other = _of_seeds(a), _of_seeds(b)
    centre = float(one.mean() - other.mean())
    generator = torch.Generator().manual_seed(seed)
    differences = _clustered_means(one, resamples, generator) - _clustered_means(other, resamples, generator)
    low, high = _tails(differences, level)
    return Interval(centre, min(low, centre), max(high, centre))


def paired(a: Tensor, b: Tensor, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Return the `bootstrap` of the mean of ``a - b``, two scores ``(n,)`` of the same images in the same order.

    Narrower than two separate intervals, for hard images are hard for both. Agreement (bool) may be compared;
    where no image differs the interval has no width, which does not prove that none would.
    """
    check_lengths("the first scores", a, "the second", b)
    return bootstrap(a.double() - b.double(), seed=seed, resamples=resamples, level=level)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion: inside [0, 1], of some width at 0 and at n successes too."""
    _check_level(level)
    if not 0 <= successes <= n or n < 1:
        raise ClovenError(
            f"successes must lie between 0 and n, and n be 1 or more, got {successes} of {n}; "
            "count agreement over at least one image"
        )
    from scipy.stats import binomtest  # takes most of a second to import

    found = binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ClovenError(f"level must lie between 0 and 1, got {level}; 0.95 is usual")


def _real(values: Tensor) -> Tensor:
    """Return the scores in float64 on the CPU, where the draws of a seed are always the same."""
    if values.ndim != 1 or len(values) < 2:
        raise ClovenError(
            f"an interval needs scores (n,) of at least 2 images, got the shape {tuple(values.shape)}; "
            "score more images"
        )
    if values.dtype == torch.bool or values.is_complex():
        raise ClovenError(
            f"bootstrap needs real-valued scores, got {values.dtype}; for yes and no use wilson(successes, n)"
        )
    scores = values.detach().to("cpu", torch.float64)
    if not bool(scores.isfinite().all()):
        broken = int((~scores.isfinite()).sum())
        raise ClovenError(
            f"scores must be finite, got NaN or infinity for {broken} of {len(scores)} images; "
            "look at what made them, a mean would hide it"
        )
    return scores


def _of_seeds(values: Tensor) -> Tensor:
    """Return scores ``(seeds, images)`` in float64; yes and no as 1 and 0."""
    if values.ndim != 2 or not len(values):
        raise ClovenError(f"scores (seeds, images) are needed, got the shape {tuple(values.shape)}")
    return torch.stack([_real(row.to(torch.float64)) for row in values])


def _clustered_means(scores: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    """Return means ``(resamples,)`` over seeds and images, both drawn with replacement."""
    count, images = scores.shape
    means = torch.empty(resamples, dtype=torch.float64)
    for i in range(resamples):
        rows = scores[torch.randint(count, (count,), generator=generator)].mean(0)
        means[i] = rows[torch.randint(images, (images,), generator=generator)].mean()
    return means


def _tails(means: Tensor, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _resampled_means(scores: Tensor, resamples: int, seed: int) -> Tensor:
    """Return means ``(resamples,)`` of n draws with replacement."""
    n = len(scores)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, CHUNK_VALUES // n)
    means = torch.empty(resamples, dtype=torch.float64)
    for chunk in (means[start : start + rows] for start in range(0, resamples, rows)):
        chunk.copy_(scores.take(torch.randint(n, (len(chunk), n), generator=generator)).mean(dim=1))
    return means
