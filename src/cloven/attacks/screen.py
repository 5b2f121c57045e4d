"""A small batch-normalised decoder that takes seconds: it ranks many observations before the strong attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.adapt import Adaptor
from cloven.attacks.attack import BatchedAttack
from cloven.attacks.convolutions import Convolution, Doubled
from cloven.attacks.hyperparameters import COUNT, POSITIVE, check_fields, whole
from cloven.attacks.knowledge import PAIRS, Knowledge, Shape, needed
from cloven.attacks.networks import QUICK, Sharpened, Stem, cropped, scale_of, scales
from cloven.attacks.trainer import Fitting, Machine, TrainingSchedule, cycle, seeded


@dataclass(frozen=True)
class Screen(BatchedAttack):
    """A decoder with one batch-normalised convolution per scale, from that of the captured tensors to the image."""

    name: ClassVar[str] = "screen"
    epochs: int = 3
    learning_rate: float = 5e-3
    batch: int = 64
    width: int = 16

    def __post_init__(self) -> None:
        check_fields(self, epochs=COUNT, learning_rate=POSITIVE, batch=whole(2), width=COUNT)

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Fitting:
        """See `BatchedAttack`."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)

        def make() -> nn.Module:
            adaptor = Adaptor(pairs, knowledge.places)
            return Sharpened(adaptor, _Small(adaptor.shapes, pairs.image, self.width), pairs)

        schedule, rate = TrainingSchedule(self.epochs, self.batch), cycle(self.learning_rate)
        return Fitting(seeded(make, generator), pairs, schedule, loss=F.mse_loss, rate=rate, machine=machine)


class _Small(nn.Module):
    """A network that reads all captured tensors at their finest scale, and doubles it up to the image."""

    def __init__(self, shapes: Sequence[Shape], image: Shape, width: int) -> None:
        super().__init__()
        sizes = scales(image)
        self.sizes = sizes[: min(scale_of(shape, sizes) for shape in shapes) + 1]
        self.stem = Stem(shapes, self.sizes[-1], width)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, momentum=QUICK) for _ in self.sizes)
        self.ups = nn.ModuleList(Doubled(width, width) for _ in self.sizes[1:])
        self.out = Convolution(width, image[0])
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = F.relu(self.norms[0](self.stem(maps)), inplace=True)
        for up, norm, size in zip(self.ups, self.norms[1:], reversed(self.sizes[:-1]), strict=True):
            x = F.relu(norm(cropped(up(x), size)), inplace=True)
        image: Tensor = self.out(x)
        return image
