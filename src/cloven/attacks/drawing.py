"""Parts of a network that draw random numbers in training, independently of other networks in training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.knowledge import laid_out


class Drawing(nn.Module):
    """A part that draws random numbers. They depend on the step only, which is part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.randint(2**62, ()))

    def drawing(self) -> torch.Generator:
        """Count a step, and return the generator of its random numbers."""
        drawn: Tensor = self.get_buffer("drawn")
        drawn += 1
        return torch.Generator().manual_seed(int(drawn))


class Dropout(Drawing):
    """Dropout: sets a share of the numbers to 0 in training and scales up the others."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``(n, numbers)``."""
        if not self.training or not self.share:
            return x
        kept = torch.rand(x.shape, generator=self.drawing()) >= self.share
        return x * kept.to(x.device) / (1 - self.share)


class Shifted(Drawing):
    """Shifts maps by up to one place in training, padded with zeros."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps ``(n, C, H, W)`` of the same sizes; vectors ``(n, numbers)`` as they are."""
        if not self.training:
            return list(maps)
        down, right = torch.randint(3, (2,), generator=self.drawing()).tolist()
        return [_shifted(z, down, right) if z.ndim == 4 else z for z in maps]


class Masked(Drawing):
    """Sets a share of the places of each map to 0 in training: the same places in all its channels."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps ``(n, C, H, W)`` and vectors ``(n, numbers)`` of the same shapes."""
        if not self.training or not self.share:
            return list(maps)
        generator = self.drawing()
        kept = [torch.rand(z[:, :1].shape, generator=generator) >= self.share for z in maps]
        return [z * mask.to(z.device) for z, mask in zip(maps, kept, strict=True)]


def _shifted(z: Tensor, down: int, right: int) -> Tensor:
    height, width = z.shape[2:]
    return laid_out(F.pad(z, (1, 1, 1, 1))[:, :, down : down + height, right : right + width])
