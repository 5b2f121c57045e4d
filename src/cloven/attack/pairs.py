"""What an attacker trains on: what he captured of his own images, beside those images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cloven.errors import ClovenError


class Reconstructor(Protocol):
    """What an attack has learned: from captured tensors ``(n, ...)`` to images ``(n, C, H, W)`` in [0, 1]."""

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        ...

    def __call__(self, captured: Sequence[Tensor], /) -> Tensor:
        """The images."""
        ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs (z, x) of S1's phase 1 (Sect. 4.1).

    ``captured`` holds one tensor ``(n, ...)`` for each share that the listener sees, ``images`` the attacker's
    own inputs ``(n, C, H, W)`` in [0, 1]. ``seed`` fixes the order of the batches, with the images alone: it does
    not depend on which attack is trained.
    """

    captured: tuple[Tensor, ...]
    images: Tensor
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.captured:
            raise ClovenError("nothing was captured: the observation is empty; choose a link that is used")
        lengths = {len(self.images), *(len(z) for z in self.captured)}
        if len(lengths) != 1:
            raise ClovenError(f"captured tensors and images differ in number: {sorted(lengths)}")
        broken = [i for i, z in enumerate(self.captured) if not torch.isfinite(z).all()]
        if broken:
            raise ClovenError(f"captured tensors {broken} hold NaN or infinite numbers; nothing can be learned")

    def batches(self, epochs: int, size: int) -> Iterator[tuple[int, list[Tensor], Tensor]]:
        """Shuffled batches: the epoch, the captured tensors and the images of each."""
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(epochs):
            order = torch.randperm(len(self.images), generator=generator)
            for index in order.split(size):
                yield epoch, [z[index] for z in self.captured], self.images[index]


class Attack(Protocol):
    """An attack: hyper-parameters, and how to train with them."""

    def fit(self, pairs: Pairs, *, generator: torch.Generator) -> Reconstructor:
        """Train on pairs; ``generator`` fixes the initial weights."""
        ...
