"""Send a set of images through a cluster, and collect the outputs."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cloven.cost.cluster import Cluster
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.partition.plan import Plan
from cloven.partition.protection import COORDINATOR
from cloven.progress import Progress
from cloven.runtime.cluster import breakdown
from cloven.runtime.cluster.coordinator import Coordinator, PartyReport, Prediction
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.plan_follower import unusable
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.task_pool import TaskPool
from cloven.runtime.cluster.task_record import TaskRecord, WorkerTasks
from cloven.runtime.sent_images import write_sent

log = logging.getLogger("cloven")


class FailedImage(Document):
    """An image that was not answered: its index among those that were sent, and the reason."""

    image: int
    reason: str


class PlanImages(Document):
    """A plan in a few words, its devices, and the number of images that it answered."""

    title: str
    devices: tuple[str, ...]
    images: int


class SendSummary(Document):
    """The result of sending images through a cluster, as a document.

    Attributes:
        images: the number of images that were sent.
        answered: the number of images that were answered.
        failed: the images that were not answered.
        seconds: the time from the first image to the last answer.
        images_a_second: the throughput of answered images; None if ``seconds`` is 0.
        latency: the time from sending an image to its answer.
        devices: the times on each device.
        links: the times and bytes of each link.
        workers: the tasks that each worker received, if any worker could take any.
        plans: the plans that answered; several if a fallback was used.
    """

    version: Literal[1] = 1
    images: int
    answered: int
    failed: tuple[FailedImage, ...]
    seconds: float
    images_a_second: float | None
    latency: breakdown.Latency
    devices: tuple[breakdown.DeviceTimes, ...]
    links: tuple[breakdown.LinkTimes, ...]
    workers: tuple[WorkerTasks, ...] = ()
    plans: tuple[PlanImages, ...] = ()


@dataclass(frozen=True, eq=False)
class SendOutcome:
    """The answers for images that were sent.

    Attributes:
        answers: the answer or the error of each image, in order.
        seconds: the time from the first image to the last answer.
        reports: the report of each party; see `Coordinator.reports`.
        tasks: which worker received which tasks; None if each ran the part of a device.
    """

    answers: tuple[Prediction | FrameFailed, ...]
    seconds: float
    reports: Mapping[str, PartyReport] = field(repr=False)
    tasks: TaskRecord | None = field(default=None, repr=False)

    @property
    def predictions(self) -> list[Prediction]:
        """Return the answers, without the images that have none."""
        return [answer for answer in self.answers if isinstance(answer, Prediction)]

    @property
    def answered(self) -> list[int]:
        """Return the indices of the images that were answered."""
        return [i for i, answer in enumerate(self.answers) if isinstance(answer, Prediction)]

    @property
    def outputs(self) -> NDArray[np.float32]:
        """Return the outputs ``(n, classes)`` of the images that were answered."""
        return np.stack([answer.output for answer in self.predictions])

    def sent(self) -> dict[tuple[str, str], int]:
        """Return the total payload bytes of each link that carried any."""
        found = {}
        for source, party in self.reports.items():
            for target, count in party.report.bytes.items():
                if count:
                    found[source, target] = count
        return found

    def plans(self) -> tuple[PlanImages, ...]:
        """Return the plans that answered, and how many images each."""
        plans = {id(answer.plan): answer.plan for answer in self.predictions}
        counts = Counter(id(answer.plan) for answer in self.predictions)
        return tuple(
            PlanImages(title=p.title(), devices=tuple(p.devices), images=counts[i]) for i, p in plans.items()
        )

    def summary(self) -> SendSummary:
        """Return the outcome as a document."""
        done = self.predictions
        failures = [(i, answer) for i, answer in enumerate(self.answers) if isinstance(answer, FrameFailed)]
        return SendSummary(
            images=len(self.answers),
            answered=len(done),
            failed=tuple(FailedImage(image=i, reason=str(failed)) for i, failed in failures),
            seconds=round(self.seconds, 3),
            images_a_second=round(len(done) / self.seconds, 2) if self.seconds else None,
            latency=breakdown.latency([answer.seconds for answer in done]),
            devices=breakdown.devices(self.reports),
            links=breakdown.links(self.reports, self.sent()),
            workers=self.tasks.workers() if self.tasks is not None else (),
            plans=self.plans(),
        )


def coordinator(plan: Plan, cluster_file: Path, options: SendOptions) -> Coordinator:
    """Return a coordinator for a plan's workers; read the cluster file and the keys. The caller enters its context.

    Raises:
        ClovenError: for a cluster file or keys that cannot be used, or a plan with transforms that cannot be sent.
    """
    from cloven.runtime.link.identity import read

    problems = plan.transform.unstealable(plan.devices) if options.steal else []
    if problems := problems or plan.transform.unsendable(plan.devices):
        raise ClovenError(problems)
    standby = options.standbys_of(plan)
    problems = [
        f"{name} is not a standby of the plan; write the plan with `cloven plan --standby {name}`, so that what it "
        "may receive counts"
        for name in standby
        if name not in plan.standby
    ]
    if options.steal and options.batch > 1:
        problems.append("--batch cannot be combined with --steal: a worker has two tasks at most")
    if options.steal and options.standby:
        problems.append("--standby cannot be combined with --steal: the tasks of a lost worker go to the others")
    if options.steal and options.fallbacks:
        problems.append("--fallback cannot be combined with --steal: the tasks of a lost worker go to the others")
    if problems:
        raise ClovenError(problems)
    if options.steal and plan.standby:
        names = ", ".join(plan.standby)
        log.info("with --steal, standbys take tasks from the start, if they are in the cluster file: %s", names)
    cluster = Cluster.load(cluster_file, () if options.steal else (*plan.devices, *standby))
    identity = read(Path(cluster.keys), COORDINATOR) if cluster.keys is not None else None
    every = [plan, *options.fallbacks]
    problems = [
        f"the fallback of {', '.join(other.devices)} is given twice, or is the plan itself; give each plan once"
        for place, other in enumerate(every)
        if other in every[:place]
    ]
    problems += [
        f"the fallback of {', '.join(other.devices)} cannot be used: {problem}"
        for other in options.fallbacks
        for problem in unusable(other, plan, cluster)
    ]
    if problems:
        raise ClovenError(problems)
    return Coordinator(plan, cluster, identity, options)


def send(run: Coordinator, pixels: NDArray[np.uint8], progress: Progress) -> SendOutcome:
    """Send images ``(n, C, H, W)``, 0 to 255, through a cluster in order.

    Args:
        run: a coordinator whose context was not entered yet.
        pixels: the images.
        progress: called with "sending", the number of answers so far, and the number of images.

    Raises:
        ClovenError: for a cluster that cannot be used, or images of another shape.
    """
    if pixels.shape[1:] != run.shape:
        raise ClovenError(f"the images have shape {pixels.shape[1:]}; the plan takes {run.shape}")

    async def everything() -> SendOutcome:
        found: list[Prediction | FrameFailed] = []
        async with run:
            start = perf_counter()
            async for answer in run.answers(pixels):
                found.append(answer)
                progress("sending", len(found), len(pixels))
            seconds = perf_counter() - start
            tasks = run.pool.record() if isinstance(run.pool, TaskPool) else None
            return SendOutcome(tuple(found), seconds, await run.reports(), tasks)

    return asyncio.run(everything())


def write_answered(folder: Path, outcome: SendOutcome, pixels: NDArray[np.uint8], auxiliary: int) -> Path:
    """Write the answered images; the first ``auxiliary`` images are the attacker's. See `write_sent`."""
    at = np.array(outcome.answered)
    numbers = [answer.number for answer in outcome.predictions]
    return write_sent(folder, numbers, pixels[at], outcome.outputs, at < auxiliary)
