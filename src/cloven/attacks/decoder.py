"""The attack of Mehrafrooz et al. (2025, Sect. 4.2 and 5.1): a convolutional decoder trained on pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.adapt import Adaptor
from cloven.attacks.attack import BatchedAttack, Json
from cloven.attacks.hyperparameters import COUNT, POSITIVE, Allowed, check_fields
from cloven.attacks.knowledge import PAIRS, Knowledge, Pairs, Shape, SharePlace, laid_out, needed
from cloven.attacks.layers import Chain, Layer, as_map, build, rule, text
from cloven.attacks.networks import Sharpened
from cloven.attacks.trainer import Fitting, Machine, TrainingSchedule, constant, seeded
from cloven.errors import ClovenError

CHAIN = Allowed(
    lambda layers: isinstance(layers, tuple) and all(isinstance(layer, Layer) for layer in layers),
    "a chain of layers, such as cloven.attacks.layers.rule makes",
)


@dataclass(frozen=True)
class Decoder(BatchedAttack):
    """A chain of layers from the captured map to the image.

    It is trained with Adam and the mean squared error, on targets in [0, 1]; the output is clipped to [0, 1].
    Mehrafrooz et al. state ten epochs and Adam; the loss, the learning rate and the batch are those of the closest
    public recipe (He et al. 2019) or chosen here. ``layers`` is the chain. Without it, `rule` makes one for the
    shapes, and its output is added to the best linear reading of each pixel (`Sharpened`).
    """

    name: ClassVar[str] = "decoder"
    epochs: int = 10
    learning_rate: float = 1e-3
    batch: int = 64
    layers: Chain | None = None

    def __post_init__(self) -> None:
        check_fields(self, epochs=COUNT, learning_rate=POSITIVE, batch=COUNT, layers=CHAIN.or_none())

    def settings(self, captured: Sequence[Shape], image: Shape) -> dict[str, Json]:
        """Return the hyper-parameters, and the network in the notation of Table 2 of Mehrafrooz et al."""
        chain = text(self._chain(captured, image))
        return {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "batch": self.batch,
            "layers": chain if self.layers is not None else f"{chain} + Ridge",
        }

    def _chain(self, captured: Sequence[Shape], image: Shape) -> Chain:
        return self.layers if self.layers is not None else rule(captured, image)

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Fitting:
        """See `BatchedAttack`; a `ClovenError` if the given layers do not fit the captured tensors or images."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)

        def make() -> nn.Module:
            return self._given(pairs) if self.layers is not None else self._ruled(pairs, knowledge.places)

        network = seeded(make, generator)
        schedule, rate = TrainingSchedule(self.epochs, self.batch), constant(self.learning_rate)
        return Fitting(network, pairs, schedule, loss=F.mse_loss, rate=rate, machine=machine)

    def _given(self, pairs: Pairs) -> nn.Module:
        network = nn.Sequential(_Together(), build(self._chain(pairs.captured.shapes, pairs.image)))
        captured, _ = pairs.first(1)
        shape = tuple(together(captured).shape[1:])
        try:
            with torch.inference_mode():
                made = tuple(network(captured).shape[1:])
        except RuntimeError as error:
            raise ClovenError(f"the decoder's layers do not take {shape}: {error}") from error
        if made != pairs.image:
            raise ClovenError(f"the decoder makes {made} from {shape}; the images are {pairs.image}")
        return network

    def _ruled(self, pairs: Pairs, places: Sequence[SharePlace] | None) -> nn.Module:
        adaptor = Adaptor(pairs, places)
        network = nn.Sequential(_Together(), build(rule(adaptor.shapes, pairs.image)))
        for parameter in list(network.parameters())[-2:]:
            nn.init.zeros_(parameter)
        return Sharpened(adaptor, network, pairs)


class _Together(nn.Module):
    def forward(self, captured: Sequence[Tensor]) -> Tensor:
        return together(captured)


def together(captured: Sequence[Tensor]) -> Tensor:
    """Return captured tensors ``(n, ...)`` as one map ``(n, C, H, W)``; see `layers.as_map`."""
    maps = [z if z.ndim == 4 else z.flatten(1)[:, :, None, None] for z in captured]
    _, height, width = as_map([tuple(m.shape[1:]) for m in maps])
    sized = [m if m.shape[2:] == (height, width) else F.interpolate(m, (height, width)) for m in maps]
    return laid_out(sized[0] if len(sized) == 1 else torch.cat(sized, 1))
