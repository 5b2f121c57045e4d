"""A plan that a run can use, and the workers that can take its places: its devices, and its standbys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cloven.errors import ClovenError
from cloven.partition.plan import Plan, check
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.health import PlanHealth
from cloven.runtime.cluster.worker_client import describe_part

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven")

ANSWERING = 2.0
"""Seconds in which a worker that is not in use must answer."""

AT_ONCE = 0.5
"""Seconds in which a worker must answer that is about to take a place, while no image is answered."""

UNKNOWN, LOST = "has not been asked yet", "was lost"
"""The reasons of workers that were not asked."""


class UsablePlan:
    """A plan of a run, with the reason why each worker cannot take a place in it now; empty if it can.

    A standby has loaded the whole bundle and can take any place. A device can only have its own place.

    Attributes:
        plan: the plan.
        standbys: the standbys, in order of preference.
        addresses: the addresses of the standbys and of the plan's devices.
        reasons: by worker; only those that were asked.
        problem: why the plan is never used; empty if it can be.
        bundle: the hash of its bundle; empty if it was not used yet.
    """

    def __init__(self, plan: Plan, standbys: Sequence[str], cluster: Cluster, identity: Identity | None) -> None:
        self.plan, self.standbys, self.identity = plan, tuple(standbys), identity
        known = [name for name in (*standbys, *plan.devices) if name in cluster.devices]
        self.addresses = {name: cluster.devices[name].address or "" for name in known}
        self.reasons: dict[str, str] = {}
        self.problem, self.bundle = "", ""

    def __str__(self) -> str:
        return f"the plan of {', '.join(self.plan.devices)}"

    @property
    def ready(self) -> list[str]:
        """Return the workers that can take a place now."""
        return [name for name, reason in self.reasons.items() if not reason]

    def unsure(self, used: Collection[str], *, in_use: bool) -> list[str]:
        """Return the workers to ask: those that are not in use, and those that could not take a place.

        Args:
            used: the workers in use.
            in_use: whether they are used for this plan; there is nothing to ask them then.
        """
        if in_use:
            self.use(used)
            return [name for name in self.addresses if name not in used]
        return [name for name in self.addresses if name not in used or self.reasons.get(name, UNKNOWN)]

    def use(self, workers: Iterable[str]) -> None:
        """Forget the reasons of workers that are now in use for this plan: `ready` has only others."""
        for name in workers:
            self.reasons.pop(name, None)

    def release(self, workers: Iterable[str], lost: Collection[str]) -> None:
        """Note which workers that were in use for this plan can take their places again."""
        self.reasons |= {name: LOST if name in lost else "" for name in workers}

    async def ask(
        self, names: Collection[str], runs: Callable[[], Collection[str]], patience: float = ANSWERING
    ) -> None:
        """Ask workers whether they can take a place; each answer counts as soon as it arrives.

        Args:
            names: the workers.
            runs: returns our runs; a worker that takes part in another one cannot be used.
            patience: the seconds in which they must answer.
        """
        await asyncio.gather(*(self._ask(name, runs, patience) for name in names))

    async def _ask(self, name: str, runs: Callable[[], Collection[str]], patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                reason = await self._reason(name, runs)
        except TimeoutError:
            reason = "it gives no answer"
        before = self.reasons.get(name, UNKNOWN if name in self.standbys else "")
        self.reasons[name] = reason
        role = "stand by" if name in self.standbys else "take its place"
        if reason and reason != before:
            log.warning("%s cannot %s in %s: %s", name, role, self, reason)
        elif reason != before:
            log.info("%s can %s in %s", name, role, self)

    async def _reason(self, name: str, runs: Callable[[], Collection[str]]) -> str:
        devices = {self.plan.devices[0], self.plan.devices[-1]} if name in self.standbys else {name}
        try:
            for device in devices:
                found = await describe_part(name, self.addresses[name], self.identity, self.plan, device)
                if check(found.plan_text)[0] != self.plan:
                    return "it has not loaded the bundle of this plan"
                if found.device != device:
                    return f"it has loaded the part of {found.device} only; start it on the whole bundle"
                if found.run is not None and found.run not in runs():
                    return f"it is busy with run {found.run}"
        except PartyError as error:
            return error.reason
        except ClovenError as error:
            return str(error)
        return ""

    def places(self, used: Mapping[str, str], lost: Collection[str]) -> dict[str, str] | None:
        """Return the worker of each device; None if there are too few.

        A device of the plan that is up, perhaps again, has its own place. A standby that is up keeps its place, and
        others take those of lost workers.

        Args:
            used: the device of each worker that is used for this plan; empty if it is not in use.
            lost: the workers that are lost.
        """
        if self.problem:
            return None
        up = {worker for worker in (*used, *self.ready) if worker not in lost}
        before = {device: worker for worker, device in used.items()} or {name: name for name in self.plan.devices}
        found: dict[str, str] = {}
        for device, worker in before.items():
            own = device if device in up else worker
            if own in up:
                found[device] = own
        free = [name for name in self.standbys if name in up and name not in found.values()]
        missing = [device for device in before if device not in found]
        return found | dict(zip(missing, free, strict=False)) if len(free) >= len(missing) else None

    def health(self, lost: Collection[str], *, in_use: bool) -> PlanHealth:
        """Return the state of the plan, given the workers that are lost, and why it cannot be used, if so."""
        able = in_use or self.places({}, lost) is not None
        troubles = dict.fromkeys(lost, LOST) | {name: why for name, why in self.reasons.items() if why}
        reason = self.problem or "; ".join(f"{n}: {why}" for n, why in troubles.items() if n in self.addresses)
        return PlanHealth(
            title=self.plan.title(),
            devices=tuple(self.plan.devices),
            state="used" if in_use else "ready" if able else "down",
            reason="" if able else reason,
        )
