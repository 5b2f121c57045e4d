"""Convolutions that compute what torch's do, with less work on a CPU; their weights are the same."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 4
"""With so few outputs a convolution is faster as the transposed one that it equals."""


class Convolution(nn.Conv2d):
    """A 3x3 convolution whose bias is added by itself: within, its gradient takes a tenth of the time."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(n, inputs, H, W)`` to ``(n, outputs, ...)``."""
        if self.out_channels > FEW or self.stride != (1, 1):
            return biased(F.conv2d(x, self.weight, None, self.stride, 1), self.bias)
        turned = self.weight.flip(2, 3).transpose(0, 1)
        return biased(F.conv_transpose2d(x, turned, None, padding=1), self.bias)


class Transposed(nn.ConvTranspose2d):
    """A transposed convolution; see `Convolution`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See `torch.nn.ConvTranspose2d`; ``output_size`` is not used."""
        stride, padding, more = (cast(tuple[int, int], v) for v in (self.stride, self.padding, self.output_padding))
        return biased(F.conv_transpose2d(x, self.weight, None, stride, padding, more), self.bias)


class Doubled(nn.Conv2d):
    """Nearest enlarging by 2, then a 3x3 convolution; the weights are those of the convolution.

    Computed as the transposed convolution of stride 2 that it equals, whose 4x4 kernel is the 3x3 kernel folded
    with the 2x2 box of the enlarging: 16 multiplications an input pixel instead of 36, and no enlarged copy.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.register_buffer("fold", torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(n, inputs, H, W)`` to ``(n, outputs, 2H, 2W)``."""
        kernel = torch.einsum("oikl,kp,lq->iopq", self.weight.flip(2, 3), self.fold, self.fold)
        return biased(F.conv_transpose2d(x, kernel, None, stride=2, padding=1), self.bias)


def biased(made: Tensor, bias: Tensor | None) -> Tensor:
    """A fresh map ``(n, C, H, W)`` with a bias ``(C,)`` added to it in place."""
    return made if bias is None else made.add_(bias[:, None, None])
