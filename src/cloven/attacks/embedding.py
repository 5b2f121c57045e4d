"""Embeddings: one short vector of the captured tensors of an image, for attacks that compare or classify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn

from cloven.attacks.adapt import Adaptor
from cloven.attacks.knowledge import Pairs, Shape, SharePlace
from cloven.attacks.networks import resized
from cloven.attacks.trainer import over

Grid = tuple[int, int]


class Embedding(nn.Module):
    """Standardised maps, averaged to a grid as fine as ``limit`` numbers in all allow, and vectors as they are.

    With ``pyramid``, maps are averaged to all coarser grids too (spatial pyramid pooling). Vectors that are longer
    are read at evenly spread places. No gradients flow through it.
    """

    def __init__(
        self,
        pairs: Pairs,
        places: Sequence[SharePlace] | None,
        limit: int,
        finest: int | None = None,
        *,
        pyramid: bool = False,
    ) -> None:
        super().__init__()
        self.adaptor = Adaptor(pairs, places)
        share = limit / max(1, len(self.adaptor.shapes))
        self.read = [_read(shape, share, finest, pyramid=pyramid) for shape in self.adaptor.shapes]

    def forward(self, captured: Sequence[Tensor]) -> Tensor:
        """Return ``(n, numbers)`` of captured tensors ``(n, ...)``."""
        with torch.no_grad():
            parts = [
                part
                for z, read in zip(self.adaptor(captured), self.read, strict=True)
                for part in ([z[:, read]] if isinstance(read, Tensor) else [resized(z, g).flatten(1) for g in read])
            ]
        return torch.cat(parts, 1)

    def all(self, pairs: Pairs) -> Tensor:
        """Return ``(n, numbers)`` of all pairs."""
        return over(pairs.captured, self)


def _read(shape: Shape, share: float, finest: int | None, *, pyramid: bool) -> list[Grid] | Tensor:
    """Return the grids to which a map is averaged, or the places at which a vector is read."""
    if len(shape) == 3:
        every = list(grids(shape, finest))
        choices = [every[i:] if pyramid else [grid] for i, grid in enumerate(every)]
        return next((c for c in choices if shape[0] * sum(map(prod, c)) <= share), choices[-1])
    count = max(1, min(shape[0], int(share)))
    return (torch.arange(count) * shape[0]) // count


def grids(shape: Shape, finest: int | None) -> Iterator[Grid]:
    """Yield the grids to which a map ``(C, H, W)`` can be averaged, from fine to coarse."""
    height, width = (min(side, finest or side) for side in shape[1:])
    while (height, width) != (1, 1):
        yield height, width
        height, width = max(1, height // 2), max(1, width // 2)
    yield 1, 1


def standard(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each column of ``(n, numbers)``; 1 if it is constant."""
    deviation = values.std(0, correction=0)
    return values.mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
