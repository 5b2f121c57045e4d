"""The workers of a run: asked what they hold, joined, watched, and left."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from cloven.errors import ClovenError
from cloven.partition.plan import Plan, check
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import wire
from cloven.runtime.cluster.channels import CLOSED
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.member import PING, SILENT, Flight, Hears, Member
from cloven.runtime.cluster.messages import Description, Failed
from cloven.runtime.cluster.peers import Listener, Peer
from cloven.runtime.cluster.wire import Line
from cloven.runtime.link.ciphers import warm
from cloven.runtime.link.errors import LinkError
from cloven.runtime.link.session import Opened

if TYPE_CHECKING:
    from cloven.runtime.cluster.file import Cluster
    from cloven.runtime.link.identity import Identity

JOINING = 25.0
"""Seconds in which all workers must have joined: a little more than they wait for their links."""

GRACE = 0.3
"""Seconds after the loss of a link in which the loss of a device explains it."""

Described = Mapping[str, Description]
"""What each worker announces."""


@dataclass(frozen=True)
class Trouble:
    """A device or link that is not up: which, why, and whether that is for good."""

    where: tuple[str, ...]
    why: str
    final: bool = False

    def __str__(self) -> str:
        return f"{' - '.join(self.where)}: {self.why}"


class Images(Protocol):
    """What a crew works for: knows what is in flight, and hears what comes of it."""

    def flight(self) -> Flight:
        """What is in flight now."""
        ...

    def came(self, party: str, opened: Opened) -> None:
        """Something has come from a device."""
        ...

    def failed(self, device: str, said: Failed) -> None:
        """A device has given an image up."""
        ...

    def lost(self, numbers: Sequence[int], trouble: Trouble) -> None:
        """These images, where they are still in flight, are lost by a trouble."""
        ...


class Crew:
    """The workers of a plan, and our links to those that we exchange images and outputs with.

    Attributes:
        addresses: of the devices, as they are told to each other.
        source, sink: who takes the images, and who sends the outputs.
        numbers: how many numbers an output has.
    """

    def __init__(self, plan: Plan, cluster: Cluster, identity: Identity | None, images: Images) -> None:
        self.plan, self.identity, self.images = plan, identity, images
        self.tls = None if cluster.insecure else identity
        self.addresses = {name: cluster.devices[name] for name in plan.devices}
        self.run = secrets.token_hex(8)
        self.changed = asyncio.Event()
        self.aside = ThreadPoolExecutor(1)
        hears = Hears(self._lost_link, self.changed.set, images.failed)
        self.members = {name: Member(name, self.addresses, self.tls, hears) for name in self.addresses}
        self.peers: dict[str, Peer] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.source, self.sink, self.numbers = "", "", 0
        self.leaving = False

    # --- joining and leaving ----------------------------------------------------------------------------------

    async def join(self, window: int, deadline: float, patience: float) -> None:
        """Join the workers; where some are not there yet, wait for ``patience`` seconds.

        Raises:
            ClovenError: with all that is wrong with them.
        """
        described = await self._described(time.monotonic() + patience)
        if problems := list(self._mismatches(described)):
            raise ClovenError(problems)
        plan = next(iter(described.values()))
        (self.source,) = (device for device, said in described.items() if said.source)
        (self.sink,) = (device for device, said in described.items() if said.sink)
        self.numbers = prod(plan.output)
        terms = {"addresses": self.addresses, "window": window, "deadline": deadline}
        self._dial(described)
        for member in self.members.values():
            self._begin(self._keep(member, {"run": self.run, "plan": plan.plan, **terms}))
        await self._joined(patience)

    async def _described(self, until: float) -> Described:
        """What the workers hold, once they all answer."""
        while True:
            asked = (member.describe() for member in self.members.values())
            answers = await asyncio.gather(*asked, return_exceptions=True)
            wrong = [answer for answer in answers if isinstance(answer, BaseException)]
            for answer in wrong:
                if not isinstance(answer, ClovenError):
                    raise answer
            if not wrong:
                named = zip(self.members, answers, strict=True)
                return {name: said for name, said in named if isinstance(said, Description)}
            if (
                not all(isinstance(answer, PartyError) and answer.again for answer in wrong)
                or until < time.monotonic()
            ):
                raise ClovenError([str(answer) for answer in wrong])
            await asyncio.sleep(PING)

    def _mismatches(self, described: Described) -> Iterator[str]:
        first, plan = next(iter(described.items()))
        for device, said in described.items():
            at = f"{device} ({self.addresses[device]})"
            if said.device != device:
                yield f"{at} is the worker of {said.device}: correct the cluster file"
            elif check(said.plan_text)[0] != self.plan:
                yield f"{at} holds a bundle of another plan ({said.model}): write it again with `cloven bundle`"
            elif said.plan != plan.plan or said.output != plan.output:
                yield f"{at} and {first} hold bundles that were not written together: copy one bundle to all"
            elif said.run is not None:
                yield f"{at} is busy with run {said.run}; one coordinator at a time"
        for end, marked in (
            ("takes the images", [name for name, said in described.items() if said.source]),
            ("sends the outputs", [name for name, said in described.items() if said.sink]),
        ):
            if len(marked) != 1:
                yield f"{', '.join(marked) or 'no worker'} {end}, expected one worker: write the bundle again"

    def _dial(self, described: Described) -> None:
        """Connect to those that we exchange images and outputs with, if all keys are there."""
        listener = Listener(self.images.came, self._peer_changed, lambda n: n not in self.images.flight().numbers)
        ours = {device: said.largest for device, said in described.items() if COORDINATOR in said.parties}
        lines: list[Line] = []
        problems: list[str] = []
        for device, largest in ours.items():
            try:
                lines.append(self._line(device, largest))
            except ClovenError as error:
                problems += error.problems
        if problems:
            raise ClovenError(problems)
        for line in lines:
            self.peers[line.other] = Peer(line.other, line, listener, self.aside)
            self.peers[line.other].dial(self.addresses[line.other], self.tls)

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
                await member.take_part(join, self.images.flight)
            except PartyError as error:
                for other in self.members.values() if member.joined else ():
                    other.part(member.device)
                member.joined, member.reason, member.final = False, error.reason, not error.again
                self._lost_worker(member)
            await asyncio.sleep(PING)

    async def _joined(self, patience: float) -> None:
        until = time.monotonic() + max(JOINING, patience)
        while (wrong := self.troubles()) and time.monotonic() < until:
            for_good = [trouble for trouble in wrong if trouble.final]
            if for_good and not patience:
                await asyncio.sleep(GRACE)  # others may say why too
                wrong = [*for_good, *(trouble for trouble in self.troubles() if trouble.final)]
                break
            await self.wait()
        if wrong:
            raise ClovenError(list(dict.fromkeys(map(str, wrong))))

    async def close(self) -> None:
        """Leave the workers, so that they are free for another run."""
        self.leaving = True
        await asyncio.gather(*(peer.close() for peer in self.peers.values()))
        await asyncio.gather(*(member.leave() for member in self.members.values()))
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.aside.shutdown(wait=False)

    # --- what goes wrong --------------------------------------------------------------------------------------

    def troubles(self, silence: float = SILENT) -> list[Trouble]:
        """What is not up now: devices first, then links, those first whose reason is known."""
        members = self.members.items()
        found = [Trouble((n,), why, m.final) for n, m in members if (why := m.trouble(silence)) is not None]
        down = [(n, party, why) for n, m in members if m.joined for party, why in m.down.items()]
        down.sort(key=lambda one: one[2] == CLOSED)
        found += [Trouble(self._link(one, other), why) for one, other, why in down]
        return found + [Trouble((COORDINATOR, n), p.reason, p.final) for n, p in self.peers.items() if not p.up]

    async def wait(self) -> None:
        """Until something has changed, or a moment has passed."""
        self.changed.clear()
        try:
            await asyncio.wait_for(self.changed.wait(), PING)
        except TimeoutError:
            return

    def _lost_worker(self, member: Member) -> None:
        self.images.lost(self.images.flight().numbers, Trouble((member.device,), member.reason))
        self.changed.set()

    def _peer_changed(self, peer: Peer) -> None:
        if not peer.up:
            self._lost_link(COORDINATOR, peer.name, peer.reason)
        self.changed.set()

    def _lost_link(self, one: str, other: str, reason: str) -> None:
        self._begin(self._blame(self.images.flight().numbers, Trouble(self._link(one, other), reason)))

    async def _blame(self, numbers: Sequence[int], trouble: Trouble) -> None:
        """Images are lost by the loss of a link, unless it is the loss of a device at one of its ends.

        Whoever only saw the end of a stream is heard after whoever knows why.
        """
        await asyncio.sleep(2 * GRACE if trouble.why == CLOSED else GRACE)
        ends = [self.members[party] for party in trouble.where if party in self.members]
        gone = next((member for member in ends if not member.joined), None)
        self.images.lost(numbers, trouble if gone is None else Trouble((gone.device,), gone.reason))

    def _link(self, one: str, other: str) -> tuple[str, str]:
        """A link's name, whichever end speaks of it: in the plan's order, the coordinator before all."""
        first, second = sorted((one, other), key=(COORDINATOR, *self.members).index)
        return first, second

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
