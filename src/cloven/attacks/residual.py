"""The strongest trained decoder: residual blocks over all scales, trained on SSIM and the squared error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from cloven.attacks.adapt import Adaptor
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.drawing import Masked
from cloven.attacks.hyperparameters import COUNT, FRACTION, NUMBER, POSITIVE, check_fields, tuple_of, whole
from cloven.attacks.joined import Joined
from cloven.attacks.knowledge import PAIRS, Knowledge, needed
from cloven.attacks.muon import Muon
from cloven.attacks.networks import Pyramid, Sharpened
from cloven.attacks.ssim_loss import mixed
from cloven.attacks.trainer import (
    Fitting,
    Learned,
    Machine,
    Trainee,
    Training,
    TrainingSchedule,
    cycle,
    seeded,
)


@dataclass(frozen=True)
class Residual(BatchedAttack):
    """A residual network over all scales (`Pyramid`), added to the best linear reading of each pixel.

    `Muon`, with one cycle of the learning rate in each round of training; the loss is the mean squared error and
    ``likeness`` times (1 - SSIM). With ``epochs``, there is one round of that many. Without, the first round has 3
    epochs; a second and a third, each twice as long as the one before, continue from the best weights as long as
    the last round improved the loss on held-out pairs by more than its standard error. ``held_out`` is the share of
    the pairs for this; they also choose the best epoch and the best of ``widths``. ``masked`` is the share of
    places in captured maps that are set to 0 in each batch, so that the network does not rely on single values.
    """

    name: ClassVar[str] = "residual"
    epochs: int | None = None
    learning_rate: float = 8e-3
    batch: int = 32
    widths: tuple[int, ...] = (16,)
    blocks: int = 1
    likeness: float = 0.1
    held_out: float = 0.05
    masked: float = 0.0

    def __post_init__(self) -> None:
        check_fields(
            self,
            epochs=COUNT.or_none(),
            learning_rate=POSITIVE,
            batch=whole(2),
            widths=tuple_of(COUNT, "one or more numbers of channels"),
            blocks=COUNT,
            likeness=NUMBER,
            held_out=FRACTION,
            masked=FRACTION,
        )

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Trainee:
        """See `BatchedAttack`."""
        tried = [self._of_width(width, knowledge, generator, machine) for width in self.widths]
        return tried[0] if len(tried) == 1 else Joined(tried, _best)

    def _of_width(self, width: int, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Fitting:
        pairs = needed(knowledge.pairs, self.name, PAIRS)

        def make() -> nn.Module:
            adaptor = Adaptor(pairs, knowledge.places)
            coarsest = SIDE_OF_PARTS if any(adaptor.layout.partial) else SIDE
            network: nn.Module = Pyramid(adaptor.shapes, pairs.image, width, self.blocks, coarsest)
            if self.masked:
                network = nn.Sequential(Masked(self.masked), network)
            return Sharpened(adaptor, network, pairs)

        held_out = self.held_out if len(pairs) >= LEAST else 0.0
        rounds = ROUNDS if self.epochs is None and held_out else 1
        schedule = TrainingSchedule(self.epochs or FIRST, self.batch, held_out, rounds)
        loss, rate = mixed(self.likeness, pairs.image), cycle(self.learning_rate)
        network = seeded(make, generator)
        return Fitting(network, pairs, schedule, loss=loss, rate=rate, machine=machine, optimiser=Muon)


FIRST, ROUNDS = 3, 3
"""Epochs of the first round of training, and the most rounds, where no number of epochs is given."""
SIDE, SIDE_OF_PARTS = 8, 4
"""The side of the network's coarsest scale; smaller if only a part of a map was captured, since a coarser scale
carries information from one end of the image to the other."""
LEAST = 40
"""The fewest pairs of which some are held out."""


def _best(tried: Sequence[Fitting], training: Training | None) -> Learned:
    """Return the result of the width that is best on held-out pairs."""
    return min(tried, key=lambda one: float(one.least.mean())).finish(training)
