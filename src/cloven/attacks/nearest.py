"""Retrieval: the own image whose captured tensors are most like those of the victim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.embedding import Embedding
from cloven.attacks.hyperparameters import COUNT, check_fields
from cloven.attacks.knowledge import PAIRS, Knowledge, needed
from cloven.attacks.trainer import ClosedForm, Machine
from cloven.rows import TensorRows


@dataclass(frozen=True)
class Nearest(BatchedAttack):
    """The nearest of the attacker's own images by captured tensors (Euclidean, each channel standardised).

    Maps are averaged to at most ``numbers`` numbers per image. Nothing is reconstructed: a score above the baseline
    shows what a mere comparison reveals.
    """

    name: ClassVar[str] = "nearest"
    numbers: int = 8192

    def __post_init__(self) -> None:
        check_fields(self, numbers=COUNT)

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        embedding = Embedding(pairs, knowledge.places, self.numbers)
        return ClosedForm(pairs, _Retrieval(embedding, embedding.all(pairs), pairs.images))


@dataclass(frozen=True, eq=False)
class _Retrieval:
    embedding: Embedding
    known: Tensor
    images: TensorRows
    parameters: int = 0
    notes: tuple[str, ...] = ()
    training: None = None

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        read = self.embedding(captured)
        lengths = self.known.square().sum(1)
        return torch.cat([self.images[(lengths - 2 * z @ self.known.T).argmin(1)] for z in read.split(256)])
