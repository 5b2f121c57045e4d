"""The workers that can take the place of a lost one: the standbys, and devices of the plan that have come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from cloven.errors import ClovenError
from cloven.partition.plan import Plan, check
from cloven.runtime.cluster.worker_client import describe

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven")

ASKING = 1.0
"""Seconds between two requests to a worker that is not in use."""

ANSWERING = 2.0
"""Seconds in which a worker that is not in use must answer."""

AT_ONCE = 0.5
"""Seconds in which a worker must answer that is about to take a place, while no image is answered."""

UNKNOWN = "has not been asked yet"


class Standbys:
    """The workers beside those in use, with the reason why each cannot take a place now; empty if it can.

    A standby has loaded the whole bundle and can take the place of any device. A device of the plan that has come
    back can only have its own place.

    Attributes:
        plan: the plan of the run.
        names: the standbys, in order of preference.
        addresses: the addresses of the standbys and of the plan's devices.
        reasons: by worker; only those that are not in use.
    """

    def __init__(self, plan: Plan, names: Sequence[str], cluster: Cluster, identity: Identity | None) -> None:
        self.cluster, self.identity = cluster, identity
        self.reasons: dict[str, str] = {}
        self.use(plan, names)

    def use(self, plan: Plan, names: Sequence[str]) -> None:
        """Take the standbys of a plan from now on."""
        self.plan, self.names = plan, tuple(names)
        places = (*names, *plan.devices) if names else ()
        self.addresses = {name: self.cluster.devices[name].address or "" for name in places}
        self.reasons = {name: reason for name, reason in self.reasons.items() if name in self.addresses}

    @property
    def ready(self) -> list[str]:
        """Return the workers that can take a place now."""
        return [name for name, reason in self.reasons.items() if not reason]

    async def watch(self, used: Callable[[], Collection[str]], runs: Callable[[], Collection[str]]) -> None:
        """Keep the reasons up to date.

        Args:
            used: returns the workers in use.
            runs: returns our runs; a worker that takes part in another one cannot be used.
        """
        while True:
            for name in used():
                self.reasons.pop(name, None)
            await self.ask([name for name in self.addresses if name not in used()], runs())
            await asyncio.sleep(ASKING)

    async def ask(self, names: Collection[str], runs: Collection[str], patience: float = ANSWERING) -> None:
        """Ask workers whether they can take a place; each answer counts as soon as it arrives.

        Args:
            names: the workers.
            runs: our runs.
            patience: the seconds in which they must answer.
        """
        await asyncio.gather(*(self._ask(name, runs, patience) for name in names))

    async def _ask(self, name: str, runs: Collection[str], patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                reason = await self._reason(name, runs)
        except TimeoutError:
            reason = "it gives no answer"
        if name in self.addresses:  # the plan may have changed meanwhile
            self.set(name, reason)

    def set(self, name: str, reason: str) -> None:
        """Set the reason why a worker cannot take a place, and log it if it is new; empty if it can."""
        before = self.reasons.get(name, UNKNOWN if name in self.names else reason)
        self.reasons[name] = reason
        if reason and reason != before:
            log.warning("%s cannot take the place of a lost device: %s", name, reason)
        elif reason != before:
            log.info("%s can take the place of a lost device", name)

    async def _reason(self, name: str, runs: Collection[str]) -> str:
        devices = {self.plan.devices[0], self.plan.devices[-1]} if name in self.names else {name}
        try:
            for device in devices:
                found = await describe(name, self.addresses[name], self.identity, device=device)
                if check(found.plan_text)[0] != self.plan:
                    return "it has the bundle of another plan"
                if found.device != device:
                    return f"it has loaded the part of {found.device} only; start it on the whole bundle"
                if found.run is not None and found.run not in runs:
                    return f"it is busy with run {found.run}"
        except ClovenError as error:
            return str(error)
        return ""

    def places(self, used: Mapping[str, str], lost: Collection[str]) -> dict[str, str] | None:
        """Return the worker of each device after the loss of some workers; None if there are too few.

        A device of the plan that is up, perhaps again, has its own place. A standby that is up keeps its place, and
        others take those of lost workers.

        Args:
            used: the device of each worker in use.
            lost: the workers that are lost.
        """
        up = {worker for worker in (*used, *self.ready) if worker not in lost}
        found: dict[str, str] = {}
        for worker, device in used.items():
            own = device if device in up else worker
            if own in up:
                found[device] = own
        free = [name for name in self.names if name in up and name not in found.values()]
        missing = [device for device in used.values() if device not in found]
        return found | dict(zip(missing, free, strict=False)) if len(free) >= len(missing) else None
