"""Nearest neighbours as a label reader: the classes of the own images whose captured tensors are most alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.embedding import Embedding
from cloven.attacks.hyperparameters import COUNT, check_fields, tuple_of
from cloven.attacks.knowledge import CLASSES, PAIRS, Knowledge, needed
from cloven.attacks.trainer import CHUNK, ClosedForm, Machine


@dataclass(frozen=True)
class KNN(BatchedAttack):
    """A vote of the nearest own images in the embedding of `Nearest`, weighted by the inverse of their distances.

    Of ``neighbours``, the number is used that is best on a tenth of the attacker's own pairs, among the others.
    """

    name: ClassVar[str] = "knn"
    needs_classes: ClassVar[bool] = True
    numbers: int = 8192
    neighbours: tuple[int, ...] = (1, 3, 5, 10, 20, 50, 100)

    def __post_init__(self) -> None:
        check_fields(self, numbers=COUNT, neighbours=tuple_of(COUNT, "one or more whole numbers, each 1 or more"))

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`; a `ClovenError` if the service's answers are not known."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        names, classes = needed(knowledge.classes, self.name, CLASSES)[: len(pairs)].unique(return_inverse=True)
        embedding = Embedding(pairs, knowledge.places, self.numbers)
        known = embedding.all(pairs)
        own = max(1, round(HELD_OUT * len(pairs)))
        others = _Neighbours(known[:-own], classes[:-own], len(names))
        right = [float((others.vote(known[-own:], k) == classes[-own:]).double().mean()) for k in self.neighbours]
        best = self.neighbours[right.index(max(right))]
        return ClosedForm(pairs, _Vote(embedding, _Neighbours(known, classes, len(names)), names, best))


HELD_OUT = 0.1
"""The share of the pairs that choose the number of neighbours."""


@dataclass(frozen=True, eq=False)
class _Neighbours:
    known: Tensor
    classes: Tensor
    count: int

    def vote(self, read: Tensor, neighbours: int) -> Tensor:
        """Return the classes ``(n,)`` for which neighbours of ``(n, numbers)`` vote, weighted by 1 / distance."""
        lengths, most = self.known.square().sum(1), min(neighbours, len(self.known))
        found = []
        for z in read.split(CHUNK):
            squares, nearest = (lengths - 2 * z @ self.known.T).topk(most, largest=False)
            distances = (squares + z.square().sum(1, keepdim=True)).clamp(min=1e-6).sqrt()
            votes = torch.zeros(len(z), self.count).scatter_add_(1, self.classes[nearest], 1 / distances)
            found.append(votes.argmax(1))
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class _Vote:
    embedding: Embedding
    own: _Neighbours
    names: Tensor
    neighbours: int
    parameters: int = 0
    training: None = None

    @property
    def notes(self) -> Sequence[str]:
        return (f"{self.neighbours} neighbour{'s' * (self.neighbours != 1)}",)

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        return self.names[self.own.vote(self.embedding(captured), self.neighbours)]
