"""Turn any observation into maps and vectors that a network can read.

Shares whose place is known are put where they belong in their map: channel slices, row bands, halo strips and
tiles together make one map, 0 where nothing was seen, with a mask of what was. All others are maps of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from cloven.attacks.knowledge import Pairs, Shape, SharePlace, laid_out

SAMPLE = 4_000_000
"""The most numbers from which means and deviations are computed."""


@dataclass(frozen=True)
class MapPiece:
    """The place of a captured tensor: the number of its map, and its corner there; None if it is the whole map."""

    map: int
    start: Shape | None = None


@dataclass(frozen=True)
class MapLayout:
    """The maps ``(C, H, W)`` and vectors ``(n,)`` that captured tensors form, and the place of each tensor."""

    shapes: tuple[Shape, ...]
    pieces: tuple[MapPiece, ...]
    partial: tuple[bool, ...]
    """For each map, whether a part of it was not captured."""


def layout(shapes: Sequence[Shape], places: Sequence[SharePlace] | None) -> MapLayout:
    """Return the layout of captured tensors of given shapes (for one image); ``places`` are None if unknown."""
    if places is None:
        own = tuple(_as_map(shape) for shape in shapes)
        return MapLayout(own, tuple(MapPiece(i) for i in range(len(own))), (False,) * len(own))
    names = list(dict.fromkeys(place.name for place in places))
    maps, partial, corners = [], [], []
    for name in names:
        boxes = [(p, shape) for p, shape in zip(places, shapes, strict=True) if p.name == name]
        corner, size = _hull(boxes)
        maps.append(size)
        corners.append(corner)
        partial.append(sum(prod(shape) for _, shape in boxes) < prod(size))
    pieces = []
    for place in places:
        number = names.index(place.name)
        start = tuple(a - b for a, b in zip(place.start, corners[number], strict=True))
        pieces.append(MapPiece(number, start))
    kept = [_as_map(size) for size in maps]
    whole = tuple(
        MapPiece(p.map) if tuple(shape) == maps[p.map] else p for p, shape in zip(pieces, shapes, strict=True)
    )
    flat = [p if len(maps[p.map]) in (1, 3) else MapPiece(p.map) for p in whole]
    if any(p.start is None and tuple(s) != maps[p.map] for p, s in zip(flat, shapes, strict=True)):
        return layout(shapes, None)  # pieces of values of other ranks stay apart
    return MapLayout(tuple(kept), tuple(flat), tuple(partial))


def _hull(boxes: Sequence[tuple[SharePlace, Shape]]) -> tuple[Shape, Shape]:
    """Return the corner and size of the smallest map with all pieces: their channels at full height and width."""
    first, _ = boxes[0]
    axes = range(len(first.whole))
    low = tuple(min(p.start[a] for p, _ in boxes) if a == 0 else 0 for a in axes)
    high = tuple(max(p.start[a] + s[a] for p, s in boxes) if a == 0 else first.whole[a] for a in axes)
    return low, tuple(b - a for a, b in zip(low, high, strict=True))


def _as_map(shape: Shape) -> Shape:
    """Return the shape of a vector or a map; of other ranks the last two axes are height and width."""
    if len(shape) in (1, 3):
        return shape
    return (prod(shape[:-2]), *shape[-2:]) if len(shape) > 3 else (1, *shape)


class Adaptor(nn.Module):
    """Captured tensors as standardised maps and vectors: each channel of mean 0 and deviation 1.

    A map that was not seen as a whole gets one more channel, 1 where it was seen.
    """

    def __init__(self, pairs: Pairs, places: Sequence[SharePlace] | None = None) -> None:
        super().__init__()
        self.layout = layout(pairs.captured.shapes, places)
        numbers = max(1, sum(prod(shape) for shape in pairs.captured.shapes))
        sample, _ = pairs.first(max(2, SAMPLE // numbers))
        masks = self._put([torch.ones_like(z[:1]) for z in sample])
        for i, (z, mask) in enumerate(zip(self._put(sample), masks, strict=True)):
            mean, scale = _standard(z, mask)
            self.register_buffer(f"shift{i}", -mean * scale)
            self.register_buffer(f"scale{i}", scale)
            self.register_buffer(f"mask{i}", mask)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each map or vector for one image."""
        return tuple(
            (shape[0] + 1, *shape[1:]) if partial and len(shape) == 3 else shape
            for shape, partial in zip(self.layout.shapes, self.layout.partial, strict=True)
        )

    def _put(self, captured: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps with each captured tensor at its place, and 0 elsewhere."""
        made: list[Tensor | None] = [None] * len(self.layout.shapes)
        for z, piece in zip(captured, self.layout.pieces, strict=True):
            shape = self.layout.shapes[piece.map]
            if piece.start is None:
                made[piece.map] = z.reshape(len(z), *shape)
                continue
            canvas = made[piece.map]
            if canvas is None:
                canvas = made[piece.map] = z.new_zeros(len(z), *shape)
            at = tuple(slice(a, a + n) for a, n in zip(piece.start, z.shape[1:], strict=True))
            canvas[(slice(None), *at)] = z
        return [z for z in made if z is not None]

    def forward(self, captured: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps and vectors of `shapes`, each ``(n, ...)``, channels last in memory."""
        made = []
        for i, (z, shape) in enumerate(zip(self._put(captured), self.shapes, strict=True)):
            mask: Tensor = getattr(self, f"mask{i}")
            z = torch.addcmul(getattr(self, f"shift{i}"), laid_out(z), getattr(self, f"scale{i}"))
            if self.layout.partial[i]:
                z.mul_(mask)
                if len(shape) == 3:
                    z = torch.cat([z, mask[:, :1].expand(len(z), -1, -1, -1)], 1)
            made.append(laid_out(z))
        return made


def _standard(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean, and one over the deviation, of each channel or number of a vector, where it was seen.

    A channel that hardly varies is not blown up.
    """
    axes = [0, 2, 3] if z.ndim == 4 else [0]
    count = (mask.sum(axes, keepdim=True) * len(z)).clamp(min=1)
    mean = (z * mask).sum(axes, keepdim=True) / count
    deviation = (((z - mean) * mask).square().sum(axes, keepdim=True) / count).sqrt()
    least = 1e-3 * float(deviation.square().mean().sqrt())
    return mean, 1 / (deviation + least).clamp(min=1e-12)
