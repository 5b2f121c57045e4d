"""Attacks that define only `fit`: they run as a whole, beside batched ones, and their results are checked."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cloven.attacks.attack import Attack, BatchedAttack
from cloven.attacks.knowledge import Knowledge, LabelReader, Pairs, Reconstructor, Shape
from cloven.attacks.provenance import name_of
from cloven.attacks.trainer import Learned, Machine, Trainee, Training
from cloven.errors import ClovenError, one_line
from cloven.rows import all_rows


def begun(attack: Attack, knowledge: Knowledge, generator: torch.Generator, machine: Machine) -> Trainee:
    """Return a trainee of an attack, to be trained beside others.

    Raises:
        ClovenError: if the attacker lacks knowledge that the attack needs.
    """
    if isinstance(attack, BatchedAttack) and type(attack).fit is BatchedAttack.fit:
        return attack.begin(knowledge, generator, machine)
    return Unbatched(attack, knowledge, generator, machine)


@dataclass(frozen=True, eq=False)
class Unbatched:
    """An attack as a `Trainee` without batches: its `fit` runs when the training of the others has ended."""

    attack: Attack
    knowledge: Knowledge
    generator: torch.Generator
    machine: Machine
    schedule: None = None

    @property
    def pairs(self) -> Pairs | None:
        """See `Trainee`."""
        return self.knowledge.pairs

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """See `Trainee`; never called."""

    def ended(self, epoch: int) -> bool:
        """See `Trainee`."""
        return True

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainee`."""

    def finish(self, training: Training | None) -> Learned:
        """See `Trainee`."""
        start = self.machine.seconds()
        graphics = [self.machine.device] if self.machine.device.startswith("cuda") else []
        with _explained(self.attack, "fit"), torch.random.fork_rng(graphics):
            torch.manual_seed(self.generator.initial_seed())
            images = self.knowledge.auxiliary
            known = replace(self.knowledge, auxiliary=None if images is None else all_rows(images))
            made = self.attack.fit(known, generator=self.generator, device=self.machine.device)
        self.machine.wait()
        said = getattr(made, "training", None)
        taken = said if isinstance(said, Training) else Training(None, round(self.machine.seconds() - start, 3))
        if isinstance(made, LabelReader):
            return CheckedLabelReader(self.attack, made, taken)
        if callable(made):
            return CheckedReconstructor(self.attack, made, self.knowledge.image, taken)
        raise ClovenError(
            f"{name_of(self.attack)}.fit returned {type(made).__name__}; expected a function from captured tensors "
            "to images, or an object with a method classify"
        )


@dataclass(frozen=True, eq=False)
class CheckedReconstructor:
    """A reconstructor of a user's attack, with checks of its results."""

    attack: Attack
    made: Reconstructor
    image: Shape
    training: Training

    @property
    def parameters(self) -> int:
        """The number of learned parameters; 0 if it is not known."""
        return _parameters(self.made)

    @property
    def notes(self) -> Sequence[str]:
        """Its own notes, if it has any."""
        return tuple(getattr(self.made, "notes", ()))

    def __call__(self, captured: Sequence[Tensor]) -> Tensor:
        """See `Reconstructor`."""
        with _explained(self.attack, "reconstruction"):
            images = self.made(captured)
        expected = (len(captured[0]), *self.image)
        if not isinstance(images, Tensor) or tuple(images.shape) != expected or not images.is_floating_point():
            raise ClovenError(
                f"{name_of(self.attack)} reconstructed {_shown(images)}; expected floating-point images in [0, 1] "
                f"of shape {expected}"
            )
        images = images.detach().float().cpu()
        if not bool(images.isfinite().all()):
            raise ClovenError(f"{name_of(self.attack)} reconstructed NaN or infinite pixels; expected [0, 1]")
        return images


@dataclass(frozen=True, eq=False)
class CheckedLabelReader:
    """A label reader of a user's attack, with checks of its results."""

    attack: Attack
    made: LabelReader
    training: Training

    @property
    def parameters(self) -> int:
        """The number of learned parameters; 0 if it is not known."""
        return _parameters(self.made)

    @property
    def notes(self) -> Sequence[str]:
        """Its own notes, if it has any."""
        return tuple(getattr(self.made, "notes", ()))

    def classify(self, captured: Sequence[Tensor]) -> Tensor:
        """See `LabelReader`."""
        with _explained(self.attack, "classify"):
            classes = self.made.classify(captured)
        expected = (len(captured[0]),)
        if not isinstance(classes, Tensor) or tuple(classes.shape) != expected or classes.is_floating_point():
            raise ClovenError(f"{name_of(self.attack)} read {_shown(classes)}; expected integer classes {expected}")
        return classes.detach().cpu().long()


def _parameters(made: object) -> int:
    """Return the number of parameters of a network, or the attribute of another object; 0 without one."""
    if isinstance(made, nn.Module):
        return sum(p.numel() for p in made.parameters())
    said = getattr(made, "parameters", 0)
    return said if isinstance(said, int) else 0


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


@contextmanager
def _explained(attack: Attack, doing: str) -> Iterator[None]:
    """Turn an error in a user's code into a `ClovenError` that names the attack and the line."""
    try:
        yield
    except ClovenError:
        raise
    except Exception as error:  # a user's code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(sys.modules.get(type(attack).__module__), "__file__", None)
        last = [frame for frame in frames if frame.filename == file] or frames
        place = f"{Path(last[-1].filename).name}, line {last[-1].lineno}"
        raise ClovenError(
            f"{name_of(attack)}: {doing} failed with {type(error).__name__}: {one_line(str(error))} ({place})"
        ) from error
