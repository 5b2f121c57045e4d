"""Observations that say nothing of the image: no attack scores above the best guess by more than its interval.

Every attack of this package is tried on ciphertext, noise, constants, and on what was captured of other images, and
scored by likeness, by class and by the image that is picked out of others. Each comparison is at the level that
makes one false alarm among all of them less likely than 1 in 100 (Bonferroni); the draws are seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cloven.attacks.attack import Attack
from cloven.attacks.knowledge import Knowledge, LabelReader, QueryResult, SharePlace, in_memory
from cloven.attacks.registry import NAMED, load
from cloven.auditing.suite import OF_TILES
from cloven.errors import ClovenError
from cloven.score import (
    agreement,
    best,
    constant_guesses,
    guess_baselines,
    identified,
    of_mean,
    of_share,
    quantise,
    shuffled_baseline,
    ssim,
)
from cloven.score.intervals import Interval
from tests.attacks.problems import blobs, front, generator

PAIRS, VICTIMS = 60, 80
IMAGES, ATTACKED = blobs(PAIRS, 1), blobs(VICTIMS, 2)
REAR = torch.randn(6 * 8 * 8, 4, generator=generator(12))
LEVEL = 1 - 2 * 0.01 / (len(NAMED) * 4 * 3)
"""Of an interval whose lower end alone is looked at: attacks, observations, scores."""


def rear(captured: Sequence[Tensor]) -> Tensor:
    """The model behind the tap: four classes."""
    return (captured[0] - captured[0].mean(0)).flatten(1) @ REAR


def classify(images: Tensor) -> Tensor:
    return (front(images)[0] - front(IMAGES)[0].mean(0)).flatten(1).matmul(REAR).argmax(1)


def ciphertext(images: Tensor, seed: int) -> Tensor:
    """Bytes that no two messages have in common, read as numbers."""
    size = front(images)[0].shape
    return torch.randint(0, 256, size, generator=generator(seed)).float()


def noise(images: Tensor, seed: int) -> Tensor:
    return torch.randn(front(images)[0].shape, generator=generator(seed))


def constant(images: Tensor, seed: int) -> Tensor:
    return torch.full_like(front(images)[0], 0.5)


def shuffled(images: Tensor, seed: int) -> Tensor:
    """Return the captured tensors of other images."""
    return front(blobs(len(images), 100 + seed))[0]


def clear(images: Tensor, seed: int) -> Tensor:
    """Return the captured tensors of an unprotected link."""
    return front(images)[0]


See = Callable[[Tensor, int], Tensor]
WORTHLESS: tuple[See, ...] = (ciphertext, noise, constant, shuffled)


def known(see: See) -> Knowledge:
    """All that an attacker may have, with the model itself; the tap alone is worthless."""
    captured, observed = see(IMAGES, 3), see(ATTACKED, 4)
    place = SharePlace("map", (0, 0, 0), tuple(captured.shape[1:]))
    return Knowledge(
        tuple(IMAGES.shape[1:]),
        auxiliary=IMAGES,
        captured=in_memory(captured),
        classes=classify(IMAGES),
        observed=in_memory(observed),
        query=lambda images: QueryResult([see(images, 5)], classify(images)),
        front=front,
        rear=rear,
        places=(place,),
        seed=6,
    )


def quick(attack: Any) -> Any:
    """The same attack, stopped early."""
    if not is_dataclass(attack) or isinstance(attack, type):
        return attack
    changed = {}
    for field in fields(attack):
        value = getattr(attack, field.name)
        if field.name in ("epochs", "steps", "rounds") and isinstance(value, int):
            changed[field.name] = min(value, 2)
        elif is_dataclass(value):
            changed[field.name] = quick(value)
    return replace(attack, **changed)


def excess(attack: Attack, see: See) -> dict[str, tuple[Interval, float]]:
    """Return each score with its interval, and the best guess."""
    learned = attack.fit(known(see), generator=generator(7), device="cpu")
    truth, seen = classify(ATTACKED), [see(ATTACKED, 4)]
    guesses = constant_guesses(IMAGES, blobs(200, 8))
    floors = guess_baselines(ATTACKED, truth, guesses=guesses, classify=classify)
    if isinstance(learned, LabelReader):
        read = learned.classify(seen)
        other = shuffled_baseline(ATTACKED, truth, ATTACKED, read, seed=9)
        guessed = best((*floors, other)).agreement
        return {"agreement": (of_share(agreement(read, truth)[None], level=LEVEL), guessed)}
    made = quantise(learned(seen))
    named = classify(made)
    floor = best((*floors, shuffled_baseline(ATTACKED, truth, made, named, seed=9)))
    assert floor.ssim is not None
    picked = identified(made, ATTACKED, seed=9)
    return {
        "ssim": (of_mean(ssim(made, ATTACKED)[None], level=LEVEL), floor.ssim),
        "agreement": (of_share(agreement(named, truth)[None], level=LEVEL), floor.agreement),
        "identified": (of_share(picked[None], level=LEVEL), 1 / VICTIMS),
    }


OTHERS = [name for name in NAMED if name not in OF_TILES]


@pytest.mark.parametrize("see", WORTHLESS)
@pytest.mark.parametrize("name", OTHERS)
def test_an_early_attack_finds_nothing_where_there_is_nothing(name: str, see: See) -> None:
    for score, (found, floor) in excess(quick(load(name)), see).items():
        assert found.low <= floor, score


@pytest.mark.slow
@pytest.mark.parametrize("see", WORTHLESS)
@pytest.mark.parametrize("name", OTHERS)
def test_no_attack_finds_anything_where_there_is_nothing(name: str, see: See) -> None:
    for score, (found, floor) in excess(load(name), see).items():
        assert found.low <= floor, score


@pytest.mark.parametrize("see", WORTHLESS)
@pytest.mark.parametrize("name", sorted(OF_TILES))
def test_attacks_on_pieces_of_the_image_find_none(name: str, see: See) -> None:
    with pytest.raises(ClovenError, match="show none; use an attack on features"):
        excess(load(name), see)


@pytest.mark.parametrize("name", ["nearest", "screen"])
def test_what_there_is_they_find(name: str) -> None:
    """The same test at the same level sees a leak."""
    found = excess(load(name), clear)

    assert all(score.low > floor for score, floor in (found["ssim"], found["identified"]))
