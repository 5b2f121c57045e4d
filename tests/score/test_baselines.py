"""Baselines on real digits, and the scores of perfect reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from cloven.errors import ClovenError
from cloven.leakage_scale import leakage
from cloven.score import baselines as baselines_module
from cloven.score.agreement import agreement
from cloven.score.baselines import (
    Baseline,
    best,
    constant_guesses,
    guess_baselines,
    shuffled_baseline,
)
from cloven.score.similarity import quantise, ssim


class Digits(NamedTuple):
    """Three disjoint sets of digits, and a classifier that knows the first."""

    auxiliary: Tensor
    domain: Tensor
    victims: Tensor
    classes: Tensor
    classify: Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    images = quantise(interpolate(small, size=(28, 28), mode="bilinear"))
    labels = torch.tensor(data.target)
    auxiliary, domain, victims = images[:800], images[800:1400], images[1400:]
    means = torch.stack([auxiliary[labels[:800] == digit].mean(dim=0) for digit in range(10)]).flatten(1)

    def classify(batch: Tensor) -> Tensor:
        return torch.cdist(batch.flatten(1), means).argmin(dim=1)

    return Digits(auxiliary, domain, victims, classify(victims), classify)


@pytest.fixture(scope="module")
def guessed(digits: Digits) -> tuple[Baseline, ...]:
    guesses = constant_guesses(digits.auxiliary, digits.domain)
    return guess_baselines(digits.victims, digits.classes, guesses=guesses, classify=digits.classify)


def test_guesses_are_means_and_plain_images(digits: Digits) -> None:
    guesses = constant_guesses(digits.auxiliary, digits.domain)
    assert list(guesses) == ["auxiliary mean", "domain mean", "black", "grey"]
    assert {guess.shape for guess in guesses.values()} == {(1, 28, 28)}
    assert torch.allclose(guesses["auxiliary mean"], digits.auxiliary.mean(dim=0), atol=1e-5)
    assert torch.allclose(guesses["domain mean"], digits.domain.mean(dim=0), atol=1e-5)
    assert set(guesses["black"].flatten().tolist()) == {0.0}
    assert set(guesses["grey"].flatten().tolist()) == {0.5}


def test_mean_images_do_not_depend_on_the_chunk(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = constant_guesses(digits.auxiliary, digits.domain)
    monkeypatch.setattr(baselines_module, "CHUNK_VALUES", 1)
    for name, guess in constant_guesses(digits.auxiliary, digits.domain).items():
        assert torch.allclose(guess, expected[name], rtol=0, atol=1e-7)


def test_a_guess_scores_its_mean_over_all_victims(digits: Digits, guessed: tuple[Baseline, ...]) -> None:
    mean = quantise(constant_guesses(digits.auxiliary, digits.domain)["domain mean"].unsqueeze(0))
    floor = next(floor for floor in guessed if floor.name == "domain mean")
    copies = mean.repeat(len(digits.victims), 1, 1, 1)
    assert floor.ssim == pytest.approx(float(ssim(copies, digits.victims).mean()), abs=1e-12)
    equal = agreement(digits.classify(copies), digits.classes)
    assert floor.agreement == pytest.approx(float(equal.double().mean()))


def test_every_floor_is_named_and_in_range(digits: Digits, guessed: tuple[Baseline, ...]) -> None:
    shuffled = shuffled_baseline(digits.victims, digits.classes, digits.victims, digits.classes, seed=0)
    assert [f.name for f in guessed] == ["auxiliary mean", "domain mean", "black", "grey", "modal class"]
    assert shuffled.name == "shuffled pairs"
    for floor in (*guessed, shuffled):
        assert floor.ssim is None or -1 <= floor.ssim <= 1
        assert 0 <= floor.agreement <= 1


def test_no_constant_guess_agrees_more_often_than_the_modal_class(guessed: tuple[Baseline, ...]) -> None:
    *guesses, modal = guessed
    assert modal.ssim is None
    assert max(floor.agreement for floor in guesses) <= modal.agreement


def test_the_mean_digit_is_a_better_guess_than_black_or_grey(guessed: tuple[Baseline, ...]) -> None:
    ssim_of = {floor.name: floor.ssim for floor in guessed if floor.ssim is not None}
    assert ssim_of["domain mean"] > max(ssim_of["black"], ssim_of["grey"])


def test_shuffled_pairs_score_below_identity(digits: Digits) -> None:
    shuffled = shuffled_baseline(digits.victims, digits.classes, digits.victims, digits.classes, seed=0)
    assert shuffled.ssim is not None
    assert shuffled.ssim < 0.5 < float(ssim(digits.victims, digits.victims).mean())
    assert shuffled.agreement < 0.3


def test_shuffled_pairs_differ_by_seed_only(digits: Digits) -> None:
    scores = [
        shuffled_baseline(digits.victims, digits.classes, digits.victims, digits.classes, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert scores[0] == scores[1] != scores[2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_shuffled_pairs_never_agree_more_often_than_the_modal_class(pairs: list[tuple[int, int]]) -> None:
    originals, read = torch.tensor(pairs).unbind(1)
    images = torch.rand(len(pairs), 1, 12, 12, generator=torch.Generator().manual_seed(0))
    found = shuffled_baseline(images, originals, images, read, seed=0).agreement

    assert found == pytest.approx(float((originals[:, None] == read).double().mean())), "that of all pairs"
    assert found <= float(originals.bincount().max()) / len(pairs) + 1e-12


def test_a_perfect_reconstruction_leaks_all_and_the_best_guess_nothing(
    digits: Digits, guessed: tuple[Baseline, ...]
) -> None:
    perfect = digits.victims.clone()
    floor = best([*guessed, shuffled_baseline(digits.victims, digits.classes, perfect, digits.classes, seed=0)])
    assert floor.ssim is not None
    assert leakage(float(ssim(perfect, digits.victims).mean()), floor.ssim) == pytest.approx(1.0)
    assert leakage(1.0, floor.agreement) == 1.0

    guesses = constant_guesses(digits.auxiliary, digits.domain)
    for guess in guesses.values():
        guessing = quantise(guess.unsqueeze(0)).expand_as(digits.victims)
        classes = digits.classify(guessing)
        floor = best([*guessed, shuffled_baseline(digits.victims, digits.classes, guessing, classes, seed=0)])
        assert floor.ssim is not None
        assert leakage(float(ssim(guessing, digits.victims).mean()), floor.ssim) <= 1e-12
        assert leakage(float(agreement(classes, digits.classes).double().mean()), floor.agreement) <= 1e-12


def test_a_blurred_reconstruction_lies_between(digits: Digits, guessed: tuple[Baseline, ...]) -> None:
    blurred = interpolate(interpolate(digits.victims, size=(7, 7), mode="area"), size=(28, 28), mode="bilinear")
    floor = best(guessed).ssim
    assert floor is not None
    assert 0 < leakage(float(ssim(blurred, digits.victims).mean()), floor) < 1


@given(n=st.integers(2, 200), seed=st.integers(0, 10**6))
def test_no_image_meets_its_own_reconstruction(n: int, seed: int) -> None:
    other = baselines_module._derangement(n, seed)
    assert sorted(other.tolist()) == list(range(n))
    assert not bool((other == torch.arange(n)).any())


def test_derangements_reach_every_other_image() -> None:
    partners = {int(baselines_module._derangement(5, seed)[0]) for seed in range(100)}
    assert partners == {1, 2, 3, 4}


def test_classify_sees_the_guesses_once_in_8_bit_pixels() -> None:
    batches: list[Tensor] = []

    def classify(batch: Tensor) -> Tensor:
        batches.append(batch)
        return torch.zeros(len(batch), dtype=torch.long)

    guesses = {"a": torch.full((1, 12, 12), 0.3001), "b": torch.full((1, 12, 12), 0.5)}
    guess_baselines(torch.rand(4, 1, 12, 12), torch.zeros(4, dtype=torch.long), guesses=guesses, classify=classify)
    assert [batch.shape for batch in batches] == [(2, 1, 12, 12)]
    assert torch.equal(batches[0], quantise(batches[0]))


def test_best_takes_each_score_from_its_own_floor() -> None:
    floors = [Baseline("a", 0.2, 0.1), Baseline("b", 0.1, 0.3), Baseline("modal class", None, 0.25)]
    assert best(floors) == Baseline("best", 0.2, 0.3)
    assert best(iter(floors)) == best(floors)
    assert best(floors[-1:]) == Baseline("best", None, 0.25)


def test_best_of_none_is_refused() -> None:
    with pytest.raises(ClovenError, match="baselines must hold at least one, got none"):
        best([])


@given(score=st.floats(-1, 1), floor=st.floats(-1, 0.99))
def test_leakage_above_the_floor(score: float, floor: float) -> None:
    leak = leakage(score, floor)
    assert leak <= 1
    assert (leak > 0) == (score > floor)
    assert leakage(1.0, floor) == 1.0
    assert leakage(floor, floor) == 0.0


@pytest.mark.parametrize("floor", [1.0, 1.0000001])
def test_nothing_lies_above_a_floor_of_one(floor: float) -> None:
    assert leakage(1.0, floor) == 0.0


IMAGES = torch.full((3, 1, 12, 12), 0.5)
CLASSES = torch.tensor([0, 1, 2])


def zeros(batch: Tensor) -> Tensor:
    return torch.zeros(len(batch), dtype=torch.long)


@pytest.mark.parametrize(
    ("guesses", "classify", "words"),
    [
        ({}, zeros, "at least one image, got none"),
        ({"odd": torch.zeros(3, 12, 12)}, zeros, r"'odd' must have.*\(1, 12, 12\), got \(3, 12, 12\)"),
        ({"a": IMAGES[0]}, lambda batch: torch.zeros(len(batch), 10), "classes of the guesses.*argmax"),
        ({"a": IMAGES[0]}, lambda batch: CLASSES, "same images, got 1 and 3"),
    ],
)
def test_guess_floors_refuse(guesses: dict[str, Tensor], classify: Callable[[Tensor], Tensor], words: str) -> None:
    with pytest.raises(ClovenError, match=words):
        guess_baselines(IMAGES, CLASSES, guesses=guesses, classify=classify)


def test_floors_refuse_classes_of_other_images() -> None:
    with pytest.raises(ClovenError, match="got 3 and 2"):
        guess_baselines(IMAGES, CLASSES[:2], guesses={"a": IMAGES[0]}, classify=zeros)
    with pytest.raises(ClovenError, match="got 3 and 2"):
        shuffled_baseline(IMAGES, CLASSES[:2], IMAGES, CLASSES, seed=0)
    with pytest.raises(ClovenError, match="got 3 and 2"):
        shuffled_baseline(IMAGES, CLASSES, IMAGES[:2], CLASSES, seed=0)
    with pytest.raises(ClovenError, match="got 3 and 2"):
        shuffled_baseline(IMAGES, CLASSES, IMAGES, CLASSES[:2], seed=0)


def test_one_image_cannot_be_shuffled() -> None:
    with pytest.raises(ClovenError, match="at least 2 images, got 1"):
        shuffled_baseline(IMAGES[:1], CLASSES[:1], IMAGES[:1], CLASSES[:1], seed=0)


def test_guesses_of_two_sizes_are_refused() -> None:
    with pytest.raises(ClovenError, match="one shape"):
        constant_guesses(IMAGES, IMAGES[..., :11])
    with pytest.raises(ClovenError, match=r"lie in \[0, 1\]"):
        constant_guesses(IMAGES + 1, IMAGES)
