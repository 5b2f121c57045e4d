"""The label probe: the class of an image straight from what was captured, without an image in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import Attack, check, counted, positive
from cloven.attacks.pairs import Pairs
from cloven.attacks.reading import Reading, standard
from cloven.attacks.train import Machine, Ready
from cloven.errors import ClovenError, require


@dataclass(frozen=True)
class Probe(Attack):
    """A linear classifier (scikit-learn's ridge) of captured numbers, taught with what the service answered.

    Maps are averaged to a grid of at most 4 x 4, and all to at most ``numbers`` numbers; the ridge's strength is
    the one of ``strengths`` that is best on the attacker's own pairs, each left out in turn.
    """

    name: ClassVar[str] = "probe"
    numbers: int = 4096
    strengths: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0, 10000.0)

    def __post_init__(self) -> None:
        check(
            ("numbers", self.numbers, counted, "1 or more"),
            ("strengths", self.strengths, lambda s: bool(s) and all(map(positive, s)), "positive numbers"),
        )

    def begin(self, pairs: Pairs, generator: torch.Generator, machine: Machine) -> Ready:
        """See `Attack`; a `ClovenError` where the service's answers are not known."""
        if pairs.classes is None:
            raise ClovenError("the probe learns from what the service answered; give the classes of the own images")
        reading = Reading(pairs, self.numbers, finest=4)
        values = reading.all(pairs)
        mean, deviation = standard(values)
        names = pairs.classes.unique()
        if len(names) == 1:
            weights, bias = torch.zeros(1, values.shape[1]), torch.zeros(1)
        else:
            weights, bias = self._solved((values - mean) / deviation, pairs.classes)
        return Ready(pairs, _Probed(reading, mean, deviation, weights, bias, names))

    def _solved(self, values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """A row of weights for each class, and its bias; for two classes one row."""
        try:
            from sklearn.linear_model import RidgeClassifierCV
        except ImportError as error:
            raise require("audit", error) from error
        ridge = RidgeClassifierCV(alphas=self.strengths).fit(values.double().numpy(), classes.numpy())
        weights, bias = torch.tensor(ridge.coef_, dtype=torch.float32), torch.tensor(ridge.intercept_)
        return weights.reshape(-1, values.shape[1]), bias.to(torch.float32).reshape(-1)


@dataclass(frozen=True, eq=False)
class _Probed:
    reading: Reading
    mean: Tensor
    deviation: Tensor
    weights: Tensor
    bias: Tensor
    names: Tensor
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return self.weights.numel() + self.bias.numel()

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        scores = (self.reading(captured) - self.mean) / self.deviation @ self.weights.T + self.bias
        if len(self.names) == 1:
            return self.names.expand(len(scores))
        return self.names[scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()]
