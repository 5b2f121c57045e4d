"""Intervals: closed formulas, coverage by simulation, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.intervals import Interval, of_mean, of_share, paired, unpaired, wilson


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def width(found: Interval) -> float:
    return found.high - found.low


def test_an_interval_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Interval(0.5, 0.4, 0.6).mean = 1.0  # type: ignore[misc]


class Drawn:
    """Scores of a two-way random-effects model with known variances, drawn again and again."""

    def __init__(self, seeds: int, images: int, of_seed: float, of_image: float, noise: float) -> None:
        self.shape = seeds, images
        self.deviations = of_seed, of_image, noise

    def scores(self, seed: int) -> Tensor:
        """The scores ``(seeds, images)`` of a draw; their expectation is 0."""
        (seeds, images), (of_seed, of_image, noise) = self.shape, self.deviations
        rows = of_seed * normal(seeds, 1, seed=3 * seed) + of_image * normal(1, images, seed=3 * seed + 1)
        return rows + noise * normal(seeds, images, seed=3 * seed + 2)

    def coverage(self, interval: Callable[[Tensor], Interval], truth: float, draws: int = 600) -> float:
        found = (interval(self.scores(seed)) for seed in range(draws))
        return sum(one.low <= truth <= one.high for one in found) / draws


TOLERANCE = 4 * math.sqrt(0.95 * 0.05 / 600)
"""Four standard errors of a share of 95 % of 600 draws."""

SITUATIONS = {
    "images": Drawn(3, 60, 0.0, 1.0, 0.1),
    "seeds": Drawn(3, 60, 1.0, 0.1, 0.1),
    "both": Drawn(3, 60, 0.2, 1.0, 0.5),
    "noise": Drawn(3, 60, 0.0, 0.1, 1.0),
    "five seeds": Drawn(5, 60, 0.2, 1.0, 0.5),
}


class TestOfMean:
    """Of real-valued scores over seeds and images."""

    @pytest.mark.parametrize("situation", SITUATIONS)
    def test_it_covers_whatever_varies_most(self, situation: str) -> None:
        assert 0.93 - TOLERANCE <= SITUATIONS[situation].coverage(of_mean, 0.0) <= 0.97 + TOLERANCE

    def test_seeds_alone_are_the_usual_t_interval(self) -> None:
        seeds = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
        found = of_mean(seeds.expand(-1, 50))

        assert found.high - found.mean == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
        assert found.mean - found.low == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_images_alone_are_the_usual_t_interval(self, seeds: int) -> None:
        images = normal(1, 100, seed=0)
        found = of_mean(images.expand(seeds, -1))

        assert width(found) / 2 == pytest.approx(1.9842 * float(images.std()) / 10, rel=1e-4)

    def test_noise_of_seeds_and_images_counts_once(self) -> None:
        """Without effects of seeds or images, the variance of the mean is that of all scores over their number."""
        scores = normal(40, 40, seed=0)

        assert width(of_mean(scores)) / 2 == pytest.approx(2 / 40, rel=0.15)

    def test_one_seed_says_nothing_of_others(self) -> None:
        scores = SITUATIONS["seeds"].scores(0)

        assert width(of_mean(scores[:1])) < width(of_mean(scores)) / 5

    def test_equal_scores_have_no_width(self) -> None:
        found = of_mean(torch.full((2, 20), 0.1, dtype=torch.float64))

        assert (found.low, found.high) == pytest.approx((0.1, 0.1), abs=1e-9)

    def test_it_ends_where_scores_end(self) -> None:
        scores = torch.stack([torch.full((30,), level) for level in (0.6, 0.9)])
        free, ssim = of_mean(scores), of_mean(scores, within=(-1, 1))

        assert free.high > 1.5, "two seeds that differ"
        assert (ssim.mean, ssim.low, ssim.high) == (free.mean, max(-1, free.low), 1)

    def test_a_higher_level_is_wider(self) -> None:
        scores = normal(3, 50, seed=0)
        narrow, wide = (of_mean(scores, level=level) for level in (0.5, 0.99))

        assert wide.low < narrow.low < narrow.high < wide.high

    def test_half_precision_scores_are_averaged_in_double(self) -> None:
        values = torch.full((1, 4096), 0.1, dtype=torch.float16)

        assert of_mean(values).mean == float(values[0, 0])


class TestOfShare:
    """Of yes and no over seeds and images."""

    @pytest.mark.parametrize("share", [0.5, 0.9])
    def test_it_covers_by_simulation(self, share: float) -> None:
        """Yes where the score of the model exceeds a bound, which all its draws do with this probability."""
        drawn = Drawn(3, 60, 0.2, 1.0, 0.5)
        bound = -NormalDist(0, math.sqrt(0.2**2 + 1.0 + 0.5**2)).inv_cdf(share)

        found = drawn.coverage(lambda scores: of_share(scores > bound), share)
        assert 0.93 - TOLERANCE <= found <= 0.97 + TOLERANCE

    @given(share=st.floats(0, 1), seed=st.integers(0, 10**6))
    def test_it_holds_its_mean_and_stays_within_0_and_1(self, share: float, seed: int) -> None:
        yes = torch.rand(3, 20, generator=torch.Generator().manual_seed(seed)) < share
        found = of_share(yes)

        assert found.mean == pytest.approx(float(yes.double().mean()))
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert found.low < found.high

    def test_all_alike_are_as_many_images(self) -> None:
        assert of_share(torch.ones(3, 50)) == wilson(1, 50)
        assert of_share(torch.zeros(3, 50)) == wilson(0, 50)

    def test_one_seed_is_nearly_wilson(self) -> None:
        yes = (torch.arange(200) < 60)[None]

        assert width(of_share(yes)) == pytest.approx(width(wilson(0.3, 200)), rel=0.02)

    def test_seeds_that_differ_widen_it(self) -> None:
        alike = (torch.arange(300) < 150).expand(3, -1)
        apart = torch.stack([torch.arange(300) < count for count in (100, 150, 200)])

        assert width(of_share(apart)) > 3 * width(of_share(alike))

    def test_what_is_no_share_is_refused(self) -> None:
        with pytest.raises(ClovenError, match=r"shares must lie in \[0, 1\], got -0.5 to 1"):
            of_share(torch.tensor([[-0.5, 1.0]]))


class TestPaired:
    """Of differences on the same images."""

    def test_it_sees_a_small_difference_between_images_that_differ_much(self) -> None:
        a = 10 * normal(1, 100, seed=0)
        b = a - 0.1 + 0.05 * normal(1, 100, seed=1)
        got = paired(a, b)

        assert 0 < got.low < 0.1 < got.high + 0.02
        assert width(got) < width(of_mean(a)) / 20

    def test_seeds_that_differ_widen_it(self) -> None:
        b = normal(1, 100, seed=0).expand(3, -1)
        apart = b + torch.tensor([[0.0], [0.1], [0.2]])

        assert width(paired(b + 0.1, b)) < 1e-6
        assert paired(apart, b).low < 0 < paired(apart, b).high

    def test_as_many_seeds_as_both_have_are_compared(self) -> None:
        a, b = normal(3, 50, seed=0), normal(2, 50, seed=1)

        assert paired(a, b) == paired(a[:2], b)

    def test_it_takes_agreement(self) -> None:
        a, b = torch.tensor([[True, True, False, True]]), torch.tensor([[True, False, False, False]])

        assert paired(a, b).mean == 0.5

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(ClovenError, match="must speak of the same images, got 3 and 4"):
            paired(torch.rand(1, 3), torch.rand(1, 4))


class TestUnpaired:
    """Of differences on other images."""

    def test_it_covers_a_known_difference(self) -> None:
        """Of two shares, 0.6 of 200 images and 0.4 of 150, in 300 trials."""
        g = torch.Generator().manual_seed(0)
        covered = 0
        for _ in range(300):
            found = unpaired(torch.rand(1, 200, generator=g) < 0.6, torch.rand(1, 150, generator=g) < 0.4)
            covered += found.low <= 0.2 <= found.high
        assert covered / 300 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 300))

    def test_it_is_as_wide_as_the_usual_formula(self) -> None:
        a, b = normal(1, 1000, seed=0), 2 * normal(1, 400, seed=1) - 1
        found = unpaired(a, b)

        assert found.mean == pytest.approx(float(a.mean() - b.mean()))
        assert width(found) / 2 == pytest.approx(
            1.96 * math.sqrt(float(a.var()) / 1000 + float(b.var()) / 400), rel=0.01
        )

    def test_it_is_wider_than_paired_on_the_same_images(self) -> None:
        a = normal(1, 200, seed=0)
        b = a - 0.1 + 0.1 * normal(1, 200, seed=1)
        apart, together = unpaired(a, b), paired(a, b)

        assert apart.mean == pytest.approx(together.mean)
        assert width(apart) > 5 * width(together)

    def test_it_turns_round_with_its_sides(self) -> None:
        a, b = normal(2, 60, seed=0), normal(1, 40, seed=1)
        there, back = unpaired(a, b), unpaired(b, a)

        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))

    def test_seeds_that_differ_widen_it(self) -> None:
        a, b = normal(1, 300, seed=0).expand(3, -1), normal(1, 300, seed=1)
        apart = a + torch.tensor([[-0.5], [0.0], [0.5]])

        assert width(unpaired(apart, b)) > 2 * width(unpaired(a, b))


@pytest.mark.parametrize("interval", [of_mean, of_share])
def test_scores_that_say_nothing_are_refused(interval: Callable[..., Interval]) -> None:
    for bad in (torch.rand(5), torch.rand(2, 3, 4), torch.rand(0, 4)):
        with pytest.raises(ClovenError, match=r"scores \(seeds, images\) are needed, got the shape"):
            interval(bad)
    with pytest.raises(ClovenError, match="at least 2 images, got 1; score more images"):
        interval(torch.rand(2, 1))
    with pytest.raises(ClovenError, match="finite, got NaN or infinity for 1 of 3 images"):
        interval(torch.tensor([[0.1, math.nan, 0.2], [0.1, math.inf, 0.2]]))
    with pytest.raises(ClovenError, match="level must lie between 0 and 1, got 1"):
        interval(torch.rand(2, 4), level=1)


# --- Wilson -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, table I: Wilson's score method without continuity correction."""
    got = wilson(successes / n, n)

    assert got.mean == successes / n
    assert (got.low, got.high) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_bounds_are_where_the_score_test_just_rejects(n: int, share: float, level: float) -> None:
    """The definition: |share - p| = z * sqrt(p (1 - p) / n) at both ends."""
    got, z = wilson(share, n, level=level), NormalDist().inv_cdf((1 + level) / 2)

    assert 0 <= got.low <= got.mean <= got.high <= 1
    for p in (got.low, got.high):
        assert abs(share - p) == pytest.approx(z * math.sqrt(max(0.0, p * (1 - p)) / n), abs=1e-7)


def test_wilson_has_width_where_all_images_agree_or_none_does() -> None:
    assert wilson(1, 100).low < 0.97
    assert wilson(1, 100).high == 1.0
    assert wilson(0, 100).low == 0.0
    assert wilson(0, 100).high > 0.03


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.97])
def test_wilson_covers_by_simulation(p: float) -> None:
    g = torch.Generator().manual_seed(0)
    drawn = (torch.rand(1000, 100, generator=g, dtype=torch.float64) < p).sum(dim=1).tolist()
    found = {successes: wilson(successes / 100, 100) for successes in set(drawn)}
    covered = sum(found[successes].low <= p <= found[successes].high for successes in drawn)
    assert 0.91 <= covered / 1000 <= 0.99


@pytest.mark.parametrize(("share", "n"), [(1.1, 10), (-0.1, 10), (0.5, 0)])
def test_wilson_refuses(share: float, n: int) -> None:
    with pytest.raises(ClovenError, match=f"between 0 and 1, of more than 0 images; got {share} of {n}"):
        wilson(share, n)
