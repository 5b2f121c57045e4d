"""Send a new bundle to running workers and let all of them use it, or let them go back to the one before.

There are two phases. First every worker receives the bundle and loads it, while it computes images with its current
one. Only if all are ready does each use it for new runs; if one does not, the others are set back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import grpc.aio

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.files import read_bytes
from cloven.progress import Progress, no_progress
from cloven.runtime.bundle.format import MANIFEST
from cloven.runtime.bundle.reader import read as read_bundle
from cloven.runtime.cluster.channels import ACTIVATE, ROOM, UPGRADE, MessageStream, channel
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.protocol import (
    MANIFEST_BYTES,
    VERSION,
    ActivateReply,
    ActivateRequest,
    UpgradeOffer,
    UpgradeReply,
    read,
)
from cloven.runtime.cluster.upgrade_folder import chunks, files_in
from cloven.runtime.cluster.worker_client import ask
from cloven.runtime.link.errors import LinkError

if TYPE_CHECKING:
    from cloven.cost.cluster import Cluster
    from cloven.runtime.bundle.reader import Bundle
    from cloven.runtime.link.identity import Identity

CHUNK = 2**17
"""The size in bytes of a chunk of a file."""

ANSWER, LOADING = 10.0, 600.0
"""The timeouts in seconds of a request to use a bundle, and of loading one."""

Found = TypeVar("Found")
Outcome = Literal["upgraded", "unchanged", "no part", "failed"]


class UpgradedWorker(Document):
    """The outcome on a worker: the hash of the bundle that it uses now, if known, and the reason of a failure."""

    worker: str
    outcome: Outcome
    plan: str | None
    reason: str


class UpgradeSummary(Document):
    """The outcome of an upgrade: the hash of the bundle, whether all workers use it now, and each worker."""

    version: Literal[1] = 1
    plan: str | None
    done: bool
    workers: tuple[UpgradedWorker, ...]


class ClusterUpgrade:
    """An upgrade of the workers of a cluster.

    Attributes:
        addresses: the workers that have an address.
        tls: our keys, if the workers use mutual TLS.
    """

    def __init__(self, cluster: Cluster, identity: Identity | None, progress: Progress = no_progress) -> None:
        self.addresses = {name: device.address for name, device in cluster.devices.items() if device.address}
        self.tls = None if cluster.insecure else identity
        self.progress = progress
        self._sent, self._size = 0, 0

    async def upgrade(self, folder: Path) -> UpgradeSummary:
        """Send a bundle to all workers; if all are ready, let them use it, and otherwise change nothing.

        Raises:
            ClovenError: if the folder is not a bundle.
        """
        bundle = read_bundle(folder)
        manifest = read_bytes(folder / MANIFEST, MANIFEST_BYTES)
        plan = hashlib.sha256(manifest).hexdigest()
        before, why = await self._each({name: self._state(name) for name in self.addresses})
        if why:
            return self._unchanged(plan, before, why)
        self._size = 0
        ready, why = await self._each({name: self._send(name, bundle, manifest, plan) for name in self.addresses})
        if why or not any(ready.values()):
            await self._each({name: self._activate(name, before[name].current) for name in ready})
            return self._unchanged(plan, before, why or dict.fromkeys(before, "has no part in the plan"))
        return await self._switch(plan, [name for name, part in ready.items() if part], before)

    async def roll_back(self) -> UpgradeSummary:
        """Let all workers use the bundle that they used before the last upgrade."""
        before, why = await self._each({name: self._state(name) for name in self.addresses})
        if why:
            return self._unchanged(None, before, why)
        known = [{state.current, state.previous} - {None} for state in before.values()]
        current = {state.current for state in before.values()}
        common = set.intersection(*known) - (current if len(current) == 1 else set())
        if len(common) != 1:
            reason = (
                "the workers use different bundles, and each has both"
                if common
                else "the workers have no common earlier bundle"
            )
            reason += "; send the bundle that all shall use with `cloven upgrade`"
            return self._unchanged(None, before, dict.fromkeys(before, reason))
        plan = str(common.pop())
        return await self._switch(plan, [name for name in before if before[name].current != plan], before)

    async def _switch(self, plan: str, names: list[str], before: Mapping[str, ActivateReply]) -> UpgradeSummary:
        """Let workers use a bundle that they have loaded; if one fails, set the others back."""
        now, why = await self._each({name: self._activate(name, plan) for name in names})
        if not why:
            workers = [
                UpgradedWorker(
                    worker=name,
                    outcome="unchanged" if state.current == plan else "upgraded" if name in now else "no part",
                    plan=now[name].current if name in now else state.current,
                    reason="",
                )
                for name, state in before.items()
            ]
            return UpgradeSummary(plan=plan, done=True, workers=tuple(workers))
        back, stuck = await self._each({name: self._activate(name, before[name].current) for name in names})
        found = {name: before[name] for name in before if name not in names} | back
        why |= {
            name: f"{why.get(name, 'it changed to the new bundle')}; it could not be set back: {reason}"
            for name, reason in stuck.items()
        }
        return self._unchanged(plan, found, why)

    def _unchanged(
        self, plan: str | None, states: Mapping[str, ActivateReply], why: Mapping[str, str]
    ) -> UpgradeSummary:
        workers = [
            UpgradedWorker(
                worker=name,
                outcome="failed" if name in why else "unchanged",
                plan=states[name].current if name in states else None,
                reason=why.get(name, ""),
            )
            for name in self.addresses
        ]
        return UpgradeSummary(plan=plan, done=False, workers=tuple(workers))

    async def _each(self, work: Mapping[str, Awaitable[Found]]) -> tuple[dict[str, Found], dict[str, str]]:
        """Return the results of work on each worker, and the reasons of those that failed."""
        answers = await asyncio.gather(*work.values(), return_exceptions=True)
        found: dict[str, Found] = {}
        why: dict[str, str] = {}
        for name, answer in zip(work, answers, strict=True):
            if isinstance(answer, PartyError):
                why[name] = answer.reason
            elif isinstance(answer, ClovenError):
                why[name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[name] = answer
        return found, why

    async def _state(self, name: str) -> ActivateReply:
        """Return which bundles a worker uses and used before."""
        return await self._activate(name, None)

    async def _activate(self, name: str, plan: str | None) -> ActivateReply:
        """Let a worker use a bundle that it has loaded.

        Raises:
            PartyError: if it refuses, or does not answer.
            LinkError: if its answer is malformed.
        """
        request = ActivateRequest(cloven=VERSION, plan=plan)
        answer = await ask(name, self.addresses[name], self.tls, ACTIVATE, request.encode(), ANSWER)
        reply = read(ActivateReply, answer, name)
        if reply.refused is not None or reply.current is None:
            raise PartyError(name, reply.refused or "did not say which bundle it uses")
        if plan not in (None, reply.current):
            raise LinkError(f"{name} uses the bundle {reply.current[:12]}; expected {str(plan)[:12]}")
        return reply

    async def _send(self, name: str, bundle: Bundle, manifest: bytes, plan: str) -> bool:
        """Send a bundle to a worker, until it has loaded it; return whether it has a part in the plan.

        Raises:
            PartyError: if it refuses, or is lost.
            LinkError: if its answer is malformed.
        """
        address = self.addresses[name]
        async with channel(name, address, self.tls, ROOM) as to:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = to.stream_stream(UPGRADE)()
            stream = MessageStream(name, call, address)
            try:
                await stream.write(UpgradeOffer(cloven=VERSION, plan=plan, bytes=len(manifest)).encode())
                reply = await self._reply(stream, ANSWER)
                if reply.manifest:
                    for start in range(0, len(manifest), CHUNK):
                        await stream.write(manifest[start : start + CHUNK])
                    reply = await self._reply(stream, LOADING)
                if reply.folders is not None:
                    await self._send_files(stream, bundle, reply.folders)
                    reply = await self._reply(stream, LOADING)
                await self._end(stream)
            finally:
                stream.cancel()
        if not reply.ready and not reply.needless:
            raise LinkError(f"{name} did not say whether it has loaded the bundle")
        return reply.ready

    async def _send_files(self, stream: MessageStream, bundle: Bundle, folders: list[str]) -> None:
        files = files_in(bundle.manifest, folders)
        self._size += sum(file.bytes for _, file in files)
        for file, _ in files:
            for chunk in chunks(bundle.folder / file, CHUNK):
                try:
                    await stream.write(chunk)
                except PartyError:
                    await self._reply(stream, ANSWER)  # it may have refused the bundle, with a reason
                    raise
                self._sent += len(chunk)
                self.progress("sending bytes", self._sent, self._size)

    async def _end(self, stream: MessageStream) -> None:
        """Wait until the worker has ended the stream: one that is cancelled before drops the bundle."""
        with suppress(PartyError, TimeoutError):
            async with asyncio.timeout(ANSWER):
                await stream.read()

    async def _reply(self, stream: MessageStream, seconds: float) -> UpgradeReply:
        try:
            async with asyncio.timeout(seconds):
                message = await stream.read()
        except TimeoutError:
            raise PartyError(stream.party, f"gave no answer within {seconds:g} s") from None
        if message is None:
            raise PartyError(stream.party, "closed the connection")
        reply = read(UpgradeReply, message, stream.party)
        if reply.refused is not None:
            raise PartyError(stream.party, reply.refused)
        return reply
