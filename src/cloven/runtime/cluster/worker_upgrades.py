"""The upgrades of a running worker: it receives a bundle beside its current one, and changes to it when asked."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from cloven.errors import ClovenError
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster.channels import MessageStream
from cloven.runtime.cluster.errors import PartyError
from cloven.runtime.cluster.loaded_part import LoadedBundle
from cloven.runtime.cluster.protocol import VERSION, ActivateReply, UpgradeOffer, UpgradeReply
from cloven.runtime.cluster.upgrade_folder import IncomingBundle, UpgradeFolder, folders_of
from cloven.runtime.link.errors import LinkError

log = logging.getLogger("cloven.worker")

PATIENCE = 30.0
"""Seconds within which the next chunk of a bundle must arrive."""

LARGEST_MESSAGE = 2**26
"""The largest message in bytes that a bundle may have which is received while the worker runs."""

Load = Callable[[Path], LoadedBundle]
Made = TypeVar("Made")


class WorkerUpgrades:
    """The bundles of a worker that accepts upgrades: the current one, the previous one, and one that is ready.

    Attributes:
        folder: where they are kept.
        device: the device whose part is received; None for all parts.
        bundles: the loaded bundles by hash, which the worker's runs use; shared with `WorkerServicer`.
        previous: the hash of the bundle that the last upgrade replaced.
        ready: the hash of a bundle that was received and is not used yet.
        receiving: whether a bundle is being received.
    """

    def __init__(
        self, folder: UpgradeFolder, device: str | None, load: Load, previous: LoadedBundle | None
    ) -> None:
        self.folder, self.device, self._load = folder, device, load
        self.bundles: dict[str, LoadedBundle] = {}
        if previous is not None:
            self.bundles[previous.plan] = previous
        self.previous = previous.plan if previous is not None else None
        self.ready: str | None = None
        self.receiving = False
        self._thread = ThreadPoolExecutor(1)

    async def receive(self, stream: MessageStream, offer: UpgradeOffer) -> None:
        """Receive a bundle and load it; images are computed meanwhile.

        Raises:
            ClovenError: if the bundle is refused, or does not arrive; nothing is left of it then.
        """
        if offer.plan in self.bundles:
            await stream.write(UpgradeReply(cloven=VERSION, ready=True).encode())
            return
        if self.receiving:
            raise LinkError("is receiving another bundle; try again later")
        self.receiving = True
        try:
            await stream.write(UpgradeReply(cloven=VERSION, manifest=True).encode())
            manifest = b""
            while len(manifest) < offer.bytes:
                manifest += await self._chunk(stream, offer.bytes - len(manifest))
            made: list[IncomingBundle] = []  # also if we are cancelled while it is made
            try:
                await self._aside(
                    lambda: made.append(IncomingBundle(self.folder, offer.plan, manifest, self.device))
                )
                await self._take(stream, made[0])
            finally:
                for incoming in made:
                    await self._aside(incoming.discard)
        finally:
            self.receiving = False

    async def _take(self, stream: MessageStream, incoming: IncomingBundle) -> None:
        if not folders_of(incoming.manifest, self.device):
            await stream.write(UpgradeReply(cloven=VERSION, needless=True).encode())
            return
        await stream.write(UpgradeReply(cloven=VERSION, folders=incoming.folders).encode())
        while not incoming.complete:
            chunk = await self._chunk(stream)
            await self._aside(partial(incoming.add, chunk))
        place = await self._aside(incoming.finish)
        try:
            bundle = await self._aside(lambda: self._load(place))
            if bundle.plan != incoming.plan:
                raise LinkError("the bundle changed while it was loaded; send it again")
            self.bundles[bundle.plan] = bundle
            self.ready = bundle.plan
            await stream.write(UpgradeReply(cloven=VERSION, ready=True).encode())
        except BaseException:
            self.bundles.pop(incoming.plan, None)
            self.ready = None
            await self._aside(lambda: shutil.rmtree(place, ignore_errors=True))
            raise
        log.info("received", extra={"plan": bundle.plan[:12], "model": bundle.manifest.model})

    async def _chunk(self, stream: MessageStream, most: int | None = None) -> bytes:
        """Return the next chunk.

        Raises:
            PartyError: if the coordinator sends nothing, or has left.
            LinkError: if it is too long.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                chunk = await stream.read()
        except TimeoutError:
            raise PartyError(COORDINATOR, f"sent nothing of the bundle for {PATIENCE:g} s") from None
        if chunk is None:
            raise PartyError(COORDINATOR, "left before it had sent the bundle")
        if not chunk or (most is not None and len(chunk) > most):
            raise LinkError(f"got a chunk of {len(chunk)} bytes of the manifest; expected 1 to {most}")
        return chunk

    async def _aside(self, work: Callable[[], Made]) -> Made:
        """Run work in the thread for upgrades, to its end even if the coordinator disconnects."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with suppress(ClovenError):
                await future
            raise

    def activate(self, plan: str, current: LoadedBundle) -> LoadedBundle:
        """Record that a loaded bundle is used from now on, and return it.

        Raises:
            ClovenError: if it is not loaded, or this cannot be written; nothing has changed then.
        """
        if (bundle := self.bundles.get(plan)) is None:
            raise LinkError(f"has not loaded the bundle {plan[:12]}; send it with `cloven upgrade`")
        self.ready = None
        if plan != current.plan:
            self.folder.activate(plan, current.plan)
            self.previous = current.plan
            log.info("upgraded", extra={"plan": plan[:12], "previous": current.plan[:12]})
        return bundle

    def prune(self, current: str, used: Collection[str]) -> None:
        """Drop the bundles that are neither current, previous, ready nor used by a run, with their files."""
        kept = {current, self.previous, self.ready, *used}
        for plan in [plan for plan in self.bundles if plan not in kept]:
            del self.bundles[plan]
            self._thread.submit(shutil.rmtree, self.folder.place(plan), ignore_errors=True)

    def state(self, current: str) -> ActivateReply:
        """Return the hashes of the current and the previous bundle."""
        return ActivateReply(cloven=VERSION, current=current, previous=self.previous)
