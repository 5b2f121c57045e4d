"""Errors between machines: an image that was not answered, and a party that cannot be used."""

from __future__ import annotations

from cloven.errors import ClovenError
from cloven.partition.program import Link
from cloven.partition.protection import COORDINATOR


class PartyError(ClovenError):
    """A worker or a connection that cannot be used; ``again`` is set if the problem may be temporary."""

    def __init__(self, party: str, reason: str, *, again: bool = False) -> None:
        self.party, self.reason, self.again = party, reason, again
        super().__init__(f"{party}: {reason}")


class FrameFailed(ClovenError):  # noqa: N818 - it is an outcome, one of two
    """An image that was not answered: the device or the link, and the reason.

    ``lost`` is set if a device or link was lost or too slow: the same image may be answered once it is back.
    """

    def __init__(
        self, reason: str, *, device: str | None = None, link: Link | None = None, lost: bool = False
    ) -> None:
        self.device, self.link, self.reason, self.lost = device, link, reason, lost
        where = " -> ".join(link) if link else device or "the cluster"
        super().__init__(f"{where}: {reason}")


class ImageRefused(FrameFailed):
    """An image that was not sent, because the plan cannot take it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, device=COORDINATOR)
