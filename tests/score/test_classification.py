"""Scores of classifiers: confusion, recall and macro-F1 by hand, and intervals of neighbours."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import f1_score, recall_score
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.classification import Classification, classification, macro_f1


def scored(predicted: list[int], labels: list[int], groups: list[int] | None = None) -> Classification:
    own = list(range(len(labels))) if groups is None else groups
    return classification(torch.tensor(predicted), torch.tensor(labels), torch.tensor(own), 3)


def random_classes(count: int, seed: int) -> Tensor:
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))


def test_counts_and_scores() -> None:
    found = scored([0, 0, 1, 1, 2, 0], [0, 0, 0, 1, 1, 2])

    assert found.counts.tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert found.accuracy.mean == pytest.approx(3 / 6)
    assert [one.mean for one in found.recalls] == pytest.approx([2 / 3, 1 / 2, 0])
    assert found.macro_f1.mean == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)


def test_as_scikit_learn() -> None:
    predicted, labels = random_classes(90, 1), random_classes(90, 2)
    found = classification(predicted, labels, torch.arange(90), 3)

    assert found.macro_f1.mean == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert [one.mean for one in found.recalls] == pytest.approx(recall_score(labels, predicted, average=None))


def test_macro_f1_of_several_matrices() -> None:
    perfect, wrong = torch.eye(2), 1 - torch.eye(2)

    assert macro_f1(torch.stack([perfect, wrong])).tolist() == [1.0, 0.0]


def test_the_interval_contains_the_score() -> None:
    found = scored([0, 1, 2, 2, 0, 0], [0, 1, 2, 1, 0, 2])

    for one in (found.accuracy, found.macro_f1, *found.recalls):
        assert 0 <= one.low <= one.mean <= one.high <= 1


def test_neighbours_that_are_alike_are_worth_less() -> None:
    """In groups that are recognised whole or not at all, the interval is wider than of as many single images."""
    labels = [label for label in range(3) for _ in range(40)]
    right = [i // 10 % 2 == 0 for i in range(120)]
    predicted = [label if good else (label + 1) % 3 for label, good in zip(labels, right, strict=True)]
    alone, together = scored(predicted, labels), scored(predicted, labels, [i // 10 for i in range(120)])

    assert alone.accuracy.mean == together.accuracy.mean == 0.5
    assert together.accuracy.high - together.accuracy.low > 2 * (alone.accuracy.high - alone.accuracy.low)


def test_a_class_of_one_group_has_the_interval_of_its_images() -> None:
    recall = scored([0] * 5 + [1] * 5 + [1, 2], [0] * 10 + [1, 2], [0] * 10 + [1, 2]).recalls[0]

    assert recall.low < 0.4
    assert recall.high > 0.6


@pytest.mark.parametrize(
    ("predicted", "labels", "said"),
    [
        ([0, 1, 3], [0, 1, 2], "the predicted classes must be less than 3, got 3"),
        ([0, 1, 1], [0, 1, 1], "the labels must have images of all 3 classes; class 2 has none"),
        ([0, 1], [0, 1, 2], "must speak of the same images, got 2 and 3"),
    ],
)
def test_classes_are_checked(predicted: list[int], labels: list[int], said: str) -> None:
    with pytest.raises(ClovenError, match=said):
        scored(predicted, labels)
