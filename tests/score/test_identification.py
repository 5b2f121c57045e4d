"""Identification of one of 100 images: exact pictures, guesses, ties, and short lists."""

from __future__ import annotations

import math

import pytest
import torch

from cloven.errors import ClovenError
from cloven.score.identification import CANDIDATES, identified


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_exact_pictures_pick_themselves_also_where_the_last_list_is_not_full() -> None:
    for n in (2, 99, 100, 250):
        assert bool(identified(images(n), images(n), seed=0).all())


def test_contrast_and_brightness_do_not_matter() -> None:
    assert bool(identified(0.3 + 0.5 * images(150), images(150), seed=0).all())


@pytest.mark.parametrize("guess", [torch.full((3, 12, 12), 0.5), torch.zeros(3, 12, 12), images(1, seed=9)[0]])
def test_one_picture_for_all_picks_no_more_than_one_of_each_list(guess: torch.Tensor) -> None:
    """Also where the picture is the mean of all, which is most like each of them."""
    victims = images(400)
    for made in (guess, victims.mean(0)):
        assert int(identified(made.expand_as(victims), victims, seed=0).sum()) <= 400 / CANDIDATES


def test_pictures_of_others_are_at_chance() -> None:
    hits = identified(images(1000, seed=1), images(1000), seed=0)

    assert float(hits.float().mean()) <= 1 / CANDIDATES + 4 * math.sqrt(0.01 * 0.99 / 1000)


def test_a_faint_trace_beside_what_all_share_picks_its_image() -> None:
    common = images(1, seed=7)
    victims = 0.8 * common + 0.2 * images(200)
    made = (0.98 * victims.mean(0) + 0.02 * victims).clamp(0, 1)

    assert float(identified(made, victims, seed=0).float().mean()) == 1


def test_a_tie_is_no_hit() -> None:
    twins = images(30).repeat(2, 1, 1, 1)

    assert not bool(identified(twins, twins, seed=0).any())


def test_the_seed_draws_the_lists() -> None:
    made = (images(300) + 4 * images(300, seed=1)) / 5
    first, again, other = (identified(made, images(300), seed=seed) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 < int(first.sum()) < 300


def test_one_image_cannot_be_picked_out() -> None:
    with pytest.raises(ClovenError, match="identification needs at least 2 images, got 1"):
        identified(images(1), images(1), seed=0)
