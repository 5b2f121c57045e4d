"""The base of the trained label probes: a network that is fitted to the service's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.hyperparameters import COUNT, FRACTION, POSITIVE, check_fields
from cloven.attacks.knowledge import CLASSES, PAIRS, Knowledge, Pairs, SharePlace, needed
from cloven.attacks.trainer import (
    Fitting,
    Machine,
    Rate,
    TrainedNetwork,
    Training,
    TrainingSchedule,
    cycle,
    seeded,
)


@dataclass(frozen=True)
class TrainedProbe(BatchedAttack):
    """Networks from captured tensors to the class that the service answered; their logits are averaged.

    There are ``members`` networks with different initial weights, trained with Adam, one cycle of the learning
    rate, and cross-entropy. The share ``held_out`` of the pairs chooses the best epoch.
    """

    needs_classes: ClassVar[bool] = True
    epochs: int = 10
    learning_rate: float = 3e-3
    batch: int = 64
    dropout: float = 0.5
    members: int = 2
    held_out: float = 0.05

    def __post_init__(self) -> None:
        check_fields(
            self,
            epochs=COUNT,
            learning_rate=POSITIVE,
            batch=COUNT,
            dropout=FRACTION,
            members=COUNT,
            held_out=FRACTION,
        )

    def network(self, pairs: Pairs, places: Sequence[SharePlace] | None, classes: int) -> nn.Module:
        """Return the network from captured tensors ``(n, ...)`` to logits; it ends with a `Committee`."""
        raise NotImplementedError

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClassFitting:
        """See `BatchedAttack`; a `ClovenError` if the service's answers are not known."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        classes = needed(knowledge.classes, self.name, CLASSES)[: len(pairs)]
        network = seeded(lambda: self.network(pairs, knowledge.places, len(classes.unique())), generator)
        batch = max(1, min(self.batch, len(pairs) // STEPS))
        schedule = TrainingSchedule(self.epochs, batch, self.held_out if len(pairs) >= LEAST else 0.0)
        return ClassFitting(network, pairs, classes, schedule, rate=cycle(self.learning_rate), machine=machine)


LEAST = 100
"""The fewest pairs of which some are held out."""

STEPS = 16
"""The least number of steps in an epoch, if there are as many pairs."""


class Committee(nn.ModuleList):
    """Networks that are trained separately; in evaluation, they give the mean of their logits."""

    def forward(self, read: Sequence[Tensor]) -> Tensor:
        """Return logits ``(n, classes, networks)``, in evaluation ``(n, classes, 1)``."""
        every = torch.stack([network(read) for network in self], 2)
        return every if self.training else every.mean(2, keepdim=True)


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits ``(n, classes, networks)`` and classes ``(n,)``."""
    return F.cross_entropy(logits, classes[:, None].expand(-1, logits.shape[2]))


class ClassFitting(Fitting):
    """A network that is fitted to the classes ``(n,)`` of pairs; it gives logits of the classes that occur."""

    def __init__(
        self,
        network: nn.Module,
        pairs: Pairs,
        classes: Tensor,
        schedule: TrainingSchedule,
        *,
        rate: Rate,
        machine: Machine,
    ) -> None:
        super().__init__(network, pairs, schedule, loss=cross_entropy, rate=rate, machine=machine)
        self.names: Tensor
        self.numbers: Tensor
        self.names, self.numbers = classes.unique(return_inverse=True)

    def wanted(self, index: Tensor, images: Tensor) -> Tensor:
        """See `Fitting`."""
        return self.numbers[index]

    def learned(self, training: Training | None) -> NetworkReader:
        """See `Fitting`."""
        return NetworkReader(self.network.eval(), self.machine, training=training, names=self.names)


@dataclass(frozen=True, eq=False, kw_only=True)
class NetworkReader(TrainedNetwork):
    """A trained network as a label reader; ``names`` are the classes of its logits."""

    names: Tensor

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        """See `LabelReader`."""
        return self.names[self.outputs(captured, lambda logits: logits.argmax(1).flatten())]
