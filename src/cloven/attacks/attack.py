"""Attacks: what a class must have to be one, and what the attacks of this package share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch

from cloven.attacks.knowledge import Knowledge, LabelReader, Reconstructor, Shape
from cloven.attacks.trainer import Machine, Trainee, train
from cloven.errors import ClovenError, shown

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | dict[str, Json] | None"
"""A value as JSON writes it."""


@runtime_checkable
class Attack(Protocol):
    """An attack: a frozen dataclass of hyper-parameters with this one method.

    A class may also have ``name`` (what tables call it; left out, the name of the class) and ``white_box`` (True
    for an attacker with the model's weights; left out, an attacker has no `Knowledge.front` and no ``rear``),
    and ``uses_pairs`` (False for one that needs no images of the attacker's own).
    """

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor | LabelReader:
        """Return the result of the attack on what is known.

        Args:
            knowledge: what the attacker has.
            generator: the source of all random numbers, on the CPU. PyTorch's own generator has the same seed.
            device: where to compute: ``cpu`` or ``cuda``. What is captured lies on the CPU.

        Raises:
            ClovenError: if the attack cannot work on what is known; see `cloven.attacks.needed`.
        """
        ...


class BatchedAttack:
    """An attack of this package: it is trained batch by batch, side by side with others on the same batches.

    ``name`` is what people call it by; ``white_box`` says whether it needs the model's weights, and ``descends``
    whether it computes a descent for each image that it attacks, which takes time that is not of its training.
    """

    name: ClassVar[str]
    white_box: ClassVar[bool] = False
    descends: ClassVar[bool] = False

    @property
    def uses_pairs(self) -> bool:
        """Whether it learns from images of the attacker's own."""
        return True

    @property
    def label(self) -> str:
        """The name with what sets it apart from others of the kind."""
        return self.name

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Trainee:
        """Return an attacker ready to be trained; the generator's seed fixes the initial weights.

        Raises:
            ClovenError: if the attack cannot work on what is known.
        """
        raise NotImplementedError

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str = "cpu") -> Any:
        """Train alone, to the end, and return a `Reconstructor`, or a `LabelReader`; see `Attack`."""
        (learned,) = train([self.begin(knowledge, generator, Machine(device))])
        return learned

    def settings(self, captured: Sequence[Shape], image: Shape) -> dict[str, Json]:
        """Return all that can change the result on shapes such as these."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


def check(*rules: tuple[str, Any, Callable[[Any], bool], str]) -> None:
    """Refuse hyper-parameters with all that is wrong: (name, value, whether it is right, what is expected)."""
    problems = [
        f"{name} is {value if isinstance(value, tuple) else shown(value)}; expected {wanted}"
        for name, value, right, wanted in rules
        if not _holds(right, value)
    ]
    if problems:
        raise ClovenError(problems)


def _holds(right: Callable[[Any], bool], value: object) -> bool:
    try:
        return right(value)
    except TypeError:  # text is compared with a number, say
        return False


def positive(value: object) -> bool:
    """Return whether a value is a number above 0 and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def counted(value: object) -> bool:
    """Return whether a value is an integer, one or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def fraction(value: Any) -> bool:
    """Return whether a value is 0 or more, and below 1."""
    return bool(0 <= value < 1)


def listed(right: Callable[[object], bool]) -> Callable[[object], bool]:
    """Return whether a value is a tuple or list, not empty, of which each entry is right."""
    return lambda values: isinstance(values, tuple | list) and bool(values) and all(map(right, values))


COUNT, FRACTION = "1 or more, a whole number", "a share below 1"
"""The texts for what `counted` and `fraction` expect."""
