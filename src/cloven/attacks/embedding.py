"""Embeddings: one short vector of all that is captured of an image, for attacks that compare or classify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from cloven.attacks.adapt import Adaptor
from cloven.attacks.knowledge import Pairs, Shape, SharePlace
from cloven.attacks.networks import resized
from cloven.attacks.trainer import over


class Embedding:
    """Standardised maps, averaged to a grid as fine as ``limit`` numbers in all allow, and vectors as they are.

    Vectors that are longer are read at evenly spread places.
    """

    def __init__(
        self, pairs: Pairs, places: Sequence[SharePlace] | None, limit: int, finest: int | None = None
    ) -> None:
        self.adaptor = Adaptor(pairs, places)
        share = limit / max(1, len(self.adaptor.shapes))
        self.grids = [_grid(shape, share, finest) for shape in self.adaptor.shapes]

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        """Return ``(n, numbers)`` of captured tensors ``(n, ...)``."""
        with torch.inference_mode():
            parts = [
                (resized(z, grid) if isinstance(grid, tuple) else z[:, grid]).flatten(1)
                for z, grid in zip(self.adaptor(captured), self.grids, strict=True)
            ]
        return torch.cat(parts, 1)

    def all(self, pairs: Pairs) -> Tensor:
        """Return ``(n, numbers)`` of all pairs."""
        return over(pairs.captured, self)


def _grid(shape: Shape, share: float, finest: int | None) -> tuple[int, int] | Tensor:
    if len(shape) == 3:
        return next(g for g in _grids(shape, finest) if g == (1, 1) or shape[0] * prod(g) <= share)
    count = max(1, min(shape[0], int(share)))
    return (torch.arange(count) * shape[0]) // count


def _grids(shape: Shape, finest: int | None) -> Iterator[tuple[int, int]]:
    """Yield grids from fine to coarse."""
    height, width = (min(side, finest or side) for side in shape[1:])
    while (height, width) != (1, 1):
        yield height, width
        height, width = max(1, height // 2), max(1, width // 2)
    yield 1, 1


def standard(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of each column of ``(n, numbers)``; 1 where it does not vary."""
    deviation = values.std(0, correction=0)
    return values.mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
