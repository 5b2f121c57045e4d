"""Scores of a part of the image: the tile that a listener captured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cloven.score.similarity import WINDOW, psnr, ssim

Region = tuple[int, int, int, int]
"""Top, left, bottom, right: the first row and column, and those after the last."""


@dataclass(frozen=True)
class RegionScores:
    """Mean scores inside a region; ``ssim`` is None if it is smaller than SSIM's window.

    ``coverage`` is the region's share of the image.
    """

    ssim: float | None
    psnr: float
    coverage: float


def inside(made: Tensor, originals: Tensor, region: Region) -> RegionScores:
    """Return the scores of ``(n, C, H, W)`` images inside a region."""
    top, left, bottom, right = region
    a, b = (t[:, :, top:bottom, left:right].contiguous() for t in (made, originals))
    large = min(a.shape[2:]) >= WINDOW
    coverage = a[0].numel() / made[0].numel()
    return RegionScores(float(ssim(a, b).mean()) if large else None, float(psnr(a, b).mean()), coverage)
