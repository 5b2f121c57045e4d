"""Retrieval: answer with the own image whose capture is most like what was captured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cloven.attacks.attack import Attack, check, counted
from cloven.attacks.pairs import Pairs
from cloven.attacks.reading import Reading
from cloven.attacks.train import Machine, Ready


@dataclass(frozen=True)
class Nearest(Attack):
    """The nearest of the attacker's own images in z-space (Euclidean, each channel standardised).

    Maps are averaged to at most ``numbers`` numbers an image. Nothing is rebuilt: what this scores above its floor
    is what a bare comparison gives away.
    """

    name: ClassVar[str] = "nearest"
    numbers: int = 8192

    def __post_init__(self) -> None:
        check(("numbers", self.numbers, counted, "1 or more"))

    def begin(self, pairs: Pairs, generator: torch.Generator, machine: Machine) -> Ready:
        """See `Attack`."""
        reading = Reading(pairs, self.numbers)
        return Ready(pairs, _Retrieval(reading, reading.all(pairs), pairs.images))


@dataclass(frozen=True, eq=False)
class _Retrieval:
    reading: Reading
    known: Tensor
    images: Tensor
    parameters: int = 0
    notes: tuple[str, ...] = ()

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        read = self.reading(captured)
        lengths = self.known.square().sum(1)
        return torch.cat([self.images[(lengths - 2 * z @ self.known.T).argmin(1)] for z in read.split(256)])
