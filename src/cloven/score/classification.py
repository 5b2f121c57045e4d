"""Scores of a classifier on labelled images: confusion matrix, recall of each class, macro-F1, and intervals.

Images of a time series are not independent: neighbours are alike. The intervals are therefore those of a bootstrap
in two stages (Davison and Hinkley, Bootstrap Methods and their Application, 1997, Sect. 3.8): in each class, groups
of neighbours are drawn with replacement, and in each drawn group images. The classifier is not trained again, so
that the intervals do not cover its training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.checks import check_classes, check_lengths
from cloven.score.intervals import LEVEL, Interval

DRAWS = 2000
"""The number of draws of the bootstrap."""


@dataclass(frozen=True, eq=False)
class Classification:
    """The scores of a classifier.

    Attributes:
        counts: ``(classes, classes)``, the number of images of each class (row) that got each class (column).
        accuracy: the share of images that got their own class.
        macro_f1: the mean F1 of the classes; a class counts as much as any other.
        recalls: the recall of each class.
    """

    counts: Tensor
    accuracy: Interval
    macro_f1: Interval
    recalls: tuple[Interval, ...]


def classification(
    predicted: Tensor, labels: Tensor, groups: Tensor, classes: int, *, draws: int = DRAWS, seed: int = 0
) -> Classification:
    """Return the scores of predicted classes ``(n,)``.

    Args:
        predicted: the predicted classes.
        labels: the classes of the images, ``(n,)``; each class occurs.
        groups: the group of each image, ``(n,)``; images of a group are neighbours, and of one class.
        classes: the number of classes.
        draws: the number of draws of the bootstrap.
        seed: the seed of the draws.

    Raises:
        ClovenError: for lengths that differ, for classes that are not from 0 to ``classes`` - 1, and for a class
            without images.
    """
    for name, values in (("the predicted classes", predicted), ("the labels", labels)):
        check_classes(name, values)
        if (most := int(values.max())) >= classes:
            raise ClovenError(f"{name} must be less than {classes}, got {most}")
    check_lengths("predicted classes", predicted, "labels", labels)
    check_lengths("predicted classes", predicted, "groups", groups)
    if lacking := sorted(set(range(classes)) - set(labels.tolist())):
        raise ClovenError(f"the labels must have images of all {classes} classes; class {lacking[0]} has none")
    places = labels * classes + predicted
    counts = places.bincount(minlength=classes**2).reshape(classes, classes)
    times = _times(labels, groups, draws, seed)
    drawn = torch.zeros(draws, classes**2, dtype=torch.float64).index_add_(1, places, times)
    drawn = drawn.reshape(draws, classes, classes)
    return Classification(
        counts,
        _interval(accuracy_of(counts), accuracy_of(drawn)),
        _interval(macro_f1(counts), macro_f1(drawn)),
        tuple(map(_interval, recalls(counts), recalls(drawn).T)),
    )


def accuracy_of(counts: Tensor) -> Tensor:
    """Return the accuracy ``(...)`` of confusion matrices ``(..., classes, classes)``."""
    return _right(counts).sum(-1) / counts.double().sum((-1, -2))


def recalls(counts: Tensor) -> Tensor:
    """Return the recall of each class ``(..., classes)`` of confusion matrices ``(..., classes, classes)``."""
    return _right(counts) / counts.double().sum(-1)


def macro_f1(counts: Tensor) -> Tensor:
    """Return the mean F1 of the classes ``(...)`` of confusion matrices ``(..., classes, classes)``.

    The F1 of a class is 2 TP / (2 TP + FP + FN), the harmonic mean of its recall and precision.
    """
    either = counts.double().sum(-1) + counts.double().sum(-2)
    return (2 * _right(counts) / either).mean(-1)


def _right(counts: Tensor) -> Tensor:
    return counts.double().diagonal(dim1=-2, dim2=-1)


def _times(labels: Tensor, groups: Tensor, draws: int, seed: int) -> Tensor:
    """Return how many times each image is drawn, ``(draws, n)``."""
    random, times = np.random.default_rng(seed), torch.zeros(draws, len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        own = groups[labels == label].unique()
        chosen = random.multinomial(len(own), np.full(len(own), 1 / len(own)), draws)
        for group, drawn in zip(own.tolist(), chosen.T, strict=True):
            images = ((labels == label) & (groups == group)).nonzero()[:, 0]
            count = len(images)
            of_each = random.multinomial(drawn * count, np.full(count, 1 / count))
            times[:, images] = torch.tensor(of_each, dtype=torch.float64)
    return times


def _interval(found: Tensor, drawn: Tensor) -> Interval:
    """Return a score and the percentile interval of its draws, which contains the score."""
    tail, score = (1 - LEVEL) / 2, float(found)
    low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(score, min(score, low), max(score, high))
