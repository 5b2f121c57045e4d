"""Ensembles: several trainings of one attack from different seeds, and the mean of their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import AN_ATTACK, Attack, BatchedAttack
from cloven.attacks.hyperparameters import COUNT, check_fields
from cloven.attacks.joined import Joined
from cloven.attacks.knowledge import Knowledge, LabelReader
from cloven.attacks.provenance import part_label, uses_pairs
from cloven.attacks.residual import Residual
from cloven.attacks.trainer import (
    DescribedLabelReader,
    DescribedReconstructor,
    Learned,
    Machine,
    Trainee,
    Training,
)
from cloven.attacks.unbatched import begun


@dataclass(frozen=True)
class Ensemble(BatchedAttack):
    """Several trainings of one attack (``members``), each with different initial weights.

    The reconstruction is the mean of theirs, in which errors of single members partly cancel. Label readers vote;
    in a tie, the first of the tied members decides.
    """

    name: ClassVar[str] = "ensemble"
    attack: Attack = field(default_factory=Residual)
    members: int = 3

    def __post_init__(self) -> None:
        check_fields(self, attack=AN_ATTACK, members=COUNT)

    @property
    def label(self) -> str:
        """See `BatchedAttack`."""
        return f"{part_label(self.attack)}-{self.name}"

    @property
    def uses_pairs(self) -> bool:
        """See `BatchedAttack`."""
        return uses_pairs(self.attack)

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Joined[Trainee]:
        """See `BatchedAttack`."""
        seed = generator.initial_seed()
        seeded = [torch.Generator().manual_seed((seed + 1_000_003 * i) % 2**63) for i in range(self.members)]
        return Joined([begun(self.attack, knowledge, one, machine) for one in seeded], _together)


def _together(trained: Sequence[Trainee], training: Training | None) -> Learned:
    every = [one.finish(training) for one in trained]
    readers = [one for one in every if isinstance(one, LabelReader)]
    return _Majority(readers, training) if readers else _Mean(every, training)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Members:
    members: Sequence[Learned]
    training: Training | None

    @property
    def parameters(self) -> int:
        return sum(one.parameters for one in self.members)

    @property
    def notes(self) -> Sequence[str]:
        return tuple(dict.fromkeys(note for one in self.members for note in one.notes))


@dataclass(frozen=True, eq=False)
class _Mean(_Members):
    members: Sequence[DescribedReconstructor]

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        return torch.stack([one(captured) for one in self.members]).mean(0)


@dataclass(frozen=True, eq=False)
class _Majority(_Members):
    members: Sequence[DescribedLabelReader]

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        read = torch.stack([one.classify(captured) for one in self.members])
        votes = (read[:, None] == read[None]).sum(1)
        return read.gather(0, votes.argmax(0, keepdim=True))[0]
