"""The workers of a run, from its start to its end, and the failures that they report."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.partition.plan import Plan, check
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.channels import CLOSED
from cloven.runtime.cluster.diagnosis import culprit
from cloven.runtime.cluster.errors import FrameFailed, PartyError
from cloven.runtime.cluster.events import (
    Event,
    FrameReceived,
    ImageGivenUp,
    LinkChanged,
    WorkerChanged,
    WorkerLinkLost,
)
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.image_task import NUMBERS
from cloven.runtime.cluster.in_flight import InFlight
from cloven.runtime.cluster.peer_connections import PeerConnection
from cloven.runtime.cluster.protocol import VERSION, ImageTimes, JoinRequest, RunTerms, WorkerDescription
from cloven.runtime.cluster.worker_client import PING, SILENT, WorkerClient, describe_part
from cloven.runtime.link.ciphers import warm
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.runtime.cluster.send_options import SendOptions
    from cloven.runtime.link.identity import Identity

JOINING = 25.0
"""Seconds within which all workers must join: a little more than they wait for their links."""

GRACE = 0.3
"""Seconds within which the loss of a device is taken as the cause of the loss of its link."""

HUNG = 1.0
"""Seconds without a message after which a worker is taken to be the cause of an overdue image."""

Described = Mapping[str, WorkerDescription]
"""The description of each worker."""


@dataclass(frozen=True)
class Trouble:
    """A device or link that is not up, the reason, and whether waiting is known to be useless."""

    where: tuple[str, ...]
    why: str
    final: bool = False

    def __str__(self) -> str:
        return f"{' - '.join(self.where)}: {self.why}"

    def failure(self) -> FrameFailed:
        """Return the error of an image that is lost because of this."""
        device, *other = self.where
        if other:
            return FrameFailed(self.why, link=(device, other[0]), lost=True)
        return FrameFailed(self.why, device=device, lost=True)


def _remedy(found: WorkerDescription) -> str:
    """Return what to do about a worker that has the bundle of another plan."""
    if found.previous is None:
        return "write it again with `cloven bundle`"
    return (
        "it was upgraded; use the plan of that upgrade, or go back on all workers with "
        "`cloven upgrade --rollback --cluster FILE`, or by sending the earlier bundle again"
    )


class WorkerPool:
    """The workers of a plan, and our links to those that receive images or send outputs.

    It completes the images in flight when their outputs arrive, and fails them when workers or links are lost.

    Attributes:
        names: the worker that takes the place of a device, for each device that has another name than its worker.
        devices: the device of each worker, in the plan's order.
        addresses: the addresses of the workers, which are sent to all of them.
        in_flight: the images; ``frames`` is what the numbers of frames stand for: images, or tasks of them.
        source, sink: the worker that receives the images, and the one that sends the outputs.
        numbers: the number of elements of an output.
        bundle: the hash of the workers' bundle.
    """

    def __init__(
        self,
        plan: Plan,
        cluster: Cluster,
        identity: Identity | None,
        in_flight: InFlight,
        names: Mapping[str, str] | None = None,
        frames: InFlight | None = None,
    ) -> None:
        self.plan, self.identity, self.in_flight = plan, identity, in_flight
        self.frames = in_flight if frames is None else frames
        self.tls = None if cluster.insecure else identity
        self.names = dict(names or {})
        self.devices = self._places(cluster)
        self.addresses = {name: cluster.devices[name].address or "" for name in self.devices}
        self.run = secrets.token_hex(8)
        self.changed = asyncio.Event()
        self.aside = ThreadPoolExecutor(1)
        self.workers = {
            name: WorkerClient(name, self.addresses, self.tls, self.frames, self._on_event)
            for name in self.addresses
        }
        self.connections: dict[str, PeerConnection] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.source, self.sink, self.numbers, self.bundle = "", "", 0, ""
        self.leaving = False

    def _places(self, _: Cluster) -> dict[str, str]:
        """Return the device whose place each worker takes."""
        return {self.names.get(device, device): device for device in self.plan.devices}

    # --- joining and leaving ----------------------------------------------------------------------------------

    async def join(self, options: SendOptions, beside: Collection[str] = ()) -> None:
        """Start the run on all workers; wait up to ``options.retry`` seconds for those that are not reachable yet.

        Args:
            options: the options of sending images.
            beside: our other runs, which workers do not leave for this one.

        Raises:
            ClovenError: with every reason why a worker cannot take part.
        """
        described = await self._described(time.monotonic() + options.retry)
        if problems := list(self._mismatches(described, beside)):
            raise ClovenError(problems)
        self._learn(described)
        self._dial(described)
        self.bundle = next(iter(described.values())).plan
        terms = self._terms(self.bundle, options, beside)
        for worker in self.workers.values():
            self._begin(self._keep(worker, JoinRequest(cloven=VERSION, join=terms)))
        await self._joined(options.retry)

    def _learn(self, described: Described) -> None:
        """Take from the descriptions what the run needs to know."""
        (self.source,) = (device for device, found in described.items() if found.source)
        (self.sink,) = (device for device, found in described.items() if found.sink)
        self.numbers = prod(next(iter(described.values())).output)

    def _terms(self, plan: str, options: SendOptions, beside: Collection[str]) -> RunTerms:
        return RunTerms(
            run=self.run,
            plan=plan,
            addresses=self.addresses,
            names=self.names,
            beside=list(beside),
            window=options.window,
            batch=options.batch,
            deadline=options.deadline,
        )

    def _describe(self, worker: WorkerClient) -> Awaitable[WorkerDescription]:
        name = worker.device
        return describe_part(name, worker.address, self.tls, self.plan, self.devices[name])

    async def _described(self, until: float) -> Described:
        """Return the workers' descriptions, once all of them answer."""
        while True:
            answers = await asyncio.gather(*map(self._describe, self.workers.values()), return_exceptions=True)
            wrong = [answer for answer in answers if isinstance(answer, BaseException)]
            for answer in wrong:
                if not isinstance(answer, ClovenError):
                    raise answer
            if not wrong:
                named = zip(self.workers, answers, strict=True)
                return {name: found for name, found in named if isinstance(found, WorkerDescription)}
            if (
                not all(isinstance(answer, PartyError) and answer.again for answer in wrong)
                or until < time.monotonic()
            ):
                raise ClovenError([str(answer) for answer in wrong])
            await asyncio.sleep(PING)

    def _mismatches(self, described: Described, beside: Collection[str]) -> Iterator[str]:
        """Yield the reasons why the workers cannot run the plan together."""
        if different := list(self._differences(described, beside)):
            yield from different
            return
        for end, marked in (
            ("receives the images", [name for name, found in described.items() if found.source]),
            ("sends the outputs", [name for name, found in described.items() if found.sink]),
        ):
            if len(marked) != 1:
                yield f"{', '.join(marked) or 'no worker'} {end}; expected one worker: write the bundle again"

    def _differences(self, described: Described, beside: Collection[str]) -> Iterator[str]:
        first, plan = next(iter(described.items()))
        for worker, found in described.items():
            at, device = f"{worker} ({self.addresses[worker]})", self.devices[worker]
            if found.device != device:
                yield f"{at} is the worker of {found.device}; expected {device}: correct the cluster file"
            elif check(found.plan_text)[0] != self.plan:
                yield f"{at} has the bundle of another plan ({found.model}): {_remedy(found)}"
            elif found.plan != plan.plan or found.output != plan.output:
                yield f"{at} and {first} have bundles that were not written together: copy one bundle to all"
            elif found.run is not None and found.run not in beside:
                yield f"{at} is busy with run {found.run}; one coordinator at a time"

    def _dial(self, described: Described) -> None:
        """Connect to the workers that receive images or send outputs, if all keys are present."""
        ours = {device: found.largest for device, found in described.items() if COORDINATOR in found.parties}
        links: list[LinkSpec] = []
        problems: list[str] = []
        for device, largest in ours.items():
            try:
                links.append(self._link_with(device, largest))
            except ClovenError as error:
                problems += error.problems
        if problems:
            raise ClovenError(problems)
        for link in links:
            connection = PeerConnection(
                link, link.other, self._on_event, lambda n: n not in self.frames, self.aside
            )
            self.connections[link.other] = connection
            connection.dial(self.addresses[link.other], self.tls)

    def _protection(self, worker: str) -> str:
        """Return the protection of our link with a worker."""
        return self.plan.protection.of(COORDINATOR, self.devices[worker])

    def _link_with(self, worker: str, largest: int) -> LinkSpec:
        protection = self._protection(worker)
        key = partial(frame_stream.link_key, self.identity, worker, protection)
        link = LinkSpec(self.run, COORDINATOR, worker, protection, key, frame_stream.limits(largest))
        if protection == "mtls" and self.tls is None:
            raise LinkError(
                f"the link with {worker} is protected with mtls: set keys in the cluster file, and remove insecure"
            )
        if link.cipher is not None:
            link.key()
            warm(link.cipher)
        return link

    async def _keep(self, worker: WorkerClient, request: JoinRequest) -> None:
        """Keep a worker in the run: ask it to join again whenever it is lost."""
        while not self.leaving:
            try:
                await worker.take_part(request)
            except PartyError as error:
                for other in self.workers.values() if worker.joined else ():
                    other.part(worker.device)
                worker.lose(error)
                self._fail(self.frames.numbers, Trouble((worker.device,), worker.reason))
                self.changed.set()
            await asyncio.sleep(PING)

    async def _joined(self, patience: float) -> None:
        until = time.monotonic() + max(JOINING, patience)
        while (wrong := self.troubles()) and time.monotonic() < until:
            for_good = [trouble for trouble in wrong if trouble.final]
            if for_good and not patience:
                await asyncio.sleep(GRACE)  # let other workers report their reasons too
                wrong = [*for_good, *(trouble for trouble in self.troubles() if trouble.final)]
                break
            await self.wait()
        if wrong:
            raise ClovenError(list(dict.fromkeys(map(str, wrong))))

    async def close(self) -> None:
        """End the run, so that the workers are free for another one."""
        self.leaving = True
        await asyncio.gather(*(connection.close() for connection in self.connections.values()))
        await asyncio.gather(*(worker.leave() for worker in self.workers.values()))
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.aside.shutdown(wait=False)

    # --- images -----------------------------------------------------------------------------------------------

    async def send(self, number: int, image: NDArray[Any]) -> None:
        """Send an image to the device that receives the images; wait while its queue is full."""
        await self.connections[self.source].send(number, 0, [image])

    def forget(self, number: int) -> None:
        """Tell the workers to drop an image that is no longer awaited."""
        for worker in self.workers.values():
            worker.drop(number)

    def times(self, number: int, sent: float, came: float) -> list[ImageTimes]:
        """Return the times of the frames of an answered image; it was sent, and its output came, at these times."""
        ends = {"sent": [(self.source, 0, sent)], "came": [(self.sink, 0, came)]}
        return [ImageTimes(input=number, seconds=[], **ends)]

    def _answered(self, _: int) -> int:
        """Return the number of elements in the answer to a frame with this number."""
        return self.numbers

    def _take(self, party: str, frame: Opened) -> None:
        """Complete what a frame answers, if it is in flight at this worker."""
        if not self.frames.passes(frame.input, [party]):
            return
        due = NUMBERS.itemsize * self._answered(frame.input)
        if frame.ordinal != 0 or frame.payload.nbytes != due:
            got = f"message {frame.ordinal} of {frame.payload.nbytes} bytes"
            reason = f"sent a malformed output: {got}; expected message 0 of {due} bytes"
            self.frames.fail(frame.input, FrameFailed(reason, link=(party, COORDINATOR)))
        else:
            self.frames.answer(frame.input, np.frombuffer(frame.payload, NUMBERS).astype(np.float32))

    # --- events and failures ----------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        """Act on an event of a worker or of one of our links."""
        match event:
            case FrameReceived(party, frame):
                self._take(party, frame)
            case ImageGivenUp(device, failure):
                link = None if failure.party is None else (failure.party, device)
                error = FrameFailed(failure.reason, device=None if link else device, link=link)
                if self.frames.passes(failure.input, [device]):
                    self.frames.fail(failure.input, error)
            case WorkerLinkLost(device, party, reason):
                self._lose_link(party, device, reason)
            case LinkChanged(party, up, reason):
                if not up:
                    self._lose_link(COORDINATOR, party, reason)
                self.changed.set()
            case WorkerChanged():
                self.changed.set()

    def troubles(self, silence: float = SILENT) -> list[Trouble]:
        """Return what is not up now: devices, then links; links with a known reason come first."""
        workers = self.workers.items()
        found = [Trouble((n,), why, w.final) for n, w in workers if (why := w.trouble(silence)) is not None]
        down: list[tuple[str, str, str]] = []
        for name, worker in workers:
            if worker.joined:
                down += [(name, party, why) for party, why in worker.down.items()]
        down.sort(key=lambda one: one[2] == CLOSED)
        found += [Trouble(self._ends(one, other), why) for one, other, why in down]
        ours = self.connections.items()
        return found + [Trouble((COORDINATOR, name), c.reason, c.final) for name, c in ours if not c.up]

    def lost(self, silence: float) -> list[str]:
        """Return the workers that have left, or have been silent for some seconds."""
        return [name for name, worker in self.workers.items() if worker.trouble(silence) is not None]

    def give_up(self, lost: Sequence[str]) -> None:
        """Fail the images in flight, since workers are lost: the reason names all of them."""
        first, *others = [(worker, self.workers[worker].trouble(0) or "was replaced") for worker in lost]
        also = "".join(f"; {worker}, which was lost too, {why}" for worker, why in others)
        self._fail(self.frames.numbers, Trouble((first[0],), first[1] + also))

    def blocking(self, silence: float = SILENT) -> list[Trouble]:
        """Return the troubles because of which no image can be answered now."""
        return self.troubles(silence)

    def overdue(self, number: int, deadline: float) -> Trouble:
        """Return the device or link that an overdue image waits for, according to the workers' last messages."""
        workers = self.workers
        late = f"no answer within {deadline:g} s"
        worst = max(workers.values(), key=lambda worker: worker.silent)
        if worst.silent > HUNG:
            return Trouble((worst.device,), f"{late}; it sent no message for {worst.silent:.1f} s")
        states = {name: worker.states[number] for name, worker in workers.items() if number in worker.states}
        found = culprit(states, self.sink)
        what = "it is still computing" if len(found) == 1 else f"{found[1]} waits for {found[0]}"
        return Trouble(found, f"{late}; {what}")

    async def wait(self) -> None:
        """Wait until something has changed, at most ``PING`` seconds."""
        self.changed.clear()
        with suppress(TimeoutError):  # unlike `asyncio.wait_for`, it never swallows a cancellation
            async with asyncio.timeout(PING):
                await self.changed.wait()

    def _lose_link(self, one: str, other: str, reason: str) -> None:
        self._begin(self._diagnose(self.frames.numbers, Trouble(self._ends(one, other), reason)))

    async def _diagnose(self, numbers: Sequence[int], trouble: Trouble) -> None:
        """Fail images because of the loss of a link, or of a device at one of its ends.

        A party that only saw the stream end waits longer, so that another party that knows the reason reports
        first.
        """
        await asyncio.sleep(2 * GRACE if trouble.why == CLOSED else GRACE)
        ends = [self.workers[party] for party in trouble.where if party in self.workers]
        gone = next((worker for worker in ends if not worker.joined), None)
        self._fail(numbers, trouble if gone is None else Trouble((gone.device,), gone.reason))

    def _fail(self, numbers: Sequence[int], trouble: Trouble) -> None:
        for number in numbers:
            self.frames.fail(number, trouble.failure())

    def _ends(self, one: str, other: str) -> tuple[str, str]:
        """Return the ends of a link in the plan's order, the coordinator first, whichever end reported it."""
        first, second = sorted((one, other), key=(COORDINATOR, *self.workers).index)
        return first, second

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
