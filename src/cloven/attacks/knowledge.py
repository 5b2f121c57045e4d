"""The knowledge of an attacker: pairs, auxiliary images, the observations to attack, queries, the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from cloven.errors import ClovenError
from cloven.rows import TensorRows

Shape = tuple[int, ...]
Known = TypeVar("Known")

Front = Callable[[Tensor], list[Tensor]]
"""The model before the tap: from images ``(n, C, H, W)`` in [0, 1] to captured tensors, one per share.

Gradients flow through it."""

Rear = Callable[[Sequence[Tensor]], Tensor]
"""The model behind the tap: from captured tensors to logits ``(n, classes)``. Gradients flow through it."""


class QueryResult(NamedTuple):
    """The answer to a query: the captured tensors of the images, and the class that the service gives each."""

    captured: list[Tensor]
    classes: Tensor


Query = Callable[[Tensor], QueryResult]
"""The running service, asked by the attacker as a user while the tap records: from images ``(n, C, H, W)`` in
[0, 1]. It gives no gradients."""


class CapturedTensors(Protocol):
    """The captured tensors of some images, read by rows: in memory, in a file, or computed when they are read."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shape of each tensor for one image."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def take(self, index: Tensor) -> list[Tensor]:
        """Return the rows ``index`` ``(n,)`` of each tensor, float32 ``(n, ...)``, all finite."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Captured tensors ``(n, ...)`` in memory; made by `in_memory`."""

    tensors: tuple[Tensor, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """See `CapturedTensors`."""
        return tuple(tuple(z.shape[1:]) for z in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, index: Tensor) -> list[Tensor]:
        """See `CapturedTensors`."""
        return [rows(z, index) for z in self.tensors]


def in_memory(*tensors: Tensor) -> InMemory:
    """Return captured tensors ``(n, ...)``, one per share, as `CapturedTensors`; 0 replaces non-finite numbers.

    Raises:
        ClovenError: if there are no tensors, or if their numbers of images differ.
    """
    if not tensors:
        raise ClovenError("nothing was captured: the observation is empty; choose a link that is used")
    if len({len(z) for z in tensors}) != 1:
        raise ClovenError(f"captured tensors differ in number: {sorted({len(z) for z in tensors})}")
    return InMemory(tuple(laid_out(finite(z)) for z in tensors))


def finite(z: Tensor) -> Tensor:
    """Return the tensor with 0 for NaN and infinity: a listener ignores broken numbers."""
    if math.isfinite(float(z.sum(dtype=torch.float64))):  # then every number is finite, and nothing is copied
        return z
    return torch.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def laid_out(z: Tensor) -> Tensor:
    """Return the tensor with the channels of maps last in memory: convolutions are then up to twice as fast."""
    return z.contiguous(memory_format=torch.channels_last) if z.ndim == 4 else z.contiguous()


def rows(z: TensorRows, index: Tensor) -> Tensor:
    """Return the rows ``index`` ``(n,)`` of ``(m, ...)`` in its memory format; twice as fast as ``z[index]``."""
    if not isinstance(z, Tensor):
        return rows(z[index], torch.arange(len(index)))  # in the memory format that rows in memory have
    if z.ndim != 4 or not z.is_contiguous(memory_format=torch.channels_last):
        return z.index_select(0, index)
    last = z.permute(0, 2, 3, 1)
    return last.flatten(1).index_select(0, index).view(len(index), *last.shape[1:]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class SharePlace:
    """The place of a captured share in the map ``name``, whose shape is ``whole``: it begins at ``start``."""

    name: str
    start: Shape
    whole: Shape


@dataclass(frozen=True, eq=False)
class Pairs:
    """The attacker's own images and their captured tensors.

    These are the pairs (z, x) of Mehrafrooz et al. (2025, Sect. 4.1).

    Attributes:
        captured: the captured tensors of the images, one per share.
        images: ``(n, C, H, W)`` in [0, 1]; many images are in a file, from which rows are read.
        seed: determines the order of the batches, together with the number of images but not with the attack.

    Raises:
        ClovenError: if the numbers of rows differ.
    """

    captured: CapturedTensors
    images: TensorRows
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.captured) != len(self.images):
            raise ClovenError(
                f"captured tensors and images differ in number: {len(self.captured)}, {len(self.images)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image(self) -> Shape:
        """The shape of one image."""
        return tuple(self.images.shape[1:])

    def take(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the pairs ``index`` ``(n,)``: captured tensors ``(n, ...)`` and their images ``(n, C, H, W)``."""
        return self.captured.take(index), rows(self.images, index)

    def first(self, count: int | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the first pairs, at most ``count``; all pairs if it is None."""
        return self.take(torch.arange(len(self) if count is None else min(count, len(self))))


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Everything that an attacker knows. What the attacker does not know is None.

    Nothing is computed or copied before it is used: captured tensors are computed when their rows are taken, and
    the model is prepared when it is called.

    Attributes:
        image: the shape ``(C, H, W)`` of the images that the model takes.
        auxiliary: the attacker's own images ``(n, C, H, W)`` in [0, 1]; many are in a file, from which rows are
            read, but an attack that defines only `Attack.fit` gets a tensor.
        captured: the captured tensors of the first of them, or of all; see `pairs`.
        classes: ``(n,)``, the class that the service answered for each auxiliary image.
        observed: the captured tensors of the victims, which are to be attacked. An attack may adapt to them.
        query: a function that asks the running service about further images, as its users may.
        front: the model up to the tap, for an attacker with the weights.
        rear: the model behind the tap, likewise; None also if its output cannot be computed from captured tensors.
        places: the place of each share in its map.
        seed: see `Pairs`.

    Raises:
        ClovenError: if shapes or numbers of images are inconsistent.
    """

    image: Shape
    auxiliary: TensorRows | None = None
    captured: CapturedTensors | None = None
    classes: Tensor | None = None
    observed: CapturedTensors | None = None
    query: Query | None = None
    front: Front | None = None
    rear: Rear | None = None
    places: tuple[SharePlace, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        count = 0 if self.auxiliary is None else len(self.auxiliary)
        if self.auxiliary is not None and tuple(self.auxiliary.shape[1:]) != tuple(self.image):
            problems.append(f"auxiliary images are {tuple(self.auxiliary.shape[1:])}; expected {tuple(self.image)}")
        if self.captured is not None and len(self.captured) > count:
            problems.append(f"{len(self.captured)} images were captured; there are {count} auxiliary images")
        if self.classes is not None and len(self.classes) != count:
            problems.append(f"{len(self.classes)} classes were answered; there are {count} auxiliary images")
        if problems:
            raise ClovenError(problems)

    @property
    def pairs(self) -> Pairs | None:
        """The auxiliary images with captured tensors, and these tensors; None for an attacker without them."""
        if self.captured is None or self.auxiliary is None:
            return None
        return Pairs(self.captured, self.auxiliary[: len(self.captured)], self.seed)


class MissingKnowledgeError(ClovenError):
    """The attacker lacks knowledge that an attack needs; an audit then leaves this attack out."""


def needed(known: Known | None, attack: str, what: str) -> Known:
    """Return a part of an attacker's knowledge that an attack requires.

    >>> pairs = needed(knowledge.pairs, "NearestImage", "pairs of images and what was captured of them")

    Raises:
        MissingKnowledgeError: if it is None; the message says what the attack needs.
    """
    if known is None:
        raise MissingKnowledgeError(f"{attack} needs {what}; this attacker has none")
    return known


PAIRS = "pairs of images and what was captured of them"
CLASSES = "the classes that the service answered for the attacker's own images"
FRONT = "the model's weights (its front, up to the tap)"
REAR = "the model's weights (its rear, behind the tap), and of a layer all that the rear reads"
"""The parts of an attacker's knowledge, as error messages name them."""


@runtime_checkable
class Reconstructor(Protocol):
    """The result of an attack that reconstructs images: a function, or any object that can be called.

    It may have two attributes: ``parameters``, the number of learned parameters, and ``notes``, sentences about the
    training that reports show.
    """

    def __call__(self, captured: Sequence[Tensor], /) -> Tensor:
        """Return the images ``(n, C, H, W)`` in [0, 1] of captured tensors ``(n, ...)``."""
        ...


@runtime_checkable
class LabelReader(Protocol):
    """The result of an attack that reads classes without reconstructing images.

    It may have the attributes that a `Reconstructor` may have.
    """

    def classify(self, captured: Sequence[Tensor], /) -> Tensor:
        """Return the classes ``(n,)`` of the images of captured tensors ``(n, ...)``."""
        ...
