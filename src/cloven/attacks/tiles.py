"""Attacks on pieces of the image itself (data partitioning): find their places, then fill in the rest.

The decoder of Mehrafrooz et al. (2025) for tiles stretches the piece over the whole image, and sees 5 x 5 pixels of
it at a time. These attacks are stronger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from cloven.attacks.attack import BatchedAttack
from cloven.attacks.hyperparameters import check_fields, one_of
from cloven.attacks.joined import Joined, chained
from cloven.attacks.knowledge import (
    PAIRS,
    CapturedTensors,
    Knowledge,
    LabelReader,
    Pairs,
    Shape,
    SharePlace,
    needed,
)
from cloven.attacks.residual import Residual
from cloven.attacks.tile_search import Tile, locate
from cloven.attacks.trainer import CHUNK, ClosedForm, DescribedReconstructor, Learned, Machine, Trainee, Training
from cloven.errors import ClovenError
from cloven.rows import mean_row


def tiles_of(attack: str, pairs: Pairs) -> tuple[Tile, ...]:
    """Return the pieces of the image among the captured tensors.

    Raises:
        ClovenError: if there are none.
    """
    found = locate(pairs)
    if not found:
        shapes = ", ".join("x".join(map(str, shape)) for shape in pairs.captured.shapes)
        raise ClovenError(
            f"{attack} needs a piece of the image, and the captured tensors ({shapes}) show none; use an attack on "
            "features, such as decoder or residual"
        )
    return found


def pasted(tiles: Sequence[Tile], captured: Sequence[Tensor], canvas: Tensor) -> Tensor:
    """Return a copy of images ``(n, C, H, W)`` with the pieces at their places."""
    made = canvas.clone()
    for tile in tiles:
        made[(slice(None), *tile.box)] = tile.pixels(captured)
    return made


def known(tiles: Sequence[Tile], image: Shape) -> Tensor:
    """Return a mask ``(1, C, H, W)``: 1 where a piece shows the pixel, else 0."""
    mask = torch.zeros(1, *image)
    for tile in tiles:
        mask[(slice(None), *tile.box)] = 1
    return mask


def diffused(images: Tensor, mask: Tensor) -> Tensor:
    """Return images ``(n, C, H, W)`` with the pixels outside ``mask`` ``(1, C, H, W)`` filled in.

    Known pixels are averaged over larger and larger squares until every square has some. Unknown pixels are then
    taken from the squares, from coarse to fine (push-pull: Gortler et al. 1996, The Lumigraph), with a little
    diffusion at each scale. A channel without known pixels is 0.
    """
    if bool((mask > 0).all()) or max(images.shape[2:]) == 1:
        return images
    sums, weight = (F.avg_pool2d(t, 2, ceil_mode=True, count_include_pad=False) for t in (images * mask, mask))
    coarse = diffused(sums / weight.clamp(min=1e-9), (weight > 0).float())
    filled = F.interpolate(coarse, size=images.shape[2:], mode="bilinear")
    for _ in range(SWEEPS):
        near = F.pad(torch.where(mask > 0, images, filled), (1, 1, 1, 1), mode="replicate")
        across, along = near[..., 1:-1, :], near[..., 1:-1]
        filled = (across[..., :-2] + across[..., 2:] + along[..., :-2, :] + along[..., 2:, :]) / 4
    return torch.where(mask > 0, images, filled)


SWEEPS = 4
"""The number of times that each unknown pixel is replaced by the mean of its neighbours, at each scale."""

DIFFUSED = 8
"""The images that are diffused at a time: more would not fit into the processor's cache."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A reconstructor from pieces of the image, which works on batches."""

    tiles: tuple[Tile, ...]
    make: Callable[[list[Tensor]], Tensor]
    learned: DescribedReconstructor | None = None

    @property
    def parameters(self) -> int:
        """The number of learned parameters, without the places of the pieces."""
        return self.learned.parameters if self.learned else 0

    @property
    def notes(self) -> Sequence[str]:
        """The places of the pieces, in words."""
        return (*dict.fromkeys(tile.said for tile in self.tiles), *(self.learned.notes if self.learned else ()))

    @property
    def training(self) -> Training | None:
        """The training of the attack that fills the gaps; None if nothing was trained."""
        return self.learned.training if self.learned else None

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        """Return the images."""
        chunks = zip(*(z.split(CHUNK) for z in captured), strict=True)
        return torch.cat([self.make(list(chunk)).clamp(0, 1) for chunk in chunks])


FILLS = ("mean", "blur")


@dataclass(frozen=True)
class Paste(BatchedAttack):
    """The pieces at their places; the rest is the mean of the own images, or a blur of the pieces' colours.

    ``fill`` is ``mean`` or ``blur``. Nothing else is learned.
    """

    name: ClassVar[str] = "paste"
    fill: str = "mean"

    def __post_init__(self) -> None:
        check_fields(self, fill=one_of(*FILLS))

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`; a `ClovenError` where nothing captured is a piece of the image."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        tiles = tiles_of(self.name, pairs)
        mean, mask = _mean(tiles, pairs), known(tiles, pairs.image)

        def blurred(captured: list[Tensor]) -> Tensor:
            return torch.cat([_filled(part, mask) for part in mean(captured).split(DIFFUSED)])

        return ClosedForm(pairs, Shown(tiles, mean if self.fill == "mean" else blurred))


@dataclass(frozen=True)
class Enlarge(BatchedAttack):
    """The piece enlarged to the size of the image, so that a CNN can classify it.

    Several pieces are enlarged as the smallest rectangle that contains them.
    """

    name: ClassVar[str] = "enlarge"

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> ClosedForm:
        """See `BatchedAttack`; a `ClovenError` where nothing captured is a piece of the image."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        tiles = tiles_of(self.name, pairs)
        mean, mask = _mean(tiles, pairs), known(tiles, pairs.image)
        rows, columns = (_hull([tile.sides[axis] for tile in tiles]) for axis in (0, 1))

        def make(captured: list[Tensor]) -> Tensor:
            shown = _filled(mean(captured)[:, :, rows, columns], mask[:, :, rows, columns])
            return F.interpolate(shown, size=pairs.image[1:], mode="bilinear")

        return ClosedForm(pairs, Shown(tiles, make))


def _hull(sides: Sequence[slice]) -> slice:
    return slice(min(side.start for side in sides), max(side.stop for side in sides))


def _mean(tiles: Sequence[Tile], pairs: Pairs) -> Callable[[list[Tensor]], Tensor]:
    mean = mean_row(pairs.images)[None]
    return lambda captured: pasted(tiles, captured, mean.expand(len(captured[0]), -1, -1, -1))


def _filled(images: Tensor, mask: Tensor) -> Tensor:
    """Return images with unknown pixels filled in, except in channels without known pixels."""
    seen = mask.flatten(2).any(2)[:, :, None, None]
    return torch.where(seen, diffused(images, mask), images)


# --- inpainting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inpaint(Residual):
    """The residual network on the pasted pieces, a mask of them, and all other captured tensors.

    It has all scales, so that a piece at one end of the image can inform the other. Known pixels are pasted into
    its result.
    """

    name: ClassVar[str] = "inpaint"

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Joined[Trainee]:
        """See `BatchedAttack`; a `ClovenError` where nothing captured is a piece of the image."""
        pairs = needed(knowledge.pairs, self.name, PAIRS)
        tiles = tiles_of(self.name, pairs)
        canvas = TileCanvas(pairs.captured, tiles)
        placed = replace(knowledge, captured=canvas, places=canvas.places(knowledge))

        def shown(learned: Learned) -> Shown:
            assert not isinstance(learned, LabelReader)
            return Shown(tiles, lambda z: pasted(tiles, z, learned(canvas.read(z))), learned)

        return chained(super().begin(placed, generator, machine), shown)


@dataclass(frozen=True, eq=False)
class TileCanvas:
    """Captured tensors with the pieces of the image as pixels, one tensor per channel; the others are unchanged."""

    captured: CapturedTensors
    tiles: tuple[Tile, ...]

    @property
    def rest(self) -> list[int]:
        """The captured tensors that are not pieces of the image."""
        pieces = {tile.number for tile in self.tiles}
        return [i for i in range(len(self.captured.shapes)) if i not in pieces]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """See `CapturedTensors`."""
        return (*((1, t.height, t.width) for t in self.tiles), *(self.captured.shapes[i] for i in self.rest))

    def __len__(self) -> int:
        return len(self.captured)

    def take(self, index: Tensor) -> list[Tensor]:
        """See `CapturedTensors`."""
        return self.read(self.captured.take(index))

    def read(self, captured: Sequence[Tensor]) -> list[Tensor]:
        """Return captured tensors as the network reads them."""
        return [*(tile.pixels(captured)[:, None] for tile in self.tiles), *(captured[i] for i in self.rest)]

    def places(self, knowledge: Knowledge) -> tuple[SharePlace, ...]:
        """Return the place of each tensor: pieces in the image, the others where they were or in their own maps."""
        image = tuple(SharePlace("image", (t.channel, t.top, t.left), knowledge.image) for t in self.tiles)
        shapes = self.captured.shapes
        if knowledge.places is not None:
            return (*image, *(knowledge.places[i] for i in self.rest))
        return (*image, *(SharePlace(f"captured {i}", (0,) * len(shapes[i]), shapes[i]) for i in self.rest))
