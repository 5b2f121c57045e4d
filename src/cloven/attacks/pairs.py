"""What an attacker trains on: what he captured of his own images, beside those images, and what else he knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cloven.errors import ClovenError

Shape = tuple[int, ...]
Front = Callable[[Tensor], list[Tensor]]
"""The model before the tap: from images ``(n, C, H, W)`` to what is captured of them; gradients flow through."""


class Captured(Protocol):
    """What was captured of some images, read by rows: it may lie in memory, in a file, or be computed anew."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each tensor for one image."""
        ...

    def __len__(self) -> int:
        """How many images."""
        ...

    def take(self, index: Tensor) -> list[Tensor]:
        """The rows ``index`` ``(n,)`` of each tensor, float32 ``(n, ...)``; finite."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Captured tensors ``(n, ...)`` in memory; made by `held`."""

    tensors: tuple[Tensor, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """See `Captured`."""
        return tuple(tuple(z.shape[1:]) for z in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, index: Tensor) -> list[Tensor]:
        """See `Captured`."""
        return [rows(z, index) for z in self.tensors]


def held(*tensors: Tensor) -> Held:
    """Tensors ``(n, ...)``, one a share, as something captured; numbers that are not finite are read as 0.

    Raises:
        ClovenError: for none, or where they are of different numbers of images.
    """
    if not tensors:
        raise ClovenError("nothing was captured: the observation is empty; choose a link that is used")
    if len({len(z) for z in tensors}) != 1:
        raise ClovenError(f"captured tensors differ in number: {sorted({len(z) for z in tensors})}")
    return Held(tuple(laid_out(finite(z)) for z in tensors))


def finite(z: Tensor) -> Tensor:
    """The tensor with 0 for NaN and infinity: a listener reads on where a number is broken."""
    if math.isfinite(float(z.sum(dtype=torch.float64))):  # then every number is; there is nothing to copy
        return z
    return torch.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def laid_out(z: Tensor) -> Tensor:
    """The tensor with the channels of a map last in memory: convolutions then run up to twice as fast."""
    return z.contiguous(memory_format=torch.channels_last) if z.ndim == 4 else z.contiguous()


def rows(z: Tensor, index: Tensor) -> Tensor:
    """The rows ``index`` ``(n,)`` of a tensor ``(m, ...)``, laid out as it is; twice as fast as ``z[index]``."""
    if z.ndim != 4 or not z.is_contiguous(memory_format=torch.channels_last):
        return z.index_select(0, index)
    last = z.permute(0, 2, 3, 1)
    return last.flatten(1).index_select(0, index).view(len(index), *last.shape[1:]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Place:
    """Where a captured share lies, for an attacker who knows it: from ``start`` in the map ``name`` of a shape."""

    name: str
    start: Shape
    whole: Shape


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs (z, x) of S1's phase 1 (Sect. 4.1), and what else an attacker knows.

    Attributes:
        captured: what was captured of the attacker's own images, one tensor a share.
        images: those images ``(n, C, H, W)`` in [0, 1].
        seed: fixes the order of the batches, with the number of images: it does not depend on the attack.
        classes: ``(n,)``, what the service answered for them; None where he did not look.
        places: where each share lies in its map; None where he does not know.
        front: the model up to the tap, for an attacker with the weights; None for all others.
    """

    captured: Captured
    images: Tensor
    seed: int = 0
    classes: Tensor | None = None
    places: tuple[Place, ...] | None = None
    front: Front | None = None

    def __post_init__(self) -> None:
        if len(self.captured) != len(self.images):
            raise ClovenError(
                f"captured tensors and images differ in number: {len(self.captured)}, {len(self.images)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image(self) -> Shape:
        """The shape of one image."""
        return tuple(self.images.shape[1:])

    def first(self, count: int) -> tuple[list[Tensor], Tensor]:
        """The first pairs, at most so many: captured tensors and images."""
        index = torch.arange(min(count, len(self)))
        return self.captured.take(index), self.images[index]


@runtime_checkable
class Reconstructor(Protocol):
    """What an attack has learned: from captured tensors ``(n, ...)`` to images ``(n, C, H, W)`` in [0, 1]."""

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What is to be known of the training besides: that it collapsed, or stopped early."""
        ...

    def __call__(self, captured: Sequence[Tensor], /) -> Tensor:
        """The images."""
        ...


@runtime_checkable
class Labeller(Protocol):
    """What an attack without images has learned: from captured tensors to the classes ``(n,)`` of the images."""

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What is to be known of the training besides."""
        ...

    def classify(self, captured: Sequence[Tensor], /) -> Tensor:
        """The classes."""
        ...


Learned = Reconstructor | Labeller
