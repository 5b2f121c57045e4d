"""What all attacks have in common: hyper-parameters in a frozen dataclass, and how to train with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch

from cloven.attacks.pairs import Pairs, Shape
from cloven.attacks.train import CPU, Machine, Trainee, train
from cloven.errors import ClovenError


class Attack:
    """An attack. What is derived from it is a frozen dataclass of hyper-parameters.

    ``name`` is what people call it by; ``white_box`` says whether it needs the model's weights.
    """

    name: ClassVar[str]
    white_box: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name with what sets it apart from others of the kind."""
        return self.name

    def begin(self, pairs: Pairs, generator: torch.Generator, machine: Machine) -> Trainee:
        """An attacker ready to be trained; the generator's seed fixes the initial weights.

        Raises:
            ClovenError: where the attack cannot work on what was captured.
        """
        raise NotImplementedError

    def fit(self, pairs: Pairs, *, generator: torch.Generator, machine: Machine = CPU) -> Any:
        """Train alone, to the end: a `Reconstructor`, or a `Labeller` of an attack that rebuilds no images.

        Raises: as `begin`.
        """
        (learned,) = train([self.begin(pairs, generator, machine)])
        return learned

    def settings(self, captured: Sequence[Shape], image: Shape) -> dict[str, Any]:
        """All that the attack is made of on shapes such as these: what can change its result."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


def check(*rules: tuple[str, Any, Callable[[Any], bool], str]) -> None:
    """Refuse hyper-parameters with all that is wrong: (name, value, whether it is right, what is expected)."""
    problems = [f"{name} is {value}; expected {wanted}" for name, value, right, wanted in rules if not right(value)]
    if problems:
        raise ClovenError(problems)


def positive(value: float) -> bool:
    """A positive number."""
    return value > 0


def counted(value: int) -> bool:
    """One or more."""
    return value >= 1
