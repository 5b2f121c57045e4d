"""Inversion without data: gradient descent through the model's front, from a grey image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.hyperparameters import COUNT, NUMBER, POSITIVE, check_fields, tuple_of
from cloven.attacks.knowledge import FRONT, Front, Knowledge, needed
from cloven.attacks.matching import PixelDescent
from cloven.attacks.trainer import ClosedForm, Machine

TRIED = 16
"""The number of observed images on which weights of the total variation are compared."""
FAINT = 0.1
"""The contrast of the noise from which descent starts: plain grey would be a point of symmetry."""


@dataclass(frozen=True)
class RMLE(BatchedAttack):
    """A smooth image whose features match the captured tensors (rMLE, He et al. 2019).

    Needs the weights, and neither images nor queries: descent starts from faint noise, the same for each image.
    ``smoothness`` are weights of the total variation. The weight is used that matches the captured tensors of the
    first observed images best; the first one, if no images are observed beforehand. Layers near the image need a
    small weight, deep layers a large one.
    """

    name: ClassVar[str] = "rmle"
    white_box: ClassVar[bool] = True
    descends: ClassVar[bool] = True
    steps: int = 100
    learning_rate: float = 0.04
    smoothness: tuple[float, ...] = (1.0, 10.0, 100.0)

    def __post_init__(self) -> None:
        check_fields(
            self,
            steps=COUNT,
            learning_rate=POSITIVE,
            smoothness=tuple_of(NUMBER, "one or more numbers, each 0 or more"),
        )

    @property
    def uses_pairs(self) -> bool:
        """See `BatchedAttack`."""
        return False

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`; a `ClovenError` without the model's front."""
        front = needed(knowledge.front, self.name, FRONT)
        noise = torch.rand(knowledge.image, generator=torch.Generator().manual_seed(generator.initial_seed()))
        start = 0.5 + FAINT * (noise - 0.5)
        every = [
            _Inverted(front, start, PixelDescent(self.steps, self.learning_rate, weight), machine)
            for weight in self.smoothness
        ]
        if knowledge.observed is None or not len(knowledge.observed) or len(every) == 1:
            return ClosedForm(None, every[0])
        observed = knowledge.observed.take(torch.arange(min(TRIED, len(knowledge.observed))))
        return ClosedForm(None, min(every, key=lambda one: one.missed(observed)))


@dataclass(frozen=True, eq=False)
class _Inverted:
    front: Front
    start: Tensor
    descent: PixelDescent
    machine: Machine
    parameters: int = 0
    training: None = None

    @property
    def notes(self) -> Sequence[str]:
        return (f"inverted with a weight of {self.descent.smoothness:g} on the total variation",)

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        start = self.start.expand(len(captured[0]), *self.start.shape)
        return self.descent(self.front, start, captured, self.machine)

    def missed(self, captured: Sequence[Tensor]) -> float:
        with torch.no_grad():
            return float(self.descent.remaining(self.front, self(captured), captured).mean())
