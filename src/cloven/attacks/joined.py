"""Trainees that consist of others: attacks that start from another attack, or train several networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from cloven.attacks.knowledge import Pairs
from cloven.attacks.trainer import Learned, Machine, Trainee, Training, TrainingSchedule, under

Inner = TypeVar("Inner", bound=Trainee)


@dataclass(frozen=True, eq=False)
class Joined(Generic[Inner]):
    """Trains all of ``inner`` on the same batches; ``make`` turns them into one result.

    Their pairs and schedules must be equal.
    """

    inner: Sequence[Inner]
    make: Callable[[Sequence[Inner], Training | None], Learned]

    @property
    def pairs(self) -> Pairs | None:
        """See `Trainee`."""
        return self.inner[0].pairs

    @property
    def schedule(self) -> TrainingSchedule | None:
        """See `Trainee`."""
        return self.inner[0].schedule

    @property
    def machine(self) -> Machine:
        """See `Trainee`."""
        return self.inner[0].machine

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """See `Trainee`."""
        for one in self.inner:
            one.step(index, captured, images, progress)

    def ended(self, epoch: int) -> bool:
        """See `Trainee`."""
        ended = [one.ended(epoch) for one in self.inner]  # no short circuit: each must be told
        return all(ended)

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        states = [(i, one.state()) for i, one in enumerate(self.inner)]
        return {f"{i}/{name}": value for i, state in states for name, value in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainee`."""
        for i, one in enumerate(self.inner):
            one.restore(under(str(i), state))

    def finish(self, training: Training | None) -> Learned:
        """See `Trainee`."""
        return self.make(self.inner, training)


def chained(inner: Trainee, make: Callable[[Learned], Learned]) -> Joined[Trainee]:
    """Return a trainee that turns the result of another one into its own."""
    return Joined((inner,), lambda every, training: make(every[0].finish(training)))
