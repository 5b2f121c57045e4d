"""Workers that compute any task: each idle one takes the next task of the oldest image (work stealing).

It is the scheme of DeepThings (Zhao et al. 2018), with the coordinator as its gateway: it cuts the inputs of each
task from the image and from the outputs of earlier tasks. The tasks of a lost worker go to the others at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Iterator, Sequence
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cloven.documents import parse_document
from cloven.errors import ClovenError
from cloven.graph.box import extent
from cloven.partition.protection import COORDINATOR
from cloven.runtime.bundle.engine import Array
from cloven.runtime.bundle.task_graph import IMAGE, TaskGraph
from cloven.runtime.cluster.errors import FrameFailed
from cloven.runtime.cluster.events import Event
from cloven.runtime.cluster.in_flight import Attempt, InFlight
from cloven.runtime.cluster.protocol import ImageTimes, RunTerms, WorkerDescription
from cloven.runtime.cluster.task_record import TaskRecord
from cloven.runtime.cluster.task_scheduler import OUTSTANDING, TakenTask, TaskScheduler
from cloven.runtime.cluster.worker_client import PING, SILENT, WorkerClient, describe
from cloven.runtime.cluster.worker_pool import Described, Trouble, WorkerPool

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.partition.plan import Plan
    from cloven.runtime.cluster.send_options import SendOptions
    from cloven.runtime.link.identity import Identity


class TaskPool(WorkerPool):
    """Workers that have each loaded the whole bundle; the devices of the plan are roles that they take by task.

    Attributes:
        graph: the tasks of the plan, and ``scheduler`` who computes which.
        held: the pieces of each image so far, by their numbers.
        sent: the times of the tasks of each image so far.
        attempts: the tasks that workers have now.
        given: the tasks that were sent to workers, in order, and ``answered`` those that they answered.
    """

    def __init__(self, plan: Plan, cluster: Cluster, identity: Identity | None, in_flight: InFlight) -> None:
        super().__init__(plan, cluster, identity, in_flight, frames=InFlight(in_flight.late_after, count()))
        self.graph: TaskGraph
        self.scheduler: TaskScheduler
        self.held: dict[int, dict[int, NDArray[Any]]] = {}
        self.sent: dict[int, list[ImageTimes]] = {}
        self.attempts: dict[TakenTask, Attempt] = {}
        self.given: list[TakenTask] = []
        self.answered: set[TakenTask] = set()

    def record(self) -> TaskRecord:
        """Return which worker received which tasks so far."""
        return TaskRecord.of(self.graph, self.given, self.answered)

    # --- joining ----------------------------------------------------------------------------------------------

    def _places(self, cluster: Cluster) -> dict[str, str]:
        names = [name for name in cluster.devices if name != COORDINATOR]
        problems = [
            f"the address of {name} is missing in the cluster file: every device of it is a worker of the run"
            for name in names
            if cluster.devices[name].address is None
        ]
        if len(names) > len(self.plan.devices):
            problems.append(
                f"the plan has {len(self.plan.devices)} devices and the cluster {len(names)} workers; expected at "
                "least as many devices, better several for each worker: divide the model into more tiles (--grid)"
            )
        try:
            self.plan.protection.of_all()
        except ClovenError as error:
            problems += error.problems
        if problems:
            raise ClovenError(problems)
        return {name: name for name in names}  # a worker that is asked for its tasks describes itself

    def _describe(self, worker: WorkerClient) -> Awaitable[WorkerDescription]:
        return describe(worker.device, worker.address, self.tls, tasks=True)

    def _mismatches(self, described: Described, beside: Collection[str]) -> Iterator[str]:
        for name, found in described.items():
            if found.tasks is None:
                yield (
                    f"{name} ({self.addresses[name]}) has loaded the part of one device; expected the whole "
                    f"bundle: start it with `cloven worker BUNDLE --name {name}`"
                )
        if all(found.tasks is not None for found in described.values()):
            yield from self._differences(described, beside)
            if len({found.tasks for found in described.values()}) > 1:
                yield "the workers describe different tasks: install the same version of cloven on all"

    def _learn(self, described: Described) -> None:
        first, found = next(iter(described.items()))
        self.graph = parse_document(TaskGraph, found.tasks or "", f"the tasks of {first}")
        image, output = self.graph.image, self.graph.output
        self.numbers = prod(extent(output.box))
        if (
            image.shape != self.plan.named_model.input
            or image.dtype != self.plan.transform.image
            or self.numbers != prod(found.output)
        ):
            raise ClovenError(f"the tasks of {first} are not those of the plan: write the bundle again")
        self.scheduler = TaskScheduler(self.graph.needs)
        self.frames.kinds = len(self.graph.tasks)
        self._begin(self._watch())

    def _terms(self, plan: str, options: SendOptions, beside: Collection[str]) -> RunTerms:
        # A worker still has the tasks of a failed image for a moment after it was given new ones.
        window = max(options.window, 4 * OUTSTANDING)
        return super()._terms(plan, options, beside).model_copy(update={"tasks": True, "window": window})

    def _protection(self, _: str) -> str:
        return self.plan.protection.of_all()

    # --- images -----------------------------------------------------------------------------------------------

    async def send(self, number: int, image: NDArray[Any]) -> None:
        """Add the tasks of an image, and hand out those that an idle worker can take."""
        self.held[number], self.sent[number] = {IMAGE: image[None]}, []
        self.scheduler.begin(number)
        self._hand_out()

    def forget(self, number: int) -> None:
        """Tell the workers to drop the tasks of an image that is no longer awaited."""
        for one in self.scheduler.taken(number):
            attempt = self.attempts[one]
            self.workers[one.worker].drop(attempt.number)
            self.frames.fail(attempt.number, FrameFailed("the image is no longer awaited"))
        self._end(number)
        self._hand_out()

    def _end(self, image: int) -> None:
        self.scheduler.end(image)
        self.held.pop(image, None)
        self.sent.pop(image, None)

    def _up(self) -> list[str]:
        """Return the workers that can take a task now."""
        return [
            name
            for name, worker in self.workers.items()
            if worker.trouble() is None and name in self.connections and self.connections[name].up
        ]

    def _hand_out(self) -> None:
        for one in self.scheduler.due(self._up()):
            self.attempts[one] = self.frames.begin(one.task, one.worker)
            self.given.append(one)
            self._begin(self._compute(one))

    async def _compute(self, one: TakenTask) -> None:
        """Let a worker compute a task, and keep its outputs; if it is lost, let others do it."""
        attempt, sent = self.attempts[one], []
        try:
            for ordinal, given in enumerate(self.graph.tasks[one.task].inputs):
                if one.image not in self.held:
                    break  # no longer awaited
                data = self.graph.assembled(given, self.held[one.image])
                sent.append((one.worker, ordinal, time.time()))
                await self.connections[one.worker].send(attempt.number, ordinal, [data])
            outputs = await attempt.output
        except FrameFailed as failed:
            self.scheduler.give_up(one)
            if not failed.lost:
                self.in_flight.fail(one.image, failed)
            elif not self._up():
                self._fail_images(failed)
        else:
            came = [(one.worker, 0, time.time())]
            times = ImageTimes(input=attempt.number, seconds=[], sent=sent, came=came)
            self._keep_outputs(one, outputs, times)
        finally:
            self.frames.end(attempt)
            if self.attempts.get(one) is attempt:
                del self.attempts[one]
        self._hand_out()

    def _keep_outputs(self, one: TakenTask, outputs: Array, times: ImageTimes) -> None:
        """Keep the outputs of a task, and answer its image if it was the last."""
        if not self.scheduler.finish(one):
            return
        self.answered.add(one)
        self.sent[one.image].append(times)
        held, first, at = self.held[one.image], self.graph.firsts[one.task], 0
        for i, made in enumerate(self.graph.tasks[one.task].outputs):
            shape = (1, *extent(made.box))
            held[first + i] = outputs[at : at + prod(shape)].reshape(shape)
            at += prod(shape)
        if self.scheduler.is_finished(one.image):
            self.in_flight.answer(one.image, self.graph.assembled(self.graph.output, held).reshape(-1))
            self.scheduler.end(one.image)
            del self.held[one.image]

    def times(self, number: int, *_: float) -> list[ImageTimes]:
        """Return the times of the frames of an answered image, task by task."""
        return self.sent.pop(number)

    def _answered(self, number: int) -> int:
        outputs = self.graph.tasks[number % len(self.graph.tasks)].outputs
        return sum(prod(extent(made.box)) for made in outputs)

    # --- events and failures ----------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        super()._on_event(event)
        self._hand_out()  # a worker may be up again

    def blocking(self, silence: float = SILENT) -> list[Trouble]:
        """Return the troubles because of which no image can be answered now: none while one worker is up."""
        return [] if self._up() else self.troubles(silence)

    def overdue(self, number: int, deadline: float) -> Trouble:
        """Return the worker that an overdue image waits for."""
        late = f"no answer within {deadline:g} s"
        taken = self.scheduler.taken(number)
        if not taken:
            return Trouble((COORDINATOR,), f"{late}; its tasks wait until a worker is idle")
        one = min(taken, key=lambda one: self.attempts[one].began)
        return Trouble(
            (one.worker,), f"{late}; it has not computed the part of {self.graph.tasks[one.task].device}"
        )

    def _fail(self, numbers: Sequence[int], trouble: Trouble) -> None:
        """Fail those tasks that the devices of a trouble have; those of other workers go on."""
        theirs = set(self.frames.of(trouble.where))
        super()._fail([number for number in numbers if number in theirs], trouble)

    def _fail_images(self, failed: FrameFailed) -> None:
        """Fail all images, because no worker is left."""
        for image in self.in_flight.numbers:
            self.in_flight.fail(image, failed)

    async def _watch(self) -> None:
        """Take the tasks from workers that hang."""
        while True:
            await asyncio.sleep(PING)
            for name, worker in self.workers.items():
                if worker.joined and (why := worker.trouble()) is not None:
                    mine = self.frames.of([name])
                    for number in mine:
                        worker.drop(number)
                    self._fail(mine, Trouble((name,), why))
