"""Scores of a part of the image: the tile that a listener captured."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from cloven.rows import TensorRows, chunks
from cloven.score.similarity import CHUNK_VALUES, WINDOW, psnr, ssim

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


def inside(made: TensorRows, originals: TensorRows, region: Region) -> RegionScores:
    """Return the scores of ``(n, C, H, W)`` images inside a region."""
    top, left, bottom, right = region
    size, whole = (bottom - top, right - left), made.shape[2:]
    step = max(1, CHUNK_VALUES // (made.shape[1] * prod(size)))  # as many as are compared at a time
    likeness, noise = [], []
    for pair in zip(chunks(made, step), chunks(originals, step), strict=True):
        a, b = (t[:, :, top:bottom, left:right].contiguous() for t in pair)
        likeness += [ssim(a, b)] if min(size) >= WINDOW else []
        noise.append(psnr(a, b))
    mean = float(torch.cat(likeness).mean()) if likeness else None
    return RegionScores(mean, float(torch.cat(noise).mean()), prod(size) / prod(whole))
