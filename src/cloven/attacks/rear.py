"""The model's rear as a label reader: who has the weights runs the model on from what was captured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.knowledge import REAR, Knowledge, Rear, needed
from cloven.attacks.trainer import ClosedForm, Machine


@dataclass(frozen=True)
class ModelRear(BatchedAttack):
    """The class that the model itself gives, computed on from what was captured. Needs the weights, no images.

    It is right wherever the captured numbers are exact and suffice to compute the output, at any depth: nothing
    behind the input hides the class from someone who knows the model.
    """

    name: ClassVar[str] = "rear"
    white_box: ClassVar[bool] = True

    @property
    def uses_pairs(self) -> bool:
        """See `BatchedAttack`."""
        return False

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`; a `ClovenError` without the model's rear."""
        return ClosedForm(knowledge.pairs, _RunOn(needed(knowledge.rear, self.name, REAR)))


@dataclass(frozen=True, eq=False)
class _RunOn:
    rear: Rear
    parameters: int = 0
    notes: tuple[str, ...] = ()
    training: None = None

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode():
            return self.rear(captured).argmax(1)
