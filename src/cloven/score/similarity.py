"""Similarity of images, pixel by pixel: SSIM, PSNR, and the 8-bit pixels that both expect.

The value of SSIM depends on its window, borders and data range, by more than published thresholds differ. This
module has one convention, `CONVENTION`, which is stored beside every score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.rows import TensorRows, chunks
from cloven.score.checks import check_images, check_pair, check_range

CONVENTION = "ssim-wang11-valid-channelmean"
"""Wang et al. 2004: Gaussian window, population covariance, range 1, valid region, mean of channels."""

WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2

MSE_FLOOR = (1 / 255) ** 2 / 12
"""The mean squared error of rounding to 8 bits; smaller differences are not meaningful."""

PSNR_CAP = -10 * math.log10(MSE_FLOOR)
"""The PSNR of equal images, about 58.92 dB; an infinite value would make every mean over images infinite."""

CHUNK_VALUES = 2**18
"""Pixels held in float64 at a time (at least one image): 2 MiB for each of about ten intermediate tensors."""


@torch.no_grad()
def ssim(a: TensorRows, b: TensorRows) -> Tensor:
    """Return the structural similarity of each image of ``a`` with that of ``b``: ``(n,)`` float64 in [-1, 1].

    Both are ``(n, C, H, W)`` in [0, 1], of any floating type; ``expand`` compares one image with many and
    copies it only chunk by chunk.
    """
    check_pair(a, b)
    height, width = a.shape[2:]
    if min(height, width) < WINDOW:
        raise ClovenError(
            f"SSIM needs at least {WINDOW} x {WINDOW} pixels for its window, got {height} x {width}; "
            "choose a larger input size"
        )
    rows, cols = _window(height), _window(width)
    return _per_image(a, b, lambda x, y: _ssim(x, y, rows.to(x.device), cols.to(x.device)))


@torch.no_grad()
def psnr(a: TensorRows, b: TensorRows) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair, in dB: ``(n,)`` float64, at most `PSNR_CAP`.

    Both are ``(n, C, H, W)`` in [0, 1]; the peak is 1 and the error a mean over all channels and pixels.
    """
    check_pair(a, b)
    mse = _per_image(a, b, lambda x, y: (x - y).square().mean(dim=(1, 2, 3)))
    return -10 * mse.clamp(min=MSE_FLOOR).log10()


@torch.no_grad()
def quantise(images: Tensor) -> Tensor:
    """Return ``(n, C, H, W)`` clipped to [0, 1] and rounded to multiples of 1/255, as 8-bit pixels are.

    Half-precision images are returned in float32, since half precision cannot represent all 256 levels.
    """
    check_images("images", images)
    if not all(math.isfinite(value) for value in images.aminmax()):
        raise ClovenError("images to quantise must be finite, got NaN or infinity; look at what made them")
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return wide.clamp(0, 1).mul_(255).round_().div_(255)


def _per_image(a: TensorRows, b: TensorRows, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return ``score`` ``(n,)`` of both in float64, few enough images at a time, with their range checked.

    Results are written into one preallocated tensor: when the results of chunks were kept and concatenated, peak
    memory grew with n in most runs, by up to 0.7 MiB for each image of 3 x 224 x 224.
    """
    scores = torch.empty(len(a), dtype=torch.float64)
    step = max(1, CHUNK_VALUES // prod(a.shape[1:]))
    done = 0
    for x, y in zip(chunks(a, step), chunks(b, step), strict=True):
        check_range(x)
        check_range(y)
        scores = scores.to(x.device)
        scores[done : done + len(x)] = score(x.double(), y.double())
        done += len(x)
    return scores


def _window(side: int) -> Tensor:
    """Return ``(side - 10, side)``, banded: row i is the Gaussian window at the i-th valid position."""
    offset = torch.arange(side) - torch.arange(side - WINDOW + 1).unsqueeze(1)
    inside = (offset >= 0) & (offset < WINDOW)
    weight = torch.exp(-0.5 * ((offset.double() - WINDOW // 2) / SIGMA) ** 2) * inside
    return weight / weight.sum(dim=1, keepdim=True)


def _ssim(a: Tensor, b: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    def blur(t: Tensor) -> Tensor:
        return rows @ (t @ cols.T)

    mean_a, mean_b = blur(a), blur(b)
    variance_a = blur(a * a) - mean_a * mean_a
    variance_b = blur(b * b) - mean_b * mean_b
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return (luminance * structure).mean(dim=(1, 2, 3))
