"""Move a coordinator to the plan to which its workers were upgraded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from cloven.errors import ClovenError
from cloven.partition.plan import Plan, parse
from cloven.partition.protection import COORDINATOR, Protection, weakened
from cloven.runtime.cluster.protocol import WorkerDescription
from cloven.runtime.cluster.worker_client import PING, describe

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.runtime.cluster.coordinator import Coordinator

log = logging.getLogger("cloven")

AGAIN = 10.0
"""Seconds after which a change that failed is tried again."""


MOST = 16
"""The maximum number of bundles whose refusal is remembered."""


def misfits(plan: Plan, protection: Protection, cluster: Cluster) -> Iterator[str]:
    """Yield why a plan cannot be used instead of one that has this protection."""
    yield from plan.transform.unsendable(plan.devices)
    if unknown := [n for n in plan.devices if n not in cluster.devices or not cluster.devices[n].address]:
        yield f"the cluster file has no address of {', '.join(unknown)}"
    if links := weakened(protection, plan.protection, (COORDINATOR, *plan.devices)):
        yield f"it protects {', '.join(links)} less than the current plan"


def unusable(plan: Plan, before: Plan, cluster: Cluster) -> Iterator[str]:
    """Yield why a plan cannot be used instead of another one, whose images it would receive."""
    model, other = plan.named_model, before.named_model
    if model.input != other.input:
        yield f"it takes images of shape {model.input}; expected {other.input}, as the plan"
    if model.classes != other.classes:
        yield f"it has {model.classes} classes; expected {other.classes}, as the plan"
    yield from misfits(plan, before.protection, cluster)


class PlanFollower:
    """Compares the bundle that the workers report with the one that a coordinator uses.

    Once all workers report the same other bundle, the coordinator changes to its plan, if the plan takes the same
    images, has outputs of the same size, and protects every link at least as well. Without ``follow`` in the
    options, it only notes that the workers were upgraded.

    Attributes:
        note: why the coordinator does not use the workers' bundle; empty if it does.
        first: the hash of the bundle with which it began.
        refused: the hashes of bundles that it does not use, with the reasons.
    """

    def __init__(self, run: Coordinator) -> None:
        self.run, self.note, self.first = run, "", ""
        self.refused: dict[str, str] = {}
        self._again = 0.0

    async def upgraded(self) -> Plan | None:
        """Return the plan to which all workers were upgraded before the run began; None if there is none.

        Raises:
            ClovenError: if there is one, and the run cannot use it.
        """
        run, pool = self.run, self.run.pool
        if not run.options.follow:
            return None
        asked = (describe(name, address, pool.tls) for name, address in pool.addresses.items())
        found = await asyncio.gather(*asked, return_exceptions=True)
        described = [one for one in found if isinstance(one, WorkerDescription) and one.previous is not None]
        if len(described) < len(found) or len({one.plan for one in described}) > 1:
            return None
        plan, name = parse(described[0].plan_text), described[0].plan[:12]
        if plan == run.plan:
            return None
        if problems := list(unusable(plan, run.plan, run.cluster)):
            raise ClovenError([f"the workers were upgraded to plan {name}: {problem}" for problem in problems])
        log.warning("the workers were upgraded to plan %s: beginning with it instead of the given plan", name)
        return plan

    async def follow(self) -> None:
        """Compare, a few times a second."""
        self.first = self.run.pool.bundle
        while True:
            await asyncio.sleep(PING)
            new = self._reported()
            if new is None:
                self.note = ""
            elif new in self.refused:
                self.note = self.refused[new]
            elif not self.run.options.follow:
                self._refuse(new, "it uses only the plan that it was started with; see --follow-upgrades")
            elif time.monotonic() >= self._again:
                try:
                    await self._change_to(new)
                except ClovenError as error:
                    self._again = time.monotonic() + AGAIN
                    self._say(new, f"{'; '.join(error.problems)}; it tries again every {AGAIN:g} s")

    def _reported(self) -> str | None:
        """Return the hash of another bundle that workers use for new runs; None if there is none, or several."""
        found = {worker.current for worker in self.run.pool.workers.values() if worker.joined}
        other = found - {None, self.run.plans[0].bundle}
        return other.pop() if len(other) == 1 else None

    async def _change_to(self, new: str) -> None:
        """Change to a plan, if all of its workers among ours use it.

        Raises:
            ClovenError: if a worker cannot describe the plan or join.
        """
        pool = self.run.pool
        name = next(name for name, worker in pool.workers.items() if worker.current == new)
        found = await describe(name, pool.addresses[name], pool.tls, new)
        if found.plan != new:
            return
        plan = parse(found.plan_text)
        allowed = {*plan.devices, *plan.standby}
        names = {d: worker for d, worker in pool.names.items() if d in plan.devices and worker in allowed}
        ours = [pool.workers[w] for d in plan.devices if (w := names.get(d, d)) in pool.workers]
        if not all(worker.joined and worker.current == new for worker in ours):
            return
        if problems := list(self._problems(plan, found)):
            self._refuse(new, "; ".join(problems))
            return
        if self.run.pool is not pool:
            return
        await self.run.change(self.run.pool_of(plan, names))
        self.note, self._again = "", 0.0
        log.info(
            "changed from plan %s to plan %s, to which the workers were upgraded; images in flight finish with the "
            "earlier one",
            pool.bundle[:12],
            self.run.pool.bundle[:12],
        )

    def _problems(self, plan: Plan, found: WorkerDescription) -> Iterator[str]:
        run = self.run
        if tuple(found.image) != run.shape:
            yield f"its images have shape {tuple(found.image)}; expected {run.shape}"
        if prod(found.output) != run.pool.numbers:
            yield f"its outputs have {prod(found.output)} numbers; expected {run.pool.numbers}"
        protection = Protection() if found.plan == self.first else run.plans[0].plan.protection
        yield from misfits(plan, protection, run.cluster)

    def _refuse(self, new: str, reason: str) -> None:
        """Record why a plan is never used."""
        self._say(new, reason)
        if len(self.refused) >= MOST:
            self.refused.clear()
        self.refused[new] = self.note

    def _say(self, new: str, reason: str) -> None:
        used = self.run.plans[0].bundle[:12]
        note = f"the workers were upgraded to plan {new[:12]}, but this coordinator stays with {used}: {reason}"
        if note != self.note:
            log.warning(note)
        self.note = note
