"""The networks of the stronger attacks: a pyramid with residual blocks, and a linear reading of pixels."""

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
"""The momentum of batch statistics: in a training of a dozen steps, the usual 0.1 would lag behind."""

NUMBERS = 4_000_000
"""The most weights of a layer that reads a vector: a listener has too few pairs for more."""


def scales(image: Shape, coarsest: int = 4) -> list[tuple[int, int]]:
    """Return heights and widths, from the image's own by halves down to a side of ``coarsest``."""
    found = [(image[1], image[2])]
    while min(found[-1]) > coarsest:
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


def scale_of(shape: Shape, sizes: Sequence[tuple[int, int]]) -> int:
    """Return the coarsest scale that is at least as large as a map; for a vector, the coarsest of all."""
    if len(shape) != 3:
        return len(sizes) - 1
    return max((k for k, size in enumerate(sizes) if size[0] >= shape[1] and size[1] >= shape[2]), default=0)


class Pyramid(nn.Module):
    """A network from maps and vectors to an image, over all scales; each enters at its own scale.

    It goes down from the finest scale of the captured tensors, and up again to the image, with skip connections.
    At each scale on the way up there are ``blocks`` further convolutions (`Added`); but not at the image's own
    scale, where each costs most and helps least, nor at half of it if the image's own scale was captured. There are
    no norms: with blocks that change nothing at first, it learns as well without.
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
    """Return positive values, and a tenth of negative ones: channels then survive a high learning rate."""
    return F.leaky_relu(x, 0.1)


class Added(nn.Module):
    """A residual block: a 3x3 convolution after `leaky`, added to its input; at first it changes nothing."""

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
    """A layer that reads all captured tensors of one scale as one map of that scale."""

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
    """Return a linear layer that reads a vector, with a bottleneck if it would have too many weights."""
    if numbers * outputs <= NUMBERS:
        return nn.Linear(numbers, outputs)
    narrow = max(1, min(256, NUMBERS // (numbers + outputs)))
    return nn.Sequential(nn.Linear(numbers, narrow), nn.Linear(narrow, outputs))


def resized(z: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map ``(n, C, H, W)`` at another size: nearest if it grows, means if it shrinks."""
    if tuple(z.shape[2:]) == size:
        return z
    if z.shape[2] > size[0] or z.shape[3] > size[1]:
        return F.adaptive_avg_pool2d(z, size)
    return F.interpolate(z, size, mode="nearest")


def cropped(z: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the upper left part of maps; maps of that size as they are, since gradients of a slice cost copies."""
    return z if tuple(z.shape[2:]) == size else z[:, :, : size[0], : size[1]]


def joined(maps: Sequence[Tensor]) -> Tensor:
    """Return maps ``(n, C, H, W)`` of one size as one; a single map is not copied."""
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), 1)


def readings(shapes: Sequence[Shape], channels: int) -> list[list[int]]:
    """Return choices of maps for a linear reading: the finest maps, these with the next coarser ones, up to all.

    A choice has at most ``channels`` channels in all; maps that would exceed them are left out. Without maps, the
    only choice is empty.
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

    The linear part, a ridge regression of pixels from the channels at their place, is solved in closed form, so
    that a short training does not miss pixels that captured tensors show directly. Coarse maps have many channels
    and few places to learn from: how coarse the maps are that are read is chosen on held-out pairs.
    """

    PENALTY = 1e-6
    PIXELS, NUMBERS = 200_000, 20_000_000
    """The most pixels, and captured numbers, on which the regression is solved: far more than channels."""
    CHANNELS = 2048
    """The most channels that are read."""
    LEARNED = 0.8
    """The share of these pairs on which each choice is solved; the others judge it."""

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
        """Return the chosen maps as one, at the grid of the finest."""
        if not choice:
            return maps[0].new_zeros(len(maps[0]), 1, *self.grid)
        return joined([resized(maps[i], self.grid) for i in choice])

    def _error(self, read: Tensor, wanted: Tensor) -> float:
        """Return the mean squared error on held-out pairs."""
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
    """Return the weights ``(C', C)`` and bias ``(C',)`` of a ridge regression of images on captured maps.

    They map ``(n, C, H, W)`` to ``(n, C', H, W)``. The ridge is ``penalty`` times the mean variance of channels.
    """
    z, x = (t.movedim(1, 3).flatten(0, 2).double() for t in (captured, images))
    centre, mean = z.mean(0), x.mean(0)
    z, x = z - centre, x - mean
    gram = z.T @ z / len(z)
    strength = penalty * gram.diagonal().mean().clamp(min=1e-12)
    weight = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=z.dtype), z.T @ x / len(z))
    return weight.T, mean - centre @ weight
