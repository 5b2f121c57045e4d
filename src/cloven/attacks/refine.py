"""White-box refinement: gradient descent through the model's front, from another attack's reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from cloven.attacks.attack import AN_ATTACK, Attack, BatchedAttack
from cloven.attacks.hyperparameters import Allowed, check_fields, one_of, tuple_of
from cloven.attacks.joined import Joined, chained
from cloven.attacks.knowledge import (
    CLASSES,
    FRONT,
    PAIRS,
    CapturedTensors,
    Front,
    Knowledge,
    LabelReader,
    Pairs,
    Shape,
    needed,
)
from cloven.attacks.matching import PixelDescent
from cloven.attacks.provenance import name_of, part_label
from cloven.attacks.residual import Residual
from cloven.attacks.ssim_loss import ssim_loss
from cloven.attacks.trainer import DescribedReconstructor, Learned, Machine, Trainee, Training
from cloven.attacks.unbatched import begun
from cloven.errors import ClovenError

Goal = Literal["pixels", "labels"]

TRIED = 64
"""The number of own pairs on which descents are compared; the start does not train on them."""


A_DESCENT = Allowed(lambda one: isinstance(one, PixelDescent), "a cloven.attacks.PixelDescent")


@dataclass(frozen=True)
class Refine(BatchedAttack):
    """Gradient descent on the reconstruction of another attack, to match captured tensors (rMLE, He et al. 2019).

    It starts from the reconstruction of ``start``. Of ``descents``, it uses the one that is best on own pairs that
    train nothing. For the goal ``pixels`` that is the highest SSIM; for ``labels``, the largest share of images to
    which the model gives the class of the original, and of equals the highest SSIM. If none improves the start, the
    start is kept: many images match deep features, and most of them are less similar to the original, although the
    model gives them the same class. Needs the weights.
    """

    name: ClassVar[str] = "refine"
    white_box: ClassVar[bool] = True
    descends: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    start: Attack = field(default_factory=Residual)
    goal: Goal = "pixels"
    descents: tuple[PixelDescent, ...] = (
        PixelDescent(10, 0.005, 1.0),
        PixelDescent(40, 0.003, 1.0),
        PixelDescent(40, 0.01, 0.3),
    )

    def __post_init__(self) -> None:
        check_fields(
            self,
            start=AN_ATTACK,
            goal=one_of(*get_args(Goal)),
            descents=tuple_of(A_DESCENT, "one or more cloven.attacks.PixelDescent"),
        )

    @property
    def label(self) -> str:
        """See `BatchedAttack`."""
        name = f"{self.name}-{self.goal}"
        return name if type(self.start) is Residual else f"{name}-{part_label(self.start)}"

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Joined[Trainee]:
        """See `BatchedAttack`; a `ClovenError` without the model's front."""
        pairs, front = needed(knowledge.pairs, self.label, PAIRS), needed(knowledge.front, self.label, FRONT)
        count = max(1, len(pairs) - min(TRIED, len(pairs) // 4))
        fewer = replace(
            knowledge,
            auxiliary=pairs.images[:count],
            captured=FirstRows(pairs.captured, count),
            classes=None if knowledge.classes is None else knowledge.classes[:count],
        )
        own = torch.arange(min(count, len(pairs) - 1), len(pairs))
        lost = self._lost(knowledge, pairs, own)

        def refined(start: Learned) -> _Refined:
            if isinstance(start, LabelReader):
                raise ClovenError(
                    f"start is {name_of(self.start)}, which reads classes; expected an attack that "
                    "reconstructs images"
                )
            captured = pairs.captured.take(own)
            every = [_Refined(start, front, descent, machine) for descent in (None, *self.descents)]
            return min(every, key=lambda one: lost(one(captured)))

        return chained(begun(self.start, fewer, generator, machine), refined)

    def _lost(self, knowledge: Knowledge, pairs: Pairs, own: Tensor) -> Callable[[Tensor], tuple[float, ...]]:
        """Return the function from reconstructions of own images to their loss for the goal."""
        images = pairs.images[own]
        unlike = ssim_loss(*pairs.image[1:])
        if self.goal == "pixels":
            return lambda made: (float(unlike(made, images)),)
        classes = needed(knowledge.classes, self.label, CLASSES)[own]
        classify = classifier(knowledge, self.label)

        def lost(made: Tensor) -> tuple[float, ...]:
            pixels = (made * 255).round() / 255
            return float((classify(pixels) != classes).double().mean()), float(unlike(made, images))

        return lost


def classifier(knowledge: Knowledge, attack: str) -> Callable[[Tensor], Tensor]:
    """Return the function from images ``(n, C, H, W)`` to the classes ``(n,)`` that the model gives them.

    It is the model's front and rear; without a rear, a query to the service.

    Raises:
        ClovenError: if there is neither a rear nor a query.
    """
    front, rear, query = knowledge.front, knowledge.rear, knowledge.query
    if front is None or rear is None:
        asked = needed(query, attack, "the model's rear, or the service to ask, for the classes of its images")
        return lambda images: asked(images).classes

    def classes(images: Tensor) -> Tensor:
        with torch.no_grad():
            return rear(front(images)).argmax(1)

    return classes


@dataclass(frozen=True, eq=False)
class FirstRows:
    """The first rows of captured tensors."""

    captured: CapturedTensors
    count: int

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """See `CapturedTensors`."""
        return self.captured.shapes

    def __len__(self) -> int:
        return self.count

    def take(self, index: Tensor) -> list[Tensor]:
        """See `CapturedTensors`."""
        return self.captured.take(index)


@dataclass(frozen=True, eq=False)
class _Refined:
    start: DescribedReconstructor
    front: Front
    descent: PixelDescent | None
    machine: Machine

    @property
    def parameters(self) -> int:
        return self.start.parameters

    @property
    def training(self) -> Training | None:
        return self.start.training

    @property
    def notes(self) -> Sequence[str]:
        stands = (
            () if self.descent else ("refinement did not improve the attacker's own images; its start is kept",)
        )
        return (*self.start.notes, *stands)

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        made = self.start(captured)
        return self.descent(self.front, made, captured, self.machine) if self.descent else made
