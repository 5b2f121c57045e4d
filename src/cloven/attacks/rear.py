"""The model's rear as a label reader: an attacker with the weights continues the model from captured tensors."""

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
    """The class that the model itself gives, computed from captured tensors. Needs the weights, but no images.

    It is right at any depth, if the captured numbers are exact and suffice to compute the output: whoever knows the
    model reads the class from any link behind the input.
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
