"""The networks of the stronger attacks: enlarging without waste, residual blocks, a pyramid of scales."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloven.attacks.adapt import Adaptor
from cloven.attacks.convolutions import Convolution, Doubled
from cloven.attacks.knowledge import Pairs, Shape

QUICK = 0.3
"""The momentum of batch statistics: a training may have a dozen steps, after which the usual 0.1 still lags."""

NUMBERS = 4_000_000
"""The most weights that read a vector: with more, a listener has too few pairs."""


def scales(image: Shape, coarsest: int = 4) -> list[tuple[int, int]]:
    """Return heights and widths from the image's on, each half of the last, down to a side of ``coarsest``."""
    found = [(image[1], image[2])]
    while min(found[-1]) > coarsest:
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


def scale_of(shape: Shape, sizes: Sequence[tuple[int, int]]) -> int:
    """Return the coarsest scale that loses nothing of a map; the coarsest of all for a vector."""
    if len(shape) != 3:
        return len(sizes) - 1
    return max((k for k, size in enumerate(sizes) if size[0] >= shape[1] and size[1] >= shape[2]), default=0)


class Pyramid(nn.Module):
    """Maps and vectors to an image, over all scales: each enters at its own, and a coarse scale sees everything.

    Down from the finest scale that something was captured at, and up again to the image, with what was seen on the
    way down added on the way up. At each scale on the way up there are ``blocks`` further convolutions (`Added`),
    but none at the image's own, where each costs most and helps least, nor at half of it where the image's own
    scale was captured. Nor are there norms: with blocks that at first change nothing it learns as well without.
    """

    def __init__(self, shapes: Sequence[Shape], image: Shape, width: int, blocks: int, coarsest: int) -> None:
        super().__init__()
        self.sizes = scales(image, coarsest)
        self.at = [scale_of(shape, self.sizes) for shape in shapes]
        self.first, last = min(self.at), len(self.sizes) - 1
        channels = [width * 2 ** min(k, 2) for k in range(last + 1)]
        self.stems = nn.ModuleDict()
        for k in range(last + 1):
            if read := [shape for shape, at in zip(shapes, self.at, strict=True) if at == k]:
                self.stems[str(k)] = Stem(read, self.sizes[k], channels[k])
        self.downs = nn.ModuleDict()
        for fine, coarse in pairwise(range(self.first, last + 1)):
            self.downs[str(coarse)] = Convolution(channels[fine], channels[coarse], 2)
        self.ups = nn.ModuleDict({str(k): Doubled(channels[k + 1], channels[k]) for k in range(last)})
        finest = 1 if self.first else 2
        counts = {k: blocks if k >= min(finest, last) else 0 for k in range(last + 1)}
        self.made = nn.ModuleDict()
        for k, count in counts.items():
            self.made[str(k)] = nn.Sequential(*(Added(channels[k]) for _ in range(count)))
        self.out = Convolution(channels[0], image[0])
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return ``(n, *image)`` of maps ``(n, C, H, W)`` and vectors ``(n, numbers)``."""
        kept: dict[int, Tensor] = {}
        x: Tensor | None = None
        for k in range(self.first, len(self.sizes)):
            own = [z for z, at in zip(maps, self.at, strict=True) if at == k]
            parts = [self.stems[str(k)](own)] if own else []
            parts += [self.downs[str(k)](leaky(x))] if x is not None else []
            x = kept[k] = sum(parts[1:], start=parts[0])
        assert x is not None
        x = self.made[str(len(self.sizes) - 1)](x)
        for k in reversed(range(len(self.sizes) - 1)):
            x = cropped(self.ups[str(k)](leaky(x)), self.sizes[k])
            x = self.made[str(k)](x + kept[k] if k in kept else x)
        image: Tensor = self.out(leaky(x))
        return image


def leaky(x: Tensor) -> Tensor:
    """Return what is positive, and a tenth of what is negative: no channel dies on a high learning rate."""
    return F.leaky_relu(x, 0.1)


class Added(nn.Module):
    """A 3x3 convolution of what is mostly positive (`leaky`), added; at first it changes nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, channels, H, W)`` of the same."""
        changed: Tensor = self.conv(leaky(x))
        return changed.add_(x)


class Stem(nn.Module):
    """A layer that reads all that is captured at one scale as one map of that scale."""

    def __init__(self, shapes: Sequence[Shape], size: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        maps, vectors = ([s for s in shapes if len(s) == axes] for axes in (3, 1))
        self.conv = Convolution(sum(s[0] for s in maps), channels) if maps else None
        self.linears = nn.ModuleList(_reading(s[0], channels * size[0] * size[1]) for s in vectors)

    def forward(self, captured: Sequence[Tensor]) -> Tensor:
        """Return ``(n, channels, *size)`` of maps and vectors of this scale."""
        maps = [resized(z, self.size) for z in captured if z.ndim == 4]
        parts = [self.conv(joined(maps))] if self.conv is not None else []
        vectors = (z for z in captured if z.ndim == 2)
        for linear, z in zip(self.linears, vectors, strict=True):
            parts.append(linear(z).reshape(len(z), self.channels, *self.size))
        total: Tensor = sum(parts[1:], start=parts[0])
        return total


def _reading(numbers: int, outputs: int) -> nn.Module:
    """Return a linear reading of a vector; through a bottleneck where it would have too many weights."""
    if numbers * outputs <= NUMBERS:
        return nn.Linear(numbers, outputs)
    narrow = max(1, min(256, NUMBERS // (numbers + outputs)))
    return nn.Sequential(nn.Linear(numbers, narrow), nn.Linear(narrow, outputs))


def resized(z: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map ``(n, C, H, W)`` at another size: nearest where it grows, means where it shrinks."""
    if tuple(z.shape[2:]) == size:
        return z
    if z.shape[2] > size[0] or z.shape[3] > size[1]:
        return F.adaptive_avg_pool2d(z, size)
    return F.interpolate(z, size, mode="nearest")


def cropped(z: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the upper left of maps, or maps of that size as they are: gradients of a slice cost copies."""
    return z if tuple(z.shape[2:]) == size else z[:, :, : size[0], : size[1]]


def joined(maps: Sequence[Tensor]) -> Tensor:
    """Return maps ``(n, C, H, W)`` of one size as one; a single map is not copied."""
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), 1)


def readings(shapes: Sequence[Shape], channels: int) -> list[list[int]]:
    """Return choices of maps for a linear reading: those of the most places, then coarser ones with them, to all.

    Each choice has no more channels together than so many; a map that would be too many is left out. Without
    maps nothing can be read.
    """
    places = {i: shape[1] * shape[2] for i, shape in enumerate(shapes) if len(shape) == 3}
    found: list[list[int]] = []
    chosen: list[int] = []
    for size in sorted(set(places.values()), reverse=True):
        before = len(chosen)
        for i, own in places.items():
            if own == size and sum(shapes[j][0] for j in (*chosen, i)) <= channels:
                chosen.append(i)
        if len(chosen) > before:
            found.append(sorted(chosen))
    return found or [[]]


class Sharpened(nn.Module):
    """Captured tensors to images: a network added to the best linear reading of each pixel.

    The linear part, a ridge regression of pixels from the channels above them, is solved in closed form, so that
    whatever lies in clear in what was captured is not lost on a short training. Coarse maps have few places to
    learn from for their many channels: how coarse the maps are that are read is chosen on held-out pairs.
    """

    PENALTY = 1e-6
    PIXELS, NUMBERS = 200_000, 20_000_000
    """The most pixels, and captured numbers, that the regression is solved on: far more than channels."""
    CHANNELS = 2048
    """The most channels that are read; with none, the mean image of each pixel's channel."""
    LEARNED = 0.8
    """The share of the pairs that the choice is made from; the others judge it."""

    def __init__(self, adaptor: Adaptor, network: nn.Module, pairs: Pairs) -> None:
        super().__init__()
        self.adaptor, self.network = adaptor, network
        self.size = (pairs.image[1], pairs.image[2])
        choices = readings(adaptor.shapes, self.CHANNELS)
        maps = [adaptor.shapes[i] for i in choices[-1]]
        self.grid = (max((m[1] for m in maps), default=1), max((m[2] for m in maps), default=1))
        pixels = min(self.PIXELS, self.NUMBERS // max(1, sum(m[0] for m in maps)))
        count = max(2, pixels // (self.grid[0] * self.grid[1]))
        captured, images = pairs.first(count)
        with torch.no_grad():
            read, wanted = adaptor(captured), F.adaptive_avg_pool2d(images, self.grid)
            self.read = choices[0]
            if len(choices) > 1:
                self.read = min(choices, key=lambda choice: self._error(self._together(read, choice), wanted))
            weight, bias = ridge(self._together(read, self.read), wanted, self.PENALTY)
        self.linear = nn.Conv2d(weight.shape[1], pairs.image[0], 1)
        self.linear.weight.data.copy_(weight[:, :, None, None])
        self.linear.bias.data.copy_(bias)  # type: ignore[union-attr]

    def _together(self, maps: Sequence[Tensor], choice: Sequence[int]) -> Tensor:
        """Return the chosen maps in one, at the grid of the finest."""
        if not choice:
            return maps[0].new_zeros(len(maps[0]), 1, *self.grid)
        return joined([resized(maps[i], self.grid) for i in choice])

    def _error(self, read: Tensor, wanted: Tensor) -> float:
        """Return the mean squared error on pairs that were held out from the solution."""
        last = min(len(read) - 1, max(1, int(self.LEARNED * len(read))))
        weight, bias = ridge(read[:last], wanted[:last], self.PENALTY)
        made = F.conv2d(read[last:], weight[:, :, None, None].to(read), bias.to(read))
        return float(F.mse_loss(made, wanted[last:]))

    def forward(self, captured: Sequence[Tensor]) -> Tensor:
        """Return ``(n, *image)`` of captured tensors ``(n, ...)``, not clipped."""
        maps = self.adaptor(captured)
        read = self.linear(self._together(maps, self.read))
        made: Tensor = self.network(maps) + resized(read, self.size)
        return made


def ridge(captured: Tensor, images: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return the weights ``(C', C)`` and bias ``(C',)`` that read ``(n, C', H, W)`` from ``(n, C, H, W)`` best.

    ``penalty`` times the mean of the channels' variances stands against large weights.
    """
    z, x = (t.movedim(1, 3).flatten(0, 2).double() for t in (captured, images))
    centre, mean = z.mean(0), x.mean(0)
    z, x = z - centre, x - mean
    gram = z.T @ z / len(z)
    strength = penalty * gram.diagonal().mean().clamp(min=1e-12)
    weight = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=z.dtype), z.T @ x / len(z))
    return weight.T, mean - centre @ weight
