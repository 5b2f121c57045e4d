"""The coordinator: joins the workers of a plan to a run, sends images, collects outputs, and says what went wrong.

Every image is answered once, or fails with the device or link and the reason. An attempt has its own number, so
that an answer that comes after all is nobody's.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cloven.errors import ClovenError
from cloven.partition.plan import Plan, parse
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import wire
from cloven.runtime.cluster.channels import CLOSED
from cloven.runtime.cluster.errors import FrameFailed, PartyError
from cloven.runtime.cluster.file import Cluster
from cloven.runtime.cluster.joined import KEPT
from cloven.runtime.cluster.member import ANSWER, PING, Hears, Member
from cloven.runtime.cluster.peers import Listener, Peer
from cloven.runtime.cluster.wire import Line
from cloven.runtime.cluster.work import NUMBERS
from cloven.runtime.link.ciphers import warm
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.session import Opened
from cloven.runtime.onnx.engine import Array

if TYPE_CHECKING:
    from types import TracebackType

    from cloven.runtime.link.identity import Identity

JOINING = 25.0
"""Seconds in which all workers must have joined: a little more than they wait for their links."""

HUNG = 1.0
"""Seconds of silence that make a worker the reason of an image that is overdue."""

GRACE = 0.3
"""Seconds after the loss of a link in which the loss of a device explains it."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The output ``(classes,)`` for an image, and the seconds from sending to answer; ``number`` is the input's."""

    number: int
    output: Array
    seconds: float


@dataclass(frozen=True)
class Manner:
    """How images are sent.

    Attributes:
        window: most images in flight.
        deadline: seconds after which an image fails.
        retry: seconds for which an image is sent again when a device or link was lost; 0 for not at all.
    """

    window: int = 8
    deadline: float = 30.0
    retry: float = 0.0


class Coordinator:
    """A run: ``async with Coordinator(...) as run`` joins the workers, and leaves them at the end.

    Attributes:
        shape: of one image, (C, H, W).
        sent: what was sent and received, by party, when the run has ended.
    """

    def __init__(self, plan: Plan, cluster: Cluster, identity: Identity | None, manner: Manner) -> None:
        self.plan, self.manner, self.identity = plan, manner, identity
        self.tls = None if cluster.insecure else identity
        self.addresses = {name: cluster.devices[name] for name in plan.devices}
        self.shape: tuple[int, int, int] = plan.model.input
        self.run = secrets.token_hex(8)
        self.flying: dict[int, asyncio.Future[Array]] = {}
        self.next = 0
        self.times: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.classes = 0
        self.changed = asyncio.Event()
        self.window = asyncio.Semaphore(manner.window)
        self.aside = ThreadPoolExecutor(1)
        hears = Hears(self._lost_worker, self._lost_link, self.changed.set, self._failed)
        self.members = {n: Member(n, address, self.tls, hears) for n, address in self.addresses.items()}
        self.peers: dict[str, Peer] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.source = self.sink = ""
        self.leaving = False
        self.ill: float | None = None

    # --- joining and leaving ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Coordinator:
        """Join the workers.

        Raises:
            ClovenError: with all that is wrong with them.
        """
        try:
            described = await self._described()
            self._connect(described)
            await self._joined()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self._close()

    async def _described(self) -> dict[str, dict[str, Any]]:
        """What the workers hold, once they all answer and belong together."""
        until = time.monotonic() + self.manner.retry
        while True:
            asked = (member.describe() for member in self.members.values())
            answers = await asyncio.gather(*asked, return_exceptions=True)
            wrong = [answer for answer in answers if isinstance(answer, BaseException)]
            for answer in wrong:
                if not isinstance(answer, PartyError):
                    raise answer
            waits = all(isinstance(answer, PartyError) and answer.again for answer in wrong)
            if not wrong or not waits or time.monotonic() > until:
                break
            await asyncio.sleep(PING)
        if wrong:
            raise ClovenError(
                [problem for answer in wrong if isinstance(answer, ClovenError) for problem in answer.problems]
            )
        found = dict(zip(self.members, (a for a in answers if isinstance(a, dict)), strict=True))
        if problems := list(self._mismatches(found)):
            raise ClovenError(problems)
        return found

    def _mismatches(self, found: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
        first, plan = next(iter(found.items()))
        for device, said in found.items():
            at = f"{device} ({self.addresses[device]})"
            if said["device"] != device:
                yield f"{at} is the worker of {said['device']}: correct the cluster file"
            elif parse(said["plan_text"], f"the plan of {at}") != self.plan:
                yield f"{at} holds a bundle of another plan ({said['model']}): write it again with `cloven bundle`"
            elif said["plan"] != plan["plan"]:
                yield f"{at} and {first} hold bundles that were not written together: copy one bundle to all"
            elif said["run"] is not None:
                yield f"{at} is busy with run {said['run']}; one coordinator at a time"

    def _connect(self, described: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin to join, and dial those that we exchange images and outputs with."""
        plan = next(iter(described.values()))
        self.classes = int(np.prod(plan["output"]))
        join = {
            "run": self.run, "plan": plan["plan"], "addresses": self.addresses, "window": self.manner.window,
            "deadline": self.manner.deadline,
        }  # fmt: skip
        listener = Listener(self._came, self._peer_changed, lambda number: number not in self.flying)
        ends = {
            device: int(said["largest"]) for device, said in described.items() if COORDINATOR in said["parties"]
        }
        for line in [self._line(device, largest) for device, largest in ends.items()]:
            self.peers[line.other] = Peer(line.other, line, listener, self.aside)
            self.peers[line.other].dial(self.addresses[line.other], self.tls)
        (self.source,) = (device for device, said in described.items() if said["source"])
        (self.sink,) = (device for device, said in described.items() if said["sink"])
        self.tasks |= {asyncio.create_task(self._keep(member, join)) for member in self.members.values()}

    def _line(self, device: str, largest: int) -> Line:
        protection = self.plan.protection.of(COORDINATOR, device)
        key = partial(wire.link_key, self.identity, device, protection)
        line = Line(self.run, COORDINATOR, device, protection, key, wire.limits(largest))
        if protection == "mtls" and self.tls is None:
            raise LinkError(
                f"the link with {device} is protected with mtls; the cluster file names no keys, or says insecure"
            )
        if line.cipher is not None:
            line.key()
            warm(line.cipher)
        return line

    async def _keep(self, member: Member, join: Mapping[str, Any]) -> None:
        """Keep a worker in the run: whenever it is lost, ask it again."""
        while not self.leaving:
            try:
                await member.take_part(join, self._oldest)
            except PartyError as error:
                member.reason, member.final = error.reason, not error.again
                self._lost_worker(member)
            await asyncio.sleep(PING)

    async def _joined(self) -> None:
        until = time.monotonic() + max(JOINING, self.manner.retry)
        while (wrong := self._troubles()) and time.monotonic() < until:
            if any(final for *_, final in wrong):
                await asyncio.sleep(GRACE)  # the other ends say why too
                wrong = [trouble for trouble in self._troubles() if trouble[2]] or wrong
                break
            await self._wait()
        if wrong:
            raise ClovenError(list(dict.fromkeys(f"{' - '.join(where)}: {why}" for where, why, _ in wrong)))

    async def _wait(self) -> None:
        """Until something has changed, or a moment has passed."""
        self.changed.clear()
        try:
            await asyncio.wait_for(self.changed.wait(), PING)
        except TimeoutError:
            return

    async def _close(self) -> None:
        self.leaving = True
        await asyncio.gather(*(peer.close() for peer in self.peers.values()))
        await asyncio.gather(*(member.leave() for member in self.members.values()))
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.aside.shutdown(wait=False)

    # --- images -----------------------------------------------------------------------------------------------

    async def submit(self, image: Array) -> Answer:
        """The answer for an image ``(C, H, W)`` in [0, 1], float32.

        Raises:
            FrameFailed: with device or link and the reason.
        """
        if image.shape != self.shape:
            raise FrameFailed(f"the image has shape {image.shape}; expected {self.shape}", device=COORDINATOR)
        data = np.ascontiguousarray(image, NUMBERS)
        async with self.window:
            until = time.monotonic() + self.manner.retry
            while True:
                await self._ready(until)
                try:
                    return await self._attempt(data)
                except FrameFailed as failed:
                    if not failed.lost or time.monotonic() >= until:
                        raise

    async def answers(self, images: Iterable[Array]) -> AsyncIterator[Answer | FrameFailed]:
        """The answers for images, in their order; the window is kept full."""
        waiting: deque[asyncio.Task[Answer]] = deque()

        async def outcome(task: asyncio.Task[Answer]) -> Answer | FrameFailed:
            try:
                return await task
            except FrameFailed as failed:
                return failed

        try:
            for image in images:
                waiting.append(asyncio.create_task(self.submit(image)))
                if len(waiting) >= 2 * self.manner.window:
                    yield await outcome(waiting.popleft())
            while waiting:
                yield await outcome(waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()

    async def _attempt(self, data: Array) -> Answer:
        number, self.next = self.next, self.next + 1
        future: asyncio.Future[Array] = asyncio.get_running_loop().create_future()
        self.flying[number] = future
        start, sent = time.perf_counter(), time.time()
        try:
            async with asyncio.timeout(self.manner.deadline):
                await self.peers[self.source].send(number, 0, [data])
                output = await future
        except TimeoutError:
            raise self._overdue(number) from None
        finally:
            del self.flying[number]
            if not future.done() or future.cancelled() or future.exception() is not None:
                future.cancel()
                for member in self.members.values():
                    member.drop(number)
        ends = {"sent": [[self.source, 0, sent]], "came": [[self.sink, 0, time.time()]]}
        self.times.append({"input": number, "seconds": [], **ends})
        return Answer(number, output, time.perf_counter() - start)

    def _came(self, party: str, opened: Opened) -> None:
        future = self.flying.get(opened.input)
        if future is None or future.done():
            return
        if opened.ordinal != 0 or opened.payload.nbytes != NUMBERS.itemsize * self.classes:
            got = f"message {opened.ordinal} of {opened.payload.nbytes} bytes"
            expected = f"message 0 of {NUMBERS.itemsize * self.classes}"
            reason = f"answered nonsense: {got}; expected {expected}"
            future.set_exception(FrameFailed(reason, link=(party, COORDINATOR)))
            return
        future.set_result(np.frombuffer(opened.payload, NUMBERS).astype(np.float32))

    def _oldest(self) -> int:
        return min(self.flying, default=self.next)

    # --- what goes wrong --------------------------------------------------------------------------------------

    def _troubles(self) -> list[tuple[tuple[str, ...], str, bool]]:
        """What is not up now: a device or link, devices first; why, and whether that is final."""
        found: list[tuple[tuple[str, ...], str, bool]] = [
            ((name,), trouble, member.final)
            for name, member in self.members.items()
            if (trouble := member.trouble) is not None
        ]
        for name, member in self.members.items():
            found += [((party, name), reason, False) for party, reason in member.down.items() if member.joined]
        return found + [((COORDINATOR, n), p.reason, p.final) for n, p in self.peers.items() if not p.up]

    async def _ready(self, until: float) -> None:
        """Wait until all is up: no longer than an image may be sent again, nor than an outage may last."""
        while troubles := self._troubles():
            now = time.monotonic()
            self.ill = now if self.ill is None else self.ill
            (where, why, _), *_ = troubles
            if now >= min(until, self.ill + self.manner.retry):
                raise _failure(where, why)
            await self._wait()
        self.ill = None

    def _fail(self, numbers: Iterable[int], failed: FrameFailed) -> None:
        for number in numbers:
            future = self.flying.get(number)
            if future is not None and not future.done():
                future.set_exception(failed)

    def _lost_worker(self, member: Member) -> None:
        self._fail(list(self.flying), _failure((member.device,), member.reason))
        self.changed.set()

    def _lost_link(self, one: str, other: str, reason: str) -> None:
        self._later(self._blame(list(self.flying), one, other, reason))

    async def _blame(self, numbers: Sequence[int], one: str, other: str, reason: str) -> None:
        """Fail images for the loss of a link, unless it is the loss of a device at one of its ends.

        Whoever only saw the end of a stream is heard after whoever knows why.
        """
        await asyncio.sleep(2 * GRACE if reason == CLOSED else GRACE)
        for party in (one, other):
            member = self.members.get(party)
            if member is not None and not member.joined:
                self._fail(numbers, _failure((party,), member.reason))
        self._fail(numbers, _failure((one, other), reason))

    def _peer_changed(self, peer: Peer) -> None:
        if not peer.up:
            self._lost_link(COORDINATOR, peer.name, peer.reason)
        self.changed.set()

    def _failed(self, device: str, said: Mapping[str, Any]) -> None:
        party, reason = said["from"], str(said["reason"])
        failed = FrameFailed(reason, link=(party, device)) if party else FrameFailed(reason, device=device)
        self._fail([int(said["input"])], failed)

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _overdue(self, number: int) -> FrameFailed:
        """Whom an image that is overdue waits for, by what the workers said last."""
        late = f"no answer within {self.manner.deadline:g} s"
        hung = [m for m in self.members.values() if m.silent > HUNG]
        if hung:
            worst = max(hung, key=lambda member: member.silent)
            return _failure((worst.device,), f"{late}; it has said nothing for {worst.silent:.1f} s")
        waits = {name: m.waiting[number] for name, m in self.members.items() if number in m.waiting}
        for device, parties in waits.items():
            for party in parties:
                if not waits.get(party):
                    return _failure((party, device), f"{late}; {device} waits for {party}")
        busy = next((name for name, parties in waits.items() if not parties), None)
        if busy is not None:
            return _failure((busy,), f"{late}; it is still computing")
        return _failure((self.sink, COORDINATOR), late)

    # --- what is known ----------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Whether images can be answered now, and the state of each device."""
        troubles = self._troubles()
        devices = [
            {"device": n, "state": "down" if m.trouble else "up", "reason": m.trouble or "", "links": dict(m.down)}
            for n, m in self.members.items()
        ]
        return {"ready": not troubles, "devices": devices, "in_flight": len(self.flying)}

    async def reports(self) -> dict[str, dict[str, Any]]:
        """What each party says of the last images; nothing from a worker that does not answer.

        See `cloven.runtime.cluster.joined.Joined.report`; ``offset`` is how far its clock is ahead of ours, in
        seconds, and ``uncertainty`` how far off that can be.
        """
        mine = {"steps": [], "images": list(self.times), "refused": {}, "offset": 0.0, "uncertainty": 0.0}
        mine["bytes"] = {name: peer.sent["bytes"] for name, peer in self.peers.items()}
        asked = {name: member.ask_report() for name, member in self.members.items() if member.joined}
        if asked:
            await asyncio.wait(asked.values(), timeout=ANSWER)
        return {COORDINATOR: mine} | {
            name: said.result() | {"offset": self.members[name].offset, "uncertainty": self.members[name].rtt / 2}
            for name, said in asked.items()
            if said.done()
        }


def _failure(where: tuple[str, ...], why: str) -> FrameFailed:
    if len(where) == 1:
        return FrameFailed(why, device=where[0], lost=True)
    return FrameFailed(why, link=(where[0], where[1]), lost=True)
