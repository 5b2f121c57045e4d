"""Intervals: closed formulas, coverage by simulation, and refusals."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from statistics import NormalDist
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score import intervals
from cloven.score.intervals import Interval, bootstrap, clustered, over_seeds, paired, unpaired, wilson

FINITE = st.floats(-10, 10)


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_interval_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Interval(0.5, 0.4, 0.6).mean = 1.0  # type: ignore[misc]


@given(values=st.lists(FINITE, min_size=2, max_size=40), seed=st.integers(0, 10**6))
def test_bootstrap_encloses_the_mean_and_stays_within_the_values(values: list[float], seed: int) -> None:
    got = bootstrap(torch.tensor(values, dtype=torch.float64), seed=seed, resamples=50)
    assert got.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert got.low <= got.mean <= got.high
    assert min(values) - 1e-9 <= got.low
    assert got.high <= max(values) + 1e-9


def test_bootstrap_is_the_same_for_one_seed_and_not_for_two() -> None:
    values = normal(50, 0)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_bootstrap_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    bootstrap(normal(10, 0), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_bootstrap_covers_the_mean_of_normal_data() -> None:
    covered = 0
    for trial in range(200):
        got = bootstrap(normal(100, trial), seed=trial, resamples=1000)
        covered += got.low <= 0 <= got.high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_is_as_wide_as_the_normal_approximation() -> None:
    values = normal(4000, 1)
    got = bootstrap(values, seed=0)
    half = 1.96 * float(values.std(correction=0)) / math.sqrt(len(values))
    assert got.low == pytest.approx(got.mean - half, abs=0.1 * half)
    assert got.high == pytest.approx(got.mean + half, abs=0.1 * half)


def test_a_higher_level_is_wider() -> None:
    values = normal(50, 0)
    narrow, wide = (bootstrap(values, seed=0, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_equal_values_have_no_width() -> None:
    got = bootstrap(torch.full((20,), 0.1, dtype=torch.float64), seed=0)
    assert (got.low, got.high) == pytest.approx((0.1, 0.1), abs=1e-15)


@pytest.mark.parametrize("budget", [1, 500])
def test_bootstrap_in_chunks_draws_as_many(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "CHUNK_VALUES", budget)
    assert intervals._resampled_means(normal(100, 0), 37, 0).shape == (37,)


def test_half_precision_scores_are_averaged_in_double() -> None:
    values = torch.full((4096,), 0.1, dtype=torch.float16)
    assert bootstrap(values, seed=0).mean == float(values[0])


def test_paired_is_the_bootstrap_of_the_differences() -> None:
    a, b = normal(60, 0), normal(60, 1)
    assert paired(a, b, seed=5) == bootstrap(a - b, seed=5)


def test_paired_sees_a_small_difference_between_images_that_differ_much() -> None:
    a = 10 * normal(100, 0)
    b = a - 0.1 + 0.05 * normal(100, 1)
    got, alone = paired(a, b, seed=0), bootstrap(a, seed=0)
    assert 0 < got.low < 0.1 < got.high + 0.02
    assert got.high - got.low < (alone.high - alone.low) / 20


def test_paired_takes_agreement() -> None:
    a, b = torch.tensor([True, True, False, True]), torch.tensor([True, False, False, False])
    assert paired(a, b, seed=0).mean == 0.5


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, table I: Wilson's score method without continuity correction."""
    got = wilson(successes, n)

    assert got.mean == successes / n
    assert (got.low, got.high) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 10_000), share=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_equals_its_formula(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    got = wilson(successes, n, level)
    z, p = NormalDist().inv_cdf((1 + level) / 2), successes / n
    centre, spread = (p + z * z / (2 * n)) / (1 + z * z / n), math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    half = z * spread / (1 + z * z / n)
    assert (got.low, got.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert 0 <= got.low <= got.mean <= got.high <= 1


def test_wilson_bounds_are_where_the_score_test_just_rejects() -> None:
    """The definition: |share - p| = z * sqrt(p (1 - p) / n) at both ends."""
    got = wilson(30, 100)
    for p in (got.low, got.high):
        assert abs(got.mean - p) == pytest.approx(1.959963985 * math.sqrt(p * (1 - p) / 100), abs=1e-9)


def test_wilson_has_width_where_all_images_agree_or_none_does() -> None:
    assert wilson(100, 100).low < 0.97
    assert wilson(100, 100).high == 1.0
    assert wilson(0, 100).low == 0.0
    assert wilson(0, 100).high > 0.03


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.97])
def test_wilson_covers_by_simulation(p: float) -> None:
    g = torch.Generator().manual_seed(0)
    drawn = (torch.rand(1000, 100, generator=g, dtype=torch.float64) < p).sum(dim=1).tolist()
    found = {successes: wilson(successes, 100) for successes in set(drawn)}
    covered = sum(found[successes].low <= p <= found[successes].high for successes in drawn)
    assert 0.91 <= covered / 1000 <= 0.99


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error(bad: float) -> None:
    values = normal(10, 0)
    values[3] = bad
    with pytest.raises(ClovenError, match="finite, got NaN or infinity for 1 of 10 images"):
        bootstrap(values, seed=0)
    with pytest.raises(ClovenError, match="finite"):
        paired(normal(10, 1), values, seed=0)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (torch.tensor([0.5]), {}, r"at least 2 images, got the shape \(1,\)"),
        (torch.rand(3, 2), {}, r"scores \(n,\).*got the shape \(3, 2\)"),
        (torch.tensor([True, False]), {}, r"real-valued.*wilson"),
        (torch.rand(3), {"level": 1.0}, "between 0 and 1, got 1.0"),
        (torch.rand(3), {"level": 95}, "between 0 and 1, got 95"),
        (torch.rand(3), {"resamples": 0}, "1 or more, got 0"),
    ],
)
def test_bootstrap_refuses(values: Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ClovenError, match=words):
        bootstrap(values, seed=0, **options)


def test_paired_refuses_other_images() -> None:
    with pytest.raises(ClovenError, match="same images, got 3 and 4"):
        paired(torch.rand(3), torch.rand(4), seed=0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ClovenError, match=f"got {successes} of {n}"):
        wilson(successes, n)
    with pytest.raises(ClovenError, match="level"):
        wilson(1, 2, 0)


class TestClustered:
    def test_one_seed_is_the_bootstrap_over_images(self) -> None:
        scores = torch.rand(1, 200, generator=torch.Generator().manual_seed(0))
        one, many = clustered(scores, seed=1), bootstrap(scores[0], seed=1)

        assert one.mean == pytest.approx(many.mean)
        assert one.low == pytest.approx(many.low, abs=0.005)
        assert one.high == pytest.approx(many.high, abs=0.005)

    def test_seeds_that_differ_widen_the_interval(self) -> None:
        scores = torch.rand(3, 400, generator=torch.Generator().manual_seed(0))
        apart = scores + torch.tensor([[-0.2], [0.0], [0.2]])

        assert clustered(apart, seed=0).mean == pytest.approx(clustered(scores, seed=0).mean, abs=1e-6)
        near, far = (found.high - found.low for found in (clustered(scores, seed=0), clustered(apart, seed=0)))
        assert far > 3 * near

    def test_yes_and_no_are_ones_and_zeros(self) -> None:
        found = clustered(torch.tensor([[True, False, True, True]] * 2), seed=0)

        assert found.mean == 0.75
        assert 0 <= found.low <= 0.75 <= found.high <= 1

    def test_scores_of_no_seed_are_refused(self) -> None:
        with pytest.raises(ClovenError, match=r"scores \(seeds, images\) are needed, got the shape \(5,\)"):
            clustered(torch.rand(5), seed=0)


class TestUnpaired:
    def test_it_covers_a_known_difference(self) -> None:
        """Of two shares, 0.6 of 200 images and 0.4 of 150, in 100 trials."""
        covered = 0
        g = torch.Generator().manual_seed(0)
        for trial in range(100):
            a, b = torch.rand(1, 200, generator=g) < 0.6, torch.rand(1, 150, generator=g) < 0.4
            found = unpaired(a, b, seed=trial, resamples=300)
            covered += found.low <= 0.2 <= found.high
        assert 88 <= covered <= 99

    def test_it_is_as_wide_as_the_normal_approximation(self) -> None:
        a, b = normal(1000, 0), 2 * normal(400, 1) - 1
        found = unpaired(a[None], b[None], seed=0)
        half = 1.96 * math.sqrt(float(a.var(correction=0)) / 1000 + float(b.var(correction=0)) / 400)

        assert found.mean == pytest.approx(float(a.mean() - b.mean()))
        assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
        assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)

    def test_it_is_wider_than_paired_on_the_same_images(self) -> None:
        a = normal(200, 0)
        b = a - 0.1 + 0.1 * normal(200, 1)
        apart, together = unpaired(a[None], b[None], seed=0), paired(a, b, seed=0)

        assert apart.mean == pytest.approx(together.mean)
        assert apart.high - apart.low > 5 * (together.high - together.low)

    def test_it_turns_round_with_its_sides(self) -> None:
        a, b = normal(60, 0)[None], normal(40, 1)[None]
        there, back = unpaired(a, b, seed=0), unpaired(b, a, seed=0)

        assert there.mean == pytest.approx(-back.mean)
        assert there.high - there.low == pytest.approx(back.high - back.low, rel=0.1)
        assert unpaired(a, b, seed=0) == there

    def test_seeds_that_differ_widen_the_interval(self) -> None:
        a, b = normal(300, 0).repeat(3, 1), normal(300, 1)[None]
        apart = a + torch.tensor([[-0.5], [0.0], [0.5]])
        near, far = (found.high - found.low for found in (unpaired(a, b, seed=0), unpaired(apart, b, seed=0)))

        assert far > 2 * near

    @pytest.mark.parametrize("bad", [torch.rand(5), torch.rand(2, 3, 4), torch.rand(0, 4)])
    def test_scores_of_no_seed_are_refused_on_either_side(self, bad: Tensor) -> None:
        good = torch.rand(1, 5)
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(ClovenError, match=r"scores \(seeds, images\) are needed, got the shape"):
                unpaired(*pair, seed=0)

    def test_one_image_and_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(ClovenError, match="at least 2 images"):
            unpaired(torch.rand(2, 1), torch.rand(1, 5), seed=0)
        with pytest.raises(ClovenError, match="finite"):
            unpaired(torch.rand(1, 5), torch.full((1, 5), math.nan), seed=0)
        with pytest.raises(ClovenError, match="level"):
            unpaired(torch.rand(1, 5), torch.rand(1, 5), seed=0, level=1)


class TestOverSeeds:
    """A t-interval over seeds and images."""

    def test_it_covers_the_spread_between_seeds(self) -> None:
        images = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3
        seeds = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
        found = over_seeds(seeds + images)

        half = 4.3027 * 0.1 / 3**0.5  # t of 97.5 % with two degrees of freedom
        assert found.high - found.mean == pytest.approx(half, rel=1e-3)
        assert found.mean - found.low == pytest.approx(half, rel=1e-3)

    def test_seeds_that_agree_leave_the_spread_between_images(self) -> None:
        images = torch.rand(1, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found, alone = over_seeds(images.expand(3, -1)), bootstrap(images[0], seed=0)

        assert found.high - found.low == pytest.approx(alone.high - alone.low, rel=0.05)

    def test_yes_and_no_have_some_width_at_both_ends(self) -> None:
        assert over_seeds(torch.ones(2, 50)) == wilson(50, 50)
        assert over_seeds(torch.zeros(2, 50)) == wilson(0, 50)

    def test_one_seed_says_nothing_of_others(self) -> None:
        with pytest.raises(ClovenError, match="an interval over seeds needs two or more, got 1"):
            over_seeds(torch.rand(1, 50))
