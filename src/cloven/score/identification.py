"""Identification: whether a reconstruction picks its original out of several images."""

from __future__ import annotations

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.rows import TensorRows
from cloven.score.checks import check_pair

CANDIDATES = 100
"""The number of candidates, the original included; all images if there are fewer."""


@torch.no_grad()
def identified(made: TensorRows, originals: TensorRows, *, seed: int, candidates: int = CANDIDATES) -> Tensor:
    """Return whether each reconstruction is most similar to its own original among several: ``(n,)`` bool.

    The other candidates are ``candidates - 1`` more originals ``(n, C, H, W)`` in [0, 1], n at least 2, drawn with
    the seed. Similarity is the correlation of pixels, each less its mean over the candidates, since properties
    that all images share do not identify any. A tie does not count as a hit, so that a reconstruction without
    information picks its original at most once in ``candidates`` times.
    """
    check_pair(made, originals)
    n = len(originals)
    if n < 2:
        raise ClovenError(f"identification needs at least 2 images, got {n}; score more images")
    size = min(candidates, n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    hits = torch.empty(n, dtype=torch.bool)
    for start in range(0, n, size):
        chosen = order[min(start, n - size) :][:size]
        them = originals[chosen].to(torch.float32)
        common = them.mean(0)
        likeness = _standard(made[chosen].to(torch.float32) - common) @ _standard(them - common).T
        own = likeness.diagonal().clone()
        hits[chosen] = (own > likeness.fill_diagonal_(-torch.inf).amax(1)).cpu()
    return hits


def _standard(images: Tensor) -> Tensor:
    """Return images as rows ``(n, numbers)`` of mean 0 and norm 1; zeros for an image of equal numbers."""
    rows = images.flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    norms: Tensor = rows.square().sum(1, keepdim=True).sqrt()
    return rows / norms.clamp(min=1e-6)
