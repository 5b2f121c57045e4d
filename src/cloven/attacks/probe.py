"""The label probe: the class of an image from its captured tensors, without a reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.embedding import Embedding, standard
from cloven.attacks.hyperparameters import COUNT, POSITIVE, check_fields, tuple_of
from cloven.attacks.knowledge import CLASSES, PAIRS, Knowledge, needed
from cloven.attacks.trainer import ClosedForm, Machine
from cloven.errors import require


@dataclass(frozen=True)
class Probe(BatchedAttack):
    """A linear classifier (scikit-learn's ridge) from captured numbers to the class that the service answered.

    Maps are averaged to a grid of at most 4 x 4, with at most ``numbers`` numbers in all. Of ``strengths``, the
    ridge's strength is the one that is best on the attacker's own pairs, each left out in turn.
    """

    name: ClassVar[str] = "probe"
    needs_classes: ClassVar[bool] = True
    numbers: int = 4096
    strengths: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0, 10000.0)

    def __post_init__(self) -> None:
        check_fields(self, numbers=COUNT, strengths=tuple_of(POSITIVE, "one or more positive numbers"))

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`; a `ClovenError` if the service's answers are not known."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        classes = needed(knowledge.classes, self.name, CLASSES)[: len(pairs)]
        embedding = Embedding(pairs, knowledge.places, self.numbers, finest=4)
        values = embedding.all(pairs)
        mean, deviation = standard(values)
        names = classes.unique()
        if len(names) == 1:
            weights, bias = torch.zeros(1, values.shape[1]), torch.zeros(1)
        else:
            weights, bias = self._solved((values - mean) / deviation, classes)
        return ClosedForm(pairs, _Probed(embedding, mean, deviation, weights, bias, names))

    def _solved(self, values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return one row of weights per class, and the biases; a single row for two classes."""
        try:
            from sklearn.linear_model import RidgeClassifierCV
        except ImportError as error:
            raise require("audit", error) from error
        ridge = RidgeClassifierCV(alphas=list(self.strengths)).fit(values.double().numpy(), classes.numpy())
        weights, bias = torch.tensor(ridge.coef_, dtype=torch.float32), torch.tensor(ridge.intercept_)
        return weights.reshape(-1, values.shape[1]), bias.to(torch.float32).reshape(-1)


@dataclass(frozen=True, eq=False)
class _Probed:
    embedding: Embedding
    mean: Tensor
    deviation: Tensor
    weights: Tensor
    bias: Tensor
    names: Tensor
    notes: tuple[str, ...] = ()
    training: None = None

    @property
    def parameters(self) -> int:
        return self.weights.numel() + self.bias.numel()

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        scores = (self.embedding(captured) - self.mean) / self.deviation @ self.weights.T + self.bias
        if len(self.names) == 1:
            return self.names.expand(len(scores))
        return self.names[scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()]
