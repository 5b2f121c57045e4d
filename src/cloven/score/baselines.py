"""No-information baselines: the scores of guesses that ignore the observation.

The baselines of constant guesses belong to a set of victim images and are computed once (`guess_baselines`); that
of shuffled pairs belongs to one attack's reconstructions (`shuffled_baseline`). Its agreement is never above that
of the modal class, so that all attacks on an observation have one baseline of agreement. Its SSIM may be above that
of the constant guesses: an attack that learned nothing from what it observed may answer with a better constant than
those, and only its own answers to other images show that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.rows import TensorRows, chunks, permuted
from cloven.score.agreement import modal_class
from cloven.score.checks import check_classes, check_images, check_lengths, check_range
from cloven.score.similarity import CHUNK_VALUES, quantise, ssim


@dataclass(frozen=True)
class Baseline:
    """The mean scores of one guess that ignores the observation; ``ssim`` is None for a guess without an image.

    ``likeness`` is the SSIM of each image, ``(n,)``.
    """

    name: str
    ssim: float | None
    agreement: float
    likeness: Tensor | None = field(default=None, compare=False, repr=False)


@torch.no_grad()
def constant_guesses(auxiliary: TensorRows, domain: TensorRows) -> dict[str, Tensor]:
    """Return images ``(C, H, W)`` that can be guessed without an observation, from two sets of images.

    Both are ``(n, C, H, W)`` in [0, 1]. ``auxiliary`` are the images on which the attacker trains; ``domain`` are
    images of the victims' domain, without the victims.
    """
    check_images("auxiliary images", auxiliary)
    check_images("domain images", domain)
    if auxiliary.shape[1:] != domain.shape[1:]:
        raise ClovenError(
            f"auxiliary and domain images must have one shape, got {tuple(auxiliary.shape[1:])} and "
            f"{tuple(domain.shape[1:])}; resize to the input size of the model"
        )
    mean = _mean_image(domain)
    return {
        "auxiliary mean": _mean_image(auxiliary),
        "domain mean": mean,
        "black": torch.zeros_like(mean),
        "grey": torch.full_like(mean, 0.5),
    }


@torch.no_grad()
def guess_baselines(
    originals: TensorRows,
    classes_of_originals: Tensor,
    *,
    guesses: Mapping[str, Tensor],
    classify: Callable[[Tensor], Tensor],
) -> tuple[Baseline, ...]:
    """Return the baseline of each guess ``(C, H, W)`` against all originals ``(n, C, H, W)``, and the modal class.

    ``classify`` maps images ``(k, C, H, W)`` to class indices ``(k,)``, as it gave ``classes_of_originals``;
    it sees all guesses as one batch. Guesses are quantised first, as an answer in 8-bit pixels would be.
    """
    check_images("originals", originals)
    check_classes("the classes of the originals", classes_of_originals)
    check_lengths("originals", originals, "their classes", classes_of_originals)
    images = _stack(guesses, originals)
    count = len(originals)
    classes = classify(images)
    check_classes("the classes of the guesses", classes)
    check_lengths("guesses", images, "their classes", classes)
    likenesses = [ssim(image.expand(count, *image.shape), originals) for image in images]
    agreements = [_share(classes_of_originals, named) for named in classes.tolist()]
    modal = _share(classes_of_originals, modal_class(classes_of_originals))
    made = map(Baseline, guesses, map(_mean, likenesses), agreements, likenesses)
    return (*made, Baseline("modal class", None, modal))


@torch.no_grad()
def shuffled_baseline(
    originals: TensorRows,
    classes_of_originals: Tensor,
    reconstructions: TensorRows,
    classes_of_reconstructions: Tensor,
    *,
    seed: int,
) -> Baseline:
    """Return the score of reconstructions ``(n, C, H, W)`` against the originals of *other* images, n at least 2.

    The pairing is a random cycle through all images, so that none is paired with its own. The agreement is that of
    all pairs of two images drawn at random, with repetition: the chance agreement of Cohen's kappa.
    """
    check_lengths("originals", originals, "reconstructions", reconstructions)
    check_lengths("originals", originals, "their classes", classes_of_originals)
    if len(originals) < 2:
        raise ClovenError(f"shuffled pairs need at least 2 images, got {len(originals)}; score more images")
    likeness = ssim(permuted(originals, _derangement(len(originals), seed)), reconstructions)
    equal = _chance(classes_of_originals, classes_of_reconstructions)
    return Baseline("shuffled pairs", _mean(likeness), equal, likeness)


def _chance(one: Tensor, other: Tensor) -> float:
    """Return how often a class ``(n,)`` drawn from one equals one drawn from another ``(n,)``."""
    check_lengths("classes of originals", one, "of reconstructions", other)
    for name, classes in (("the classes of the originals", one), ("the classes of the reconstructions", other)):
        check_classes(name, classes)
    number = 1 + int(torch.maximum(one.max(), other.max()))
    shares = [classes.bincount(minlength=number).double() / len(classes) for classes in (one, other)]
    return float(shares[0] @ shares[1])


def best(baselines: Iterable[Baseline]) -> Baseline:
    """Return the baseline to hold a score against: the highest SSIM and the highest agreement, each over all."""
    every = tuple(baselines)
    if not every:
        raise ClovenError("baselines must hold at least one, got none; compute guess_baselines() first")
    similarities = [one.ssim for one in every if one.ssim is not None]
    return Baseline("best", max(similarities, default=None), max(one.agreement for one in every))


def _mean_image(images: TensorRows) -> Tensor:
    """Return ``(C, H, W)`` float32, summed in float64 chunk by chunk."""
    total = torch.zeros(images.shape[1:], dtype=torch.float64)
    for chunk in chunks(images, max(1, CHUNK_VALUES // prod(images.shape[1:]))):
        check_range(chunk)
        total = total.to(chunk.device) + chunk.double().sum(dim=0)
    return (total / len(images)).float()


def _stack(guesses: Mapping[str, Tensor], originals: TensorRows) -> Tensor:
    """Return the guesses quantised, ``(k, C, H, W)``, on the originals' device."""
    if not guesses:
        raise ClovenError("guesses must name at least one image, got none; take constant_guesses()")
    for name, guess in guesses.items():
        if guess.shape != originals.shape[1:]:
            raise ClovenError(
                f"the guess '{name}' must have the shape of one original, {tuple(originals.shape[1:])}, "
                f"got {tuple(guess.shape)}; make it from images of the same input size"
            )
    stacked = torch.stack(list(guesses.values()))
    return quantise(stacked.to(originals.device) if isinstance(originals, Tensor) else stacked)


def _derangement(n: int, seed: int) -> Tensor:
    """Return ``(n,)``, a random cyclic permutation, which moves every element."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other


def _share(classes: Tensor, of: int) -> float:
    return _mean(classes == of)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
