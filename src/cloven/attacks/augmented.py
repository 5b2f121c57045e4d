"""Augmentation by an attacker with the weights: flipped and shifted images, passed through the model's front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, overload

import torch
from torch import Tensor

from cloven.attacks.attack import AN_ATTACK, Attack, BatchedAttack
from cloven.attacks.hyperparameters import COUNT, FRACTION, Allowed, check_fields
from cloven.attacks.joined import Joined
from cloven.attacks.knowledge import (
    FRONT,
    PAIRS,
    Front,
    Knowledge,
    Pairs,
    Rear,
    Shape,
    finite,
    in_memory,
    laid_out,
    needed,
    rows,
)
from cloven.attacks.provenance import needs_classes, part_label
from cloven.attacks.residual import Residual
from cloven.attacks.trainer import CHUNK, Machine, Trainee
from cloven.attacks.unbatched import begun
from cloven.rows import StoredRows, TensorRows, all_rows


@dataclass(frozen=True)
class Augmented(BatchedAttack):
    """Another attack, trained on ``copies`` of each of the attacker's images.

    The first copy is the image itself; the others are flipped and shifted at random, by up to ``shift`` of the
    height and width, with mirrored borders. The captured tensors of a copy are computed with the model's front each
    time that they are read; the copies themselves are kept in memory. The classes of copies come from the model's
    rear. The copies of the last quarter of the images come last, so that an attack that holds out pairs does not
    train on copies of them.
    """

    name: ClassVar[str] = "augmented"
    white_box: ClassVar[bool] = True
    attack: Attack = field(default_factory=Residual)
    copies: int = 4
    shift: float = 0.125

    def __post_init__(self) -> None:
        check_fields(
            self,
            attack=AN_ATTACK,
            copies=COUNT,
            shift=Allowed(lambda x: FRACTION.holds(x) and x <= 0.5, "a number from 0 to 0.5"),
        )

    @property
    def label(self) -> str:
        """See `BatchedAttack`."""
        return f"{part_label(self.attack)}-{self.name}"

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Trainee:
        """See `BatchedAttack`; a `ClovenError` without the model's front."""
        pairs, front = needed(knowledge.pairs, self.label, PAIRS), needed(knowledge.front, self.label, FRONT)
        source, copy = _order(len(pairs), self.copies)
        images = moved(pairs.images, source, copy > 0, self.shift, generator.initial_seed())
        captured, classes = _Passed(pairs, front, images, source, copy > 0), None
        if knowledge.classes is not None and knowledge.rear is not None and needs_classes(self.attack):
            classes = _classes(knowledge.classes, knowledge.rear, captured)
        more = replace(knowledge, auxiliary=images, captured=captured, classes=classes)
        trainee = begun(self.attack, more, generator, machine)
        if trainee.schedule is None or trainee.pairs is None:
            return trainee
        return _Computing((trainee,), lambda inner, training: inner[0].finish(training))


def _order(count: int, copies: int) -> tuple[Tensor, Tensor]:
    """Return the number of the image and of the copy of each pair, ``(count x copies,)``."""
    head = count - count // 4
    sources, numbers = torch.arange(count), torch.arange(copies)
    first = torch.cartesian_prod(numbers, sources[:head]).flip(1)  # copy by copy: the images as they are come first
    last = torch.cartesian_prod(sources[head:], numbers)
    source, copy = torch.cat([first, last]).T.contiguous()
    return source, copy


def moved(images: TensorRows, source: Tensor, changed: Tensor, shift: float, seed: int) -> TensorRows:
    """Return copies ``(m, C, H, W)`` of the images ``source`` ``(m,)``; the ``changed`` are flipped and shifted."""
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[2:]
    offsets = 2 * torch.rand(2, len(source), generator=generator) - 1
    flipped = (torch.rand(len(source), generator=generator) < 0.5) & changed
    down, right = ((offsets * shift * torch.tensor([[height], [width]])).round().long() * changed).unbind()
    lines, columns = _mirrored(height, down), _mirrored(width, right)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    moving = _Moved(images, source, lines, columns)
    return moving if isinstance(images, StoredRows) else all_rows(moving)


@dataclass(frozen=True, eq=False)
class _Moved:
    """Copies of the images ``source`` ``(m,)``, each of which shows some lines and columns ``(m, side)``."""

    images: TensorRows
    source: Tensor
    lines: Tensor
    columns: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.images.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.source)

    @overload
    def __getitem__(self, index: Tensor) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> _Moved: ...
    def __getitem__(self, index: Tensor | slice) -> Tensor | _Moved:
        some_of = (self.source[index], self.lines[index], self.columns[index])
        if isinstance(index, slice):
            return _Moved(self.images, *some_of)
        made = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        parts = (t.split(CHUNK) for t in some_of)
        for some, (source, lines, columns) in zip(made.split(CHUNK), zip(*parts, strict=True), strict=True):
            chosen = rows(self.images, source)
            high = lines[:, None, :, None].expand(chosen.shape)
            some.copy_(chosen.gather(2, high).gather(3, columns[:, None, None, :].expand(chosen.shape)))
        return made


def _mirrored(side: int, offset: Tensor) -> Tensor:
    """Return the lines of the image ``(m, side)`` that each copy shows, moved by ``offset`` ``(m,)``."""
    line = (torch.arange(side) + offset[:, None]).abs()
    return side - 1 - (side - 1 - line).abs()


@dataclass(frozen=True, eq=False)
class _Computing(Joined[Trainee]):
    """Reads its pairs within its own steps, so that the time of the front counts as time of the attack."""

    @property
    def pairs(self) -> Pairs | None:
        pairs = self.inner[0].pairs
        return None if pairs is None else replace(pairs, captured=in_memory(torch.empty(len(pairs), 0)))

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        pairs = self.inner[0].pairs
        assert pairs is not None
        super().step(index, *pairs.take(index), progress)


@dataclass(frozen=True, eq=False)
class _Passed:
    """The captured tensors of images, and of their copies, which the front computes when they are read."""

    pairs: Pairs
    front: Front
    images: TensorRows
    source: Tensor
    changed: Tensor

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.pairs.captured.shapes

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> list[Tensor]:
        found = [torch.empty(len(index), *shape) for shape in self.shapes]
        for chunk in torch.arange(len(index)).split(CHUNK):
            changed = self.changed[index[chunk]]
            as_is, copies = chunk[~changed], chunk[changed]
            with torch.no_grad():
                made = self.front(rows(self.images, index[copies])) if len(copies) else []
            for z, part in zip(found, made, strict=False):
                z[copies] = finite(part)
            if len(as_is):
                for z, part in zip(found, self.pairs.captured.take(self.source[index[as_is]]), strict=True):
                    z[as_is] = part
        return [laid_out(z) for z in found]


def _classes(own: Tensor, rear: Rear, captured: _Passed) -> Tensor:
    """Return the class of each copy ``(m,)``: the answer of the service, or for a changed copy that of the rear."""
    classes = own[captured.source].clone()
    for index in captured.changed.nonzero()[:, 0].split(CHUNK):
        with torch.no_grad():
            classes[index] = rear(captured.take(index)).argmax(1)
    return classes
