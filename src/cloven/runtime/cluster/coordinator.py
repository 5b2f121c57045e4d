"""The coordinator: starts a run on the workers of a plan, sends images, collects outputs and reports failures.

Every image is answered once, or fails with an error that names the device or link and the reason. Each attempt has
its own number, so an answer that arrives too late cannot be taken for that of another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cloven.cost.cluster import Cluster
from cloven.errors import ClovenError
from cloven.partition.plan import Plan
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.errors import FrameFailed, ImageRefused
from cloven.runtime.cluster.health import ClusterHealth, DeviceHealth
from cloven.runtime.cluster.hysteresis import Hysteresis
from cloven.runtime.cluster.image_task import NUMBERS
from cloven.runtime.cluster.in_flight import InFlight
from cloven.runtime.cluster.plan_follower import PlanFollower, misfits
from cloven.runtime.cluster.protocol import KEPT, ImageTimes, WorkerReport
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.task_pool import TaskPool
from cloven.runtime.cluster.usable_plan import AT_ONCE, UNKNOWN, UsablePlan
from cloven.runtime.cluster.worker_client import SILENT
from cloven.runtime.cluster.worker_pool import HUNG, WorkerPool
from cloven.runtime.unit_images import pixels_of, unit

if TYPE_CHECKING:
    from types import TracebackType

    from cloven.runtime.link.identity import Identity

log = logging.getLogger("cloven")

Image = NDArray[np.float32] | NDArray[np.uint8]
"""Numbers in [0, 1], or pixels of 0 to 255, ``(C, H, W)``."""

REPORTING = 15.0
"""The timeout of the workers' reports in seconds; an overloaded machine may need long."""

HANGING = 1.5
"""Seconds without a message after which a standby takes the place of a worker, or another plan is used."""

REPLACING = 5.0
"""Seconds within which other workers must have joined."""

ASKING = 1.0
"""Seconds between two requests to the workers that are not in use."""

LATE = 0.5
"""Seconds after which the coordinator asks the workers for the state of an image."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The output ``(classes,)`` for an image, and the seconds from sending to answer.

    ``number`` is that of the attempt, as frames carry it; ``answered`` is the time of the answer by the clock of
    `time.perf_counter`; ``plan`` is the plan that answered.
    """

    number: int
    output: NDArray[np.float32]
    seconds: float
    answered: float
    plan: Plan = field(repr=False)


@dataclass(frozen=True)
class PartyReport:
    """The report of a party, and its clock.

    Attributes:
        report: its measurements.
        offset: seconds that its clock is ahead of the coordinator's.
        uncertainty: the largest possible error of that offset, in seconds.
    """

    report: WorkerReport
    offset: float = 0.0
    uncertainty: float = 0.0


class Coordinator:
    """A run: ``async with Coordinator(...) as run`` connects to the workers, and releases them at the end.

    Attributes:
        plan: the plan of the model and its division, which new images use.
        shape: the shape of one image, (C, H, W).
        pool: the workers to which images are sent.
        numbers: the numbers of attempts, over all pools.
        plans: the plans that can be used, in order of preference, and who can take the places of each.
        current: the one that new images use.
        retiring: the pools whose last images are in flight, by their runs.
        joining: the runs that workers join now.
        follower: moves to another plan when the workers are upgraded.
    """

    def __init__(self, plan: Plan, cluster: Cluster, identity: Identity | None, options: SendOptions) -> None:
        self.plan, self.cluster, self.identity, self.options = plan, cluster, identity, options
        self.shape: tuple[int, int, int] = plan.named_model.input
        self.numbers = count()
        self.retiring: dict[str, asyncio.Task[None]] = {}
        self.joining: set[str] = set()
        self.pool = self.pool_of(plan)
        self.plans = [self._usable(one) for one in (plan, *options.fallbacks)]
        self.current = self.plans[0]
        self.guards: list[asyncio.Task[None]] = []
        self.times: deque[ImageTimes] = deque(maxlen=KEPT)
        self.window = asyncio.Semaphore(options.window)
        self.ill: float | None = None
        self.follower = PlanFollower(self)

    async def __aenter__(self) -> Coordinator:
        """Start the run on all workers.

        Raises:
            ClovenError: with every reason why a worker cannot take part.
        """
        try:
            await self._join()
        except BaseException:
            await self.pool.close()
            raise
        self.current.bundle = self.pool.bundle
        await self._ask()
        guards = (self._keep_asking(), self._replace_lost(), self.follower.follow())
        self.guards = [asyncio.create_task(guard) for guard in guards]
        return self

    async def _join(self) -> None:
        """Start the run with the given plan, or with the one to which the workers were upgraded."""
        try:
            await self.pool.join(self.options)
        except ClovenError:
            if (plan := await self.follower.upgraded()) is None:
                raise
            await self.pool.close()
            self.plan, self.pool = plan, self.pool_of(plan)
            self.current = self._upgraded()
            await self.pool.join(self.options)

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for guard in self.guards:
            guard.cancel()
        await asyncio.gather(*self.guards, return_exceptions=True)
        await asyncio.gather(*self.retiring.values(), self.pool.close())

    # --- the workers ------------------------------------------------------------------------------------------

    def pool_of(self, plan: Plan, names: Mapping[str, str] | None = None) -> WorkerPool:
        """Return workers for a plan that have not joined; ``names`` are those that take the places of devices."""
        in_flight = InFlight(min(LATE, self.options.deadline / 2), self.numbers)
        if self.options.steal:
            return TaskPool(plan, self.cluster, self.identity, in_flight)
        return WorkerPool(plan, self.cluster, self.identity, in_flight, names)

    async def change(self, pool: WorkerPool) -> None:
        """Send further images to other workers, once they have joined; images in flight end where they began.

        A plan that is none of `plans` is that of an upgrade, and replaces the first one.

        Raises:
            ClovenError: if the workers cannot join; images are then still sent to the earlier ones.
        """
        before, beside = self.pool, self._runs()
        self.joining.add(pool.run)
        try:
            await pool.join(replace(self.options, retry=0.0), beside)
            if self.pool is not before:
                raise ClovenError("the workers of the run changed meanwhile")
            if pool.numbers != before.numbers:
                raise ClovenError(f"the outputs have {pool.numbers} numbers; expected {before.numbers}")
        except BaseException:
            self.retiring[pool.run] = asyncio.create_task(self._retire(pool))
            raise
        finally:
            self.joining.remove(pool.run)
        self.pool, self.plan, used = pool, pool.plan, self.current
        self.current = next((one for one in self.plans if one.plan is pool.plan), None) or self._upgraded()
        self.current.bundle = pool.bundle
        self.current.use(pool.workers)
        if self.current is not used:
            used.release(before.workers, before.lost(HANGING))
        self.retiring[before.run] = asyncio.create_task(self._retire(before))

    def _usable(self, plan: Plan) -> UsablePlan:
        """Return a plan with its standbys that the options allow and the cluster has."""
        chosen = () if self.options.steal else self.options.standbys_of(plan)
        standbys = [name for name in plan.standby if name in chosen and name in self.cluster.devices]
        return UsablePlan(plan, standbys, self.cluster, self.pool.tls)

    def _upgraded(self) -> UsablePlan:
        """Replace the first plan by the current plan; fallbacks must still fit."""
        first, *fallbacks = self.plans = [self._usable(self.plan), *self.plans[1:]]
        for fallback in fallbacks:
            fallback.problem = "; ".join(misfits(fallback.plan, self.plan.protection, self.cluster))
            if fallback.problem:
                log.warning("%s is not used any more: %s", fallback, fallback.problem)
        return first

    def _runs(self) -> list[str]:
        return [self.pool.run, *self.retiring, *self.joining]

    async def _ask(self) -> None:
        """Ask the workers that are not in use whether they can take a place."""
        if len(self.plans) == 1 and not self.current.standbys:
            return
        used = self.pool.workers
        asked = [(one, one.unsure(used, in_use=one is self.current)) for one in self.plans]
        await asyncio.gather(*(one.ask(names, self._runs) for one, names in asked))

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(ASKING)
            await self._ask()

    def _better(self, lost: Collection[str]) -> tuple[UsablePlan, dict[str, str]] | None:
        """Return the first plan whose places can be taken, and by whom; None if there is none, or it is used."""
        for one in self.plans:
            if one is self.current and not lost:
                return None
            places = one.places(self.pool.devices if one is self.current else {}, lost)
            if places is not None:
                return one, places
        return None

    async def _replace_lost(self) -> None:
        """Replace workers that are lost or hang, or use another plan, and send their images again.

        An earlier plan is used again when its workers have been up for a while.
        """
        returning = Hysteresis()
        while True:
            await self.pool.wait()
            while (lost := self.pool.lost(HANGING)) and (found := self._better(lost)) is not None:
                await self._move(*found, lost)
            found = None if lost else self._better(())
            if returning.due(time.monotonic(), possible=found is not None) and found is not None:
                await self._move(*found, ())

    async def _move(self, to: UsablePlan, places: Mapping[str, str], lost: Sequence[str]) -> None:
        """Send images to the workers that take the places of a plan's devices, if they can."""
        pool, before = self.pool, self.current
        takers = {device: worker for device, worker in places.items() if worker not in pool.workers}
        await to.ask(takers.values(), self._runs, AT_ONCE)
        if not set(takers.values()) <= set(to.ready):
            return
        why = f"{', '.join(lost)} lost" if lost else "its workers are up again"
        try:
            await self._change_while_up(self.pool_of(to.plan, places))
        except (ClovenError, TimeoutError) as error:
            if set(places.values()) & set(pool.lost(HANGING)):
                return  # one of them was lost meanwhile: the others are not the cause
            reason = str(error) or f"it has not joined within {REPLACING:g} s"
            log.warning("cannot change to %s (%s): %s", to, why, reason)
            to.reasons |= dict.fromkeys(takers.values() or places.values(), reason)
            return
        if to is not before:
            log.warning("changed from %s to %s: %s", before, to, why)
        for device, worker in places.items():
            if worker != device and pool.devices.get(worker) != device:
                log.warning("%s takes the place of %s", worker, device)
            elif worker == device and to is before and pool.names.get(device, device) != device:
                log.warning("%s has its own place again", device)
        if lost:
            pool.give_up(lost)

    async def _change_while_up(self, pool: WorkerPool) -> None:
        """Send further images to other workers, unless one of them is lost or hangs before all have joined.

        Raises:
            ClovenError: as `change`.
            TimeoutError: if it takes too long, or such a worker is lost.
        """
        async with asyncio.timeout(REPLACING) as limit:
            watching = asyncio.create_task(self._end_when_lost(limit, self.pool, pool.workers))
            try:
                await self.change(pool)
            finally:
                watching.cancel()

    @staticmethod
    async def _end_when_lost(limit: asyncio.Timeout, pool: WorkerPool, workers: Collection[str]) -> None:
        """End a time limit at once when one of these workers is lost from a pool, or hangs."""
        while not set(workers) & set(pool.lost(HANGING)):
            await pool.wait()
        limit.reschedule(asyncio.get_running_loop().time())

    async def _retire(self, pool: WorkerPool) -> None:
        """Close a pool when its last image has been answered or has failed."""
        await pool.in_flight.wait_until_empty()
        await pool.close()
        del self.retiring[pool.run]

    # --- images -----------------------------------------------------------------------------------------------

    async def submit(self, image: Image) -> Prediction:
        """Return the output for an image ``(C, H, W)``: numbers in [0, 1], float32, or pixels of 0 to 255, uint8.

        Raises:
            FrameFailed: if the image is not answered, with the device or link and the reason.
        """
        plan, data = self.plan, self._encoded(image)
        async with self.window:
            until = time.monotonic() + self.patience
            while True:
                await self._ready(until)
                if self.plan is not plan:  # it may send images in another type
                    plan, data = self.plan, self._encoded(image)
                try:
                    return await self._attempt(data)
                except FrameFailed as failed:
                    if not failed.lost or time.monotonic() >= until:
                        raise

    @property
    def patience(self) -> float:
        """The seconds during which an image is sent again after a loss: the deadline, if others can take over."""
        lost = self.pool.lost(HANGING)
        able = self._better(lost) is not None if lost else any(one.ready for one in self.plans)
        return max(self.options.retry, self.options.deadline if able else 0.0)

    def _encoded(self, image: Image) -> NDArray[Any]:
        """Return an image in the type in which the plan sends it.

        Raises:
            ImageRefused: if it has another shape than the plan's images, or cannot be sent in this type.
        """
        if image.shape != self.shape:
            raise ImageRefused(f"the image has shape {image.shape}; expected {self.shape}")
        pixels = image.astype(np.uint8, copy=False) if image.dtype == np.uint8 else None
        if self.plan.transform.image == "float32":
            return np.ascontiguousarray(image if pixels is None else unit(pixels), NUMBERS)
        try:
            return np.ascontiguousarray(pixels_of(image) if pixels is None else pixels)
        except ClovenError as error:
            raise ImageRefused(str(error)) from error

    async def answers(self, images: Iterable[Image]) -> AsyncIterator[Prediction | FrameFailed]:
        """Yield the outputs for images, as `submit` takes them, in order; the window is kept full.

        The iterable is read in the event loop: if the next image takes longer than 8 s, the workers take the
        coordinator for hung and leave the run; they join it again afterwards.
        """
        waiting: deque[asyncio.Task[Prediction]] = deque()

        async def outcome(task: asyncio.Task[Prediction]) -> Prediction | FrameFailed:
            try:
                return await task
            except FrameFailed as failed:
                return failed

        try:
            for image in images:
                waiting.append(asyncio.create_task(self.submit(image)))
                if len(waiting) >= 2 * self.options.window:
                    yield await outcome(waiting.popleft())
            while waiting:
                yield await outcome(waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()

    async def _ready(self, until: float) -> None:
        """Wait until all devices and links are up.

        The wait is limited by the time in which an image may be sent again and by ``retry`` since the outage began.
        A worker that has been silent for less than the deadline may be behind a slow link: images wait for it.
        """
        while troubles := self.pool.blocking(max(SILENT, self.options.deadline - HUNG)):
            now = time.monotonic()
            self.ill = now if self.ill is None else self.ill
            if now >= min(until, self.ill + self.patience):
                raise troubles[0].failure()
            await self.pool.wait()
        self.ill = None

    async def _attempt(self, data: NDArray[Any]) -> Prediction:
        pool = self.pool
        attempt = pool.in_flight.begin()
        number, future = attempt.number, attempt.output
        start, sent = time.perf_counter(), time.time()
        try:
            async with asyncio.timeout(self.options.deadline):
                await pool.send(number, data)
                output = await future
        except TimeoutError:
            raise pool.overdue(number, self.options.deadline).failure() from None
        finally:
            pool.in_flight.end(attempt)
            if not future.done() or future.cancelled() or future.exception() is not None:
                future.cancel()
                pool.forget(number)
        answered, came = time.perf_counter(), time.time()
        self.times.extend(pool.times(number, sent, came))
        return Prediction(number, output, answered - start, answered, pool.plan)

    # --- health and reports -----------------------------------------------------------------------------------

    def health(self) -> ClusterHealth:
        """Return whether images can be answered now, and the state of each device."""
        devices = []
        for name, worker in self.pool.workers.items():
            why = worker.trouble()
            state: Literal["up", "down"] = "down" if why else "up"
            devices.append(DeviceHealth(device=name, state=state, reason=why or "", links=dict(worker.down)))
        beside: dict[str, str] = {}
        for one in self.plans:
            for name, reason in one.reasons.items():
                if name not in self.pool.workers and beside.get(name, UNKNOWN):
                    beside[name] = reason
        for name, reason in beside.items():
            devices.append(
                DeviceHealth(device=name, state="down" if reason else "standby", reason=reason, links={})
            )
        lost = self.pool.lost(HANGING)
        return ClusterHealth(
            ready=not self.pool.blocking(),
            devices=tuple(devices),
            in_flight=len(self.pool.in_flight),
            plan=self.pool.bundle,
            upgrade=self.follower.note,
            plans=tuple(one.health(lost, in_use=one is self.current) for one in self.plans),
        )

    async def reports(self) -> dict[str, PartyReport]:
        """Return each party's measurements of the last images; workers that do not answer are left out."""
        sent = {name: connection.sent["bytes"] for name, connection in self.pool.connections.items()}
        mine = WorkerReport(steps=[], images=list(self.times), refused={}, bytes=sent, clock={}, finished=0)
        asked = {name: worker.ask_report() for name, worker in self.pool.workers.items() if worker.joined}
        if asked:
            await asyncio.wait(asked.values(), timeout=REPORTING)
        found = {COORDINATOR: PartyReport(mine)}
        for name, report in asked.items():
            if report.done():
                worker = self.pool.workers[name]
                found[name] = PartyReport(report.result(), worker.offset, worker.rtt / 2)
        return found
