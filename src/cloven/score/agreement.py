"""Agreement of the CNN's classes of reconstructions and originals, and Cohen's kappa."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.checks import check_classes, check_lengths


def agreement(a: Tensor, b: Tensor) -> Tensor:
    """Return whether the class indices ``(n,)`` of ``a`` and ``b`` are equal: ``(n,)`` bool."""
    check_classes("the first classes", a)
    check_classes("the second classes", b)
    check_lengths("the first classes", a, "the second", b)
    return a == b


def kappa(a: Tensor, b: Tensor, classes: int) -> float:
    """Return Cohen's kappa of class indices ``(n,)``: agreement above that of the two class frequencies.

    1 is full agreement, 0 is chance, less than 0 is worse than chance. If both name the same single class for every
    image, kappa is 0 / 0; this function returns 0.0, since such an agreement carries no information.
    """
    equal = int(agreement(a, b).sum())
    highest = max(int(a.max()), int(b.max()))
    if highest >= classes:
        raise ClovenError(
            f"class indices must be less than the {classes} classes, got {highest}; count the model's outputs"
        )
    frequency_a, frequency_b = (torch.bincount(c, minlength=classes) for c in (a, b))
    by_chance = int((frequency_a * frequency_b).sum())  # n * n times the expected agreement: exact
    pairs = len(a) ** 2
    return 0.0 if by_chance == pairs else (len(a) * equal - by_chance) / (pairs - by_chance)


def modal_class(predicted: Tensor) -> int:
    """Return the most frequent class in ``(n,)`` class indices; the lowest of several."""
    check_classes("the classes", predicted)
    counts = Counter(sorted(predicted.tolist()))  # sorted, since the first of equal counts wins
    return int(counts.most_common(1)[0][0])
