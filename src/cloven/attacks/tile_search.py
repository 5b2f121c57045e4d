"""Find the place of a captured tensor in the image, with the attacker's own pairs.

A piece of the image, raw or normalised, is an affine function of its pixels, one per channel. For each possible
place, the best function in the sense of least squares has a closed form, from cross-correlations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cloven.attacks.knowledge import Pairs

SEARCHED, VERIFIED = 8, 32
"""The most pairs that search the place, and other pairs that verify it."""

TOLERANCE = 0.01
"""The share of the pixels' variance that may remain unexplained (20 dB below the image). Rounding to 8 bits leaves
about 1e-4 of it; the channels of a first convolution that are most like the image leave several times 0.01."""

NUMBERS = 16
"""The fewest captured numbers, over all verifying pairs, with which a place can be verified."""

FLAT = 1e-9
"""The variance, as a share of that of all images, below which a region counts as one colour."""


@dataclass(frozen=True)
class Tile:
    """A channel of a captured tensor that shows a rectangle of a channel of the image.

    The pixels are ``scale`` times the captured numbers, plus ``shift``.
    """

    number: int
    part: int
    channel: int
    top: int
    left: int
    height: int
    width: int
    scale: float
    shift: float

    @property
    def box(self) -> tuple[int, slice, slice]:
        """Its place in an image ``(C, H, W)``."""
        return self.channel, *self.sides

    @property
    def sides(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def said(self) -> str:
        """The place in words."""
        rows, columns = f"{self.top} to {self.top + self.height}", f"{self.left} to {self.left + self.width}"
        return f"captured tensor {self.number} is the image's rows {rows}, columns {columns}"

    def pixels(self, captured: Sequence[Tensor]) -> Tensor:
        """Return the pixels ``(n, height, width)`` in [0, 1] of captured tensors."""
        return (captured[self.number][:, self.part] * self.scale + self.shift).clamp(0, 1)


def locate(pairs: Pairs) -> tuple[Tile, ...]:
    """Return the pieces of the image among the captured tensors, one tile per channel.

    A tensor ``(c, h, w)`` is a piece if all its channels show the same rectangle of the image, each of another
    channel. A region that has one colour in all images cannot be found.
    """
    captured, images = pairs.first(SEARCHED + VERIFIED)
    found: list[Tile] = []
    for i, z in enumerate(captured):
        found += _piece(i, z.double(), images.double())
    return tuple(found)


def _piece(number: int, z: Tensor, images: Tensor) -> list[Tile]:
    """Return a captured tensor as a piece of the image, one tile per channel; no tiles if it is not a piece."""
    if z.ndim != 4 or any(a > b for a, b in zip(z.shape[1:], images.shape[1:], strict=True)):
        return []
    some = max(1, min(SEARCHED, len(z) // 2))
    fits = explained(z[:some], images[:some])
    top, left = divmod(int(fits.amax(1).sum(0).argmax()), fits.shape[3])
    channels = _partners(fits[:, :, top, left])
    height, width = z.shape[2:]
    shown = images[:, channels, top : top + height, left : left + width]
    tiles = []
    for part, channel in enumerate(channels):
        if not _verified(z[:, part], shown[:, part], some):
            return []
        scale, shift = _map(z[:, part], shown[:, part])
        tiles.append(Tile(number, part, channel, top, left, height, width, scale, shift))
    return tiles


def explained(z: Tensor, images: Tensor) -> Tensor:
    """Return how well an affine function of the image explains a captured tensor, for all channels and places.

    Args:
        z: ``(n, c, h, w)`` float64.
        images: ``(n, C, H, W)`` float64, no smaller.

    Returns:
        ``(c, C, H - h + 1, W - w + 1)``: the squared correlation over all images and pixels; 0 if either has
        one colour.
    """
    z, images = z - z.mean((0, 2, 3), keepdim=True), images - images.mean((0, 2, 3), keepdim=True)
    size, count = images.shape[2:], z[:, 0].numel()
    rows, columns = (a - b + 1 for a, b in zip(size, z.shape[2:], strict=True))

    def spectrum(t: Tensor) -> Tensor:
        whole: Tensor = torch.fft.rfft2(t, s=size)
        return whole

    def sums(spectra: Tensor) -> Tensor:
        wrapped: Tensor = torch.fft.irfft2(spectra, s=size)
        return wrapped[..., :rows, :columns]

    ones = spectrum(torch.ones_like(z[0, 0])).conj()
    mean = sums(spectrum(images.sum(0)) * ones) / count
    variance = sums(spectrum(images.square().sum(0)) * ones) / count - mean.square()
    # z has mean 0, so that the mean of the image need not be subtracted
    products = torch.einsum("nkij,ncij->kcij", spectrum(z).conj(), spectrum(images))
    covariance = sums(products) / count
    own = z.square().mean((0, 2, 3))[:, None, None, None]
    least = FLAT * images.square().mean((0, 2, 3))[:, None, None]
    explained = covariance.square() / (own * variance.clamp(min=0)).clamp(min=1e-300)
    return torch.where((variance > least) & (own > 0), explained, 0.0)


def _partners(fits: Tensor) -> list[int]:
    """Return a different channel of the image for each captured channel; of equals, the one with its number."""
    left, chosen = list(range(fits.shape[1])), []
    for part, row in enumerate(fits.tolist()):
        best = max(left, key=lambda c: (round(row[c], 6), c == part))
        left.remove(best)
        chosen.append(best)
    return chosen


def _map(z: Tensor, pixels: Tensor) -> tuple[float, float]:
    """Return the scale and shift from captured numbers to pixels, by least squares."""
    centred = z - z.mean()
    scale = float((centred * pixels).sum() / centred.square().sum().clamp(min=1e-300))
    return scale, float(pixels.mean() - scale * z.mean())


def _verified(z: Tensor, pixels: Tensor, some: int) -> bool:
    """Return whether the scale and shift of the first ``some`` pairs hold for the others."""
    scale, shift = _map(z[:some], pixels[:some])
    if len(z) > some:
        z, pixels = z[some:], pixels[some:]
    error, variance = (z * scale + shift - pixels).square().mean(), pixels.var(correction=0)
    return z.numel() >= NUMBERS and bool(variance > 0) and bool(error <= TOLERANCE * variance)
