"""The knowledge of an attacker: pairs, auxiliary images, the observations to attack, queries, the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from cloven.errors import ClovenError

Shape = tuple[int, ...]
Known = TypeVar("Known")

Front = Callable[[Tensor], list[Tensor]]
"""The model before the tap: from images ``(n, C, H, W)`` in [0, 1] to what is captured of them, a tensor a share.

Gradients flow through it."""

Rear = Callable[[Sequence[Tensor]], Tensor]
"""The model behind the tap: from captured tensors to logits ``(n, classes)``. Gradients flow through it."""


class QueryResult(NamedTuple):
    """The answer to a query: what is captured of the images, and the class that the service gives each."""

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
    """Return captured tensors ``(n, ...)``, one a share, as `CapturedTensors`; numbers that are not finite are 0.

    Raises:
        ClovenError: if there are none, or they are of different numbers of images.
    """
    if not tensors:
        raise ClovenError("nothing was captured: the observation is empty; choose a link that is used")
    if len({len(z) for z in tensors}) != 1:
        raise ClovenError(f"captured tensors differ in number: {sorted({len(z) for z in tensors})}")
    return InMemory(tuple(laid_out(finite(z)) for z in tensors))


def finite(z: Tensor) -> Tensor:
    """Return the tensor with 0 for NaN and infinity: a listener reads on where a number is broken."""
    if math.isfinite(float(z.sum(dtype=torch.float64))):  # then every number is; there is nothing to copy
        return z
    return torch.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def laid_out(z: Tensor) -> Tensor:
    """Return the tensor with the channels of a map last in memory: convolutions then run up to twice as fast."""
    return z.contiguous(memory_format=torch.channels_last) if z.ndim == 4 else z.contiguous()


def rows(z: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``index`` ``(n,)`` of ``(m, ...)``, laid out as it is; twice as fast as ``z[index]``."""
    if z.ndim != 4 or not z.is_contiguous(memory_format=torch.channels_last):
        return z.index_select(0, index)
    last = z.permute(0, 2, 3, 1)
    return last.flatten(1).index_select(0, index).view(len(index), *last.shape[1:]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class SharePlace:
    """The place of a captured share: from ``start`` on, in the map ``name`` of shape ``whole``."""

    name: str
    start: Shape
    whole: Shape


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of the attacker's own and what was captured of them, row by row: the pairs (z, x) of S1's Sect. 4.1.

    Attributes:
        captured: what was captured of the images, one tensor a share.
        images: ``(n, C, H, W)`` in [0, 1].
        seed: fixes the order of the batches, with the number of images: it does not depend on the attack.

    Raises:
        ClovenError: if the two are of different numbers of images.
    """

    captured: CapturedTensors
    images: Tensor
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
        """Return the first pairs, at most ``count``; without a number all of them."""
        return self.take(torch.arange(len(self) if count is None else min(count, len(self))))


@dataclass(frozen=True, eq=False)
class Knowledge:
    """All that an attacker has. What an attacker does not have is None.

    Nothing is computed or copied before it is used: tensors are captured when their rows are taken, and the model
    is made ready when it is called.

    Attributes:
        image: the shape ``(C, H, W)`` of the images that the model takes.
        auxiliary: images of the attacker's own ``(n, C, H, W)`` in [0, 1].
        captured: what was captured of them, or of the first of them; see `pairs`.
        classes: ``(n,)``, the class that the service answered for each auxiliary image.
        observed: what is to be attacked: the captured tensors of the victims. An attack may adapt to them.
        query: asks the running service about further images, as its users may.
        front: the model up to the tap, for an attacker with the weights.
        rear: the model behind the tap, likewise; None also where what is captured does not suffice to go on.
        places: where each share lies in its map.
        seed: see `Pairs`.

    Raises:
        ClovenError: if shapes or numbers of images contradict each other.
    """

    image: Shape
    auxiliary: Tensor | None = None
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
        """The auxiliary images that something was captured of, with what it was; None for an attacker without."""
        if self.captured is None or self.auxiliary is None:
            return None
        return Pairs(self.captured, self.auxiliary[: len(self.captured)], self.seed)


class MissingKnowledgeError(ClovenError):
    """The attacker lacks what an attack needs: an audit leaves this attack out where it is so."""


def needed(known: Known | None, attack: str, what: str) -> Known:
    """Return a part of an attacker's knowledge that an attack cannot do without.

    >>> pairs = needed(knowledge.pairs, "NearestImage", "pairs of images and what was captured of them")

    Raises:
        MissingKnowledgeError: if it is None, with a sentence that says what the attack needs.
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
    """The result of an attack that rebuilds images: a function, or any object that can be called.

    It may have two attributes: ``parameters``, how many numbers were learned, and ``notes``, sentences on the
    training, such as that it stopped early.
    """

    def __call__(self, captured: Sequence[Tensor], /) -> Tensor:
        """Return the images ``(n, C, H, W)`` in [0, 1] of captured tensors ``(n, ...)``."""
        ...


@runtime_checkable
class LabelReader(Protocol):
    """The result of an attack that reads classes without rebuilding images.

    It may have the attributes that a `Reconstructor` may have.
    """

    def classify(self, captured: Sequence[Tensor], /) -> Tensor:
        """Return the classes ``(n,)`` of the images that tensors ``(n, ...)`` were captured of."""
        ...
