"""SSIM as a loss: the same index that scores a reconstruction, in float32 and differentiable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
"""Wang et al. 2004, as in `cloven.score.similarity`."""


def ssim_loss(height: int, width: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss 1 - SSIM, a mean over images ``(n, C, height, width)``; small sides shrink the window."""
    rows, columns = _window(height), _window(width)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        r, c = rows.to(a.device), columns.to(a.device)

        def blur(t: Tensor) -> Tensor:
            return r @ (t @ c.T)

        mean_a, mean_b = blur(a), blur(b)
        variance_a, variance_b = blur(a * a) - mean_a * mean_a, blur(b * b) - mean_b * mean_b
        covariance = blur(a * b) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
        structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
        return 1 - (luminance * structure).mean()

    return loss


def mixed(likeness: float, image: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss: the mean squared error plus ``likeness`` times (1 - SSIM)."""
    if not likeness:
        return F.mse_loss
    other = ssim_loss(image[1], image[2])
    return lambda made, images: F.mse_loss(made, images) + likeness * other(made, images)


def _window(side: int) -> Tensor:
    """Return ``(side - 10, side)``: row i is the Gaussian window at the i-th place where it fits."""
    size = min(WINDOW, side)
    offset = torch.arange(side) - torch.arange(side - size + 1).unsqueeze(1)
    inside = (offset >= 0) & (offset < size)
    weight = torch.exp(-0.5 * ((offset - (size - 1) / 2) / SIGMA) ** 2) * inside
    return weight / weight.sum(dim=1, keepdim=True)
