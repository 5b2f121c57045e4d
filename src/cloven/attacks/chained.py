"""A trainee whose result is made into another one: attacks that begin with another attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cloven.attacks.knowledge import Pairs
from cloven.attacks.trainer import Learned, Machine, Trainee, Training, TrainingSchedule


@dataclass(frozen=True, eq=False)
class Chained:
    """Trains ``inner``, and makes of what it learned what ``make`` says."""

    inner: Trainee
    make: Callable[[Learned], Learned]

    @property
    def pairs(self) -> Pairs | None:
        """The pairs that ``inner`` trains on."""
        return self.inner.pairs

    @property
    def schedule(self) -> TrainingSchedule | None:
        """See `Trainee`."""
        return self.inner.schedule

    @property
    def machine(self) -> Machine:
        """See `Trainee`."""
        return self.inner.machine

    def step(self, index: Tensor, captured: Sequence[Tensor], images: Tensor, progress: float) -> None:
        """See `Trainee`."""
        self.inner.step(index, captured, images, progress)

    def ended(self, epoch: int) -> bool:
        """See `Trainee`."""
        return self.inner.ended(epoch)

    def state(self) -> dict[str, Tensor]:
        """See `Trainee`."""
        return self.inner.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Trainee`."""
        self.inner.restore(state)

    def finish(self, training: Training | None) -> Learned:
        """See `Trainee`."""
        return self.make(self.inner.finish(training))
