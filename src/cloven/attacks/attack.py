"""The protocol of an attack, and the base class of the attacks of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch

from cloven.attacks.hyperparameters import Allowed
from cloven.attacks.knowledge import Knowledge, LabelReader, Reconstructor, Shape
from cloven.attacks.trainer import Machine, Trainee, train

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | dict[str, Json] | None"
"""A value that JSON can represent."""


@runtime_checkable
class Attack(Protocol):
    """An attack: a frozen dataclass of hyper-parameters with this one method.

    A class may also have these attributes: ``name``, which tables show (default: the name of the class);
    ``white_box``, True for an attacker with the model's weights (default: False; `Knowledge.front` and ``rear`` are
    then None); ``uses_pairs``, False if the attack needs no images of the attacker's own (default: True); and
    ``needs_classes``, False if it does not use `Knowledge.classes` (default: True).
    """

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str) -> Reconstructor | LabelReader:
        """Train the attack, and return its result.

        Args:
            knowledge: what the attacker knows.
            generator: the source of all random numbers, on the CPU. PyTorch's own generator has the same seed.
            device: ``cpu`` or ``cuda``. Captured tensors are on the CPU.

        Raises:
            ClovenError: if the attacker lacks knowledge that the attack needs; see `cloven.attacks.needed`.
        """
        ...


class BatchedAttack:
    """The base of the attacks of this package, which train batch by batch, beside others on the same batches.

    ``name`` is shown in tables; ``white_box`` says whether the attack needs the model's weights, ``needs_classes``
    whether it uses the classes that the service answered, and ``descends`` whether it computes a descent for each
    image that it attacks, which takes time in addition to its training.
    """

    name: ClassVar[str]
    white_box: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    descends: ClassVar[bool] = False

    @property
    def uses_pairs(self) -> bool:
        """True if the attack trains on images of the attacker's own."""
        return True

    @property
    def label(self) -> str:
        """The name, with the settings that distinguish variants of the attack."""
        return self.name

    def begin(self, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Trainee:
        """Return a trainee; the generator's seed determines its initial weights.

        Raises:
            ClovenError: if the attacker lacks knowledge that the attack needs.
        """
        raise NotImplementedError

    def fit(self, knowledge: Knowledge, *, generator: torch.Generator, device: str = "cpu") -> Any:
        """Train to the end, and return a `Reconstructor` or a `LabelReader`; see `Attack`."""
        (learned,) = train([self.begin(knowledge, generator, Machine(device))])
        return learned

    def settings(self, captured: Sequence[Shape], image: Shape) -> dict[str, Json]:
        """Return everything that can change the result, given the shapes of captured tensors and of an image."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


AN_ATTACK = Allowed(
    lambda value: isinstance(value, Attack) and not isinstance(value, type),
    "an attack, such as cloven.attacks.Residual()",
)
"""An attack in a field of another one: not its class, and not its name."""
