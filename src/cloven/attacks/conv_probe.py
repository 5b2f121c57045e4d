"""The label probe with convolutions, which read neighbouring values of a map together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.adapt import Adaptor
from cloven.attacks.convolutions import Convolution
from cloven.attacks.drawing import Dropout, Shifted
from cloven.attacks.embedding import grids
from cloven.attacks.hyperparameters import COUNT, check_fields
from cloven.attacks.knowledge import Pairs, Shape, SharePlace
from cloven.attacks.networks import Stem, resized, scale_of
from cloven.attacks.trained_probe import Committee, TrainedProbe


@dataclass(frozen=True)
class ConvProbe(TrainedProbe):
    """Small convolutional networks from captured maps to the class that the service answered.

    Each network halves maps down to a side of at most 4, where it has ``width`` channels, and averages over places.
    Each batch is shifted by up to one place.
    """

    name: ClassVar[str] = "conv-probe"
    epochs: int = 8
    dropout: float = 0.3
    width: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, width=COUNT)

    def network(self, pairs: Pairs, places: Sequence[SharePlace] | None, classes: int) -> nn.Module:
        """See `TrainedProbe`."""
        adaptor = Adaptor(pairs, places)
        shapes = [_shrunk(shape) for shape in adaptor.shapes]
        return nn.Sequential(
            adaptor,
            Shrunk(shapes),
            Shifted(),
            Committee(
                nn.Sequential(Halvings(shapes, self.width), Dropout(self.dropout), nn.Linear(self.width, classes))
                for _ in range(self.members)
            ),
        )


FINEST, NUMBERS = 32, 2**16
"""The largest side of a map, and the most numbers in it: larger maps are averaged first."""

COARSEST = 4
"""The side down to which maps are halved."""

WIDENED = 8
"""At this side and below, each scale has a second convolution, which costs little there."""


def _shrunk(shape: Shape) -> Shape:
    """Return the shape to which a map is averaged."""
    if len(shape) != 3:
        return shape
    return (shape[0], *next(g for g in grids(shape, FINEST) if g == (1, 1) or shape[0] * prod(g) <= NUMBERS))


class Shrunk(nn.Module):
    """Maps averaged to the given shapes."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        super().__init__()
        self.shapes = tuple(shapes)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps ``(n, C, H, W)`` averaged; vectors ``(n, numbers)`` as they are."""
        return [resized(z, (s[1], s[2])) if len(s) == 3 else z for z, s in zip(maps, self.shapes, strict=True)]


class Halvings(nn.Module):
    """A network from maps and vectors to ``(n, width)``; each enters at its own scale, and is halved from there.

    Each halving doubles the channels.
    """

    def __init__(self, shapes: Sequence[Shape], width: int) -> None:
        super().__init__()
        maps = [shape for shape in shapes if len(shape) == 3]
        sizes = [(max((m[1] for m in maps), default=1), max((m[2] for m in maps), default=1))]
        while max(sizes[-1]) > COARSEST:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        self.at = [scale_of(shape, sizes) for shape in shapes]
        channels = [max(1, width >> (len(sizes) - 1 - k)) for k in range(len(sizes))]
        self.stems, self.downs = nn.ModuleDict(), nn.ModuleDict()
        self.layers = nn.ModuleList()
        for k, size in enumerate(sizes):
            if read := [shape for shape, at in zip(shapes, self.at, strict=True) if at == k]:
                self.stems[str(k)] = Stem(read, size, channels[k])
            if k:
                self.downs[str(k)] = Convolution(channels[k - 1], channels[k], 2)
            further = [Convolution(channels[k], channels[k]), _Norm(channels[k]), nn.ReLU()]
            more = further if max(size) <= WIDENED else []
            self.layers.append(nn.Sequential(_Norm(channels[k]), nn.ReLU(), *more))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return ``(n, width)`` of maps ``(n, C, H, W)`` and vectors ``(n, numbers)``."""
        x: Tensor | None = None
        for k, layers in enumerate(self.layers):
            own = [z for z, at in zip(maps, self.at, strict=True) if at == k]
            parts = [self.stems[str(k)](own)] if own else []
            parts += [self.downs[str(k)](x)] if x is not None else []
            x = layers(sum(parts[1:], start=parts[0]))
        assert x is not None
        return x.mean((2, 3))


class _Norm(nn.BatchNorm2d):
    """Batch normalisation that also accepts a single value."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * prod(x.shape[2:]) > 1:
            made: Tensor = super().forward(x)
            return made
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
