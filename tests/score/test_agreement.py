"""Agreement and kappa on class indices, against scikit-learn and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from cloven.errors import ClovenError
from cloven.score.agreement import agreement, kappa, modal_class


def drawn(n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two lists of classes that agree on about half of the images more than by chance."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randint(classes, (n,), generator=g)
    b = torch.where(torch.rand(n, generator=g) < 0.5, a, torch.randint(classes, (n,), generator=g))
    return a, b


def test_agreement_is_per_image() -> None:
    equal = agreement(torch.tensor([1, 2, 3]), torch.tensor([1, 0, 3]))
    assert equal.dtype == torch.bool
    assert equal.tolist() == [True, False, True]


@given(n=st.integers(2, 300), classes=st.integers(2, 102), seed=st.integers(0, 10**6))
def test_kappa_equals_scikit_learn(n: int, classes: int, seed: int) -> None:
    from sklearn.metrics import cohen_kappa_score

    a, b = drawn(n, classes, seed)
    assume(len(set(a.tolist() + b.tolist())) > 1)
    expected = float(cohen_kappa_score(a.numpy(), b.numpy()))
    assert kappa(a, b, classes) == pytest.approx(expected, abs=1e-12)
    assert kappa(b, a, classes) == kappa(a, b, classes)


def test_kappa_does_not_change_with_classes_that_never_occur() -> None:
    a, b = drawn(100, 5, 0)
    assert kappa(a, b, 5) == kappa(a, b, 1000)


def test_kappa_of_equal_classes_is_one() -> None:
    a, _ = drawn(50, 4, 0)
    assert kappa(a, a, 4) == 1.0


def test_kappa_of_always_the_modal_class_is_zero_however_often_it_agrees() -> None:
    a = torch.tensor([3] * 90 + [1] * 10)
    always = torch.full_like(a, modal_class(a))
    assert float(agreement(a, always).double().mean()) == 0.9
    assert kappa(a, always, 5) == 0.0


def test_kappa_where_chance_agrees_always_is_zero() -> None:
    same = torch.zeros(7, dtype=torch.long)
    assert kappa(same, same, 10) == 0.0


def test_kappa_of_opposites_is_minus_one() -> None:
    a = torch.tensor([0, 1, 0, 1])
    assert kappa(a, 1 - a, 2) == -1.0


@pytest.mark.parametrize(
    ("predicted", "expected"), [([4, 1, 4, 2], 4), ([2, 7, 7, 2], 2), ([9], 9), ([5, 3, 1], 1)]
)
def test_modal_class_is_the_lowest_of_the_most_frequent(predicted: list[int], expected: int) -> None:
    assert modal_class(torch.tensor(predicted)) == expected


def test_integer_types_may_differ() -> None:
    a, b = torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([1, 3])
    assert agreement(a, b).tolist() == [True, False]
    assert kappa(a, b, 4) == kappa(a.long(), b, 4)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (torch.tensor([1, 2]), torch.tensor([1]), "same images, got 2 and 1"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1, 2]), r"integer type.*got torch.float32.*argmax"),
        (torch.tensor([True]), torch.tensor([1]), r"integer type.*got torch.bool"),
        (torch.tensor([[1, 2]]), torch.tensor([[1, 2]]), r"\(n,\).*of shape \(1, 2\)"),
        (torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long), "at least one"),
        (torch.tensor([-1]), torch.tensor([1]), "0 or more, got -1"),
    ],
)
def test_agreement_refuses(a: Tensor, b: Tensor, words: str) -> None:
    with pytest.raises(ClovenError, match=words):
        agreement(a, b)
    with pytest.raises(ClovenError, match=words):
        kappa(a, b, 10)


def test_kappa_refuses_a_class_beyond_the_last() -> None:
    with pytest.raises(ClovenError, match="less than the 3 classes, got 3"):
        kappa(torch.tensor([0, 3]), torch.tensor([0, 1]), 3)
