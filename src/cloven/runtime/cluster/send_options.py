"""The options of sending images to workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloven.partition.plan import Plan


@dataclass(frozen=True)
class SendOptions:
    """Options of sending images.

    Attributes:
        window: the maximum number of images in flight.
        deadline: the seconds after which an image fails.
        retry: the seconds during which an image is sent again after the loss of a device or link; 0 for no retry.
        steal: let any worker compute any task of the plan, and hand the next one to whichever is idle.
        standby: those standbys of the plan that take the place of a device that is lost or hangs; None for all.
        fallbacks: the plans to use, in this order, when a lost device has no standby.
        follow: whether to move to another plan when the workers are upgraded to it.
        batch: the maximum number of images that a worker computes together, of those that wait for it.
    """

    window: int = 8
    deadline: float = 30.0
    retry: float = 0.0
    steal: bool = False
    standby: tuple[str, ...] | None = None
    fallbacks: tuple[Plan, ...] = ()
    follow: bool = False
    batch: int = 1

    def standbys_of(self, plan: Plan) -> tuple[str, ...]:
        """Return the requested standbys; by default, all of the plan."""
        return tuple(plan.standby) if self.standby is None else self.standby
