"""The bundles that a worker has loaded, ready to compute: one part for each device that it can be."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from cloven.errors import ClovenError
from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.protocol import VERSION, WorkerDescription
from cloven.runtime.cluster.worker_session import Engine

if TYPE_CHECKING:
    from cloven.runtime.bundle.format import Manifest
    from cloven.runtime.bundle.schedule import Schedule
    from cloven.runtime.cluster.loaded_tasks import LoadedTasks
    from cloven.runtime.link.identity import Identity


@dataclass(frozen=True, eq=False)
class LoadedPart:
    """The part of a device.

    Attributes:
        device: the device of the plan.
        plan: the hash of the bundle's manifest, the same on all devices.
        manifest: the bundle's manifest.
        schedule: what the part does for an image; its parties are workers.
        engine: runs a segment.
        names: the worker that takes the place of a device, for each device that has another name than its worker.
    """

    device: str
    plan: str
    manifest: Manifest
    schedule: Schedule
    engine: Engine
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def worker(self) -> str:
        """Return the name of the worker that runs this part."""
        return self.names.get(self.device, self.device)

    def replaced(self, names: Mapping[str, str]) -> LoadedPart:
        """Return the part in a run in which other workers take the places of some devices.

        Raises:
            ClovenError: if a name is not a device of the plan, or a worker would take two places.
        """
        devices = [device.name for device in self.manifest.devices]
        workers = [names.get(device, device) for device in devices]
        problems = [f"{name} is not a device of the plan" for name in names.keys() - set(devices)]
        problems += [f"{name} takes two places" for name in sorted(set(workers)) if workers.count(name) > 1]
        if problems:
            raise ClovenError(problems)
        return replace(self, names=names, schedule=self.schedule.renamed(names))

    def link(self, run: str, party: str, identity: Identity | None) -> LinkSpec:
        """Return the link with a party; its dialer is the coordinator, or the device that is first in the plan."""
        parties = {self.names.get(name, name): name for name in (COORDINATOR, *self._devices)}
        dialer, other = sorted((self.worker, party), key=list(parties).index)
        protection = self.manifest.protection.of(parties[dialer], parties[other])
        key = partial(frame_stream.link_key, identity, party, protection)
        return LinkSpec(run, dialer, other, protection, key, frame_stream.limits(self.schedule.largest))

    def links(self, run: str, identity: Identity | None) -> dict[str, LinkSpec]:
        """Return the link with each party."""
        return {party: self.link(run, party, identity) for party in sorted(self.schedule.parties)}

    def description(self, run: str | None) -> WorkerDescription:
        """Return the description that the worker sends; ``run`` is the run that it takes part in, if any."""
        m = self.manifest
        return WorkerDescription(
            cloven=VERSION,
            device=self.device,
            plan=self.plan,
            plan_text=m.plan if isinstance(m.plan, str) else json.dumps(m.plan),
            model=m.model,
            devices=self._devices,
            image=list(m.image),
            output=list(m.output),
            largest=self.schedule.largest,
            parties=sorted(self.schedule.parties),
            source=(COORDINATOR, 0) in self.schedule.incoming,
            sink=any(out.message == (COORDINATOR, 0) for out in self.schedule.outgoing),
            process=os.getpid(),
            run=run,
        )

    @property
    def _devices(self) -> list[str]:
        return [device.name for device in self.manifest.devices]


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """The parts of one bundle that a worker has loaded, by device. ``plan`` is the hash of its manifest.

    A worker that is a device of the plan loads that device's part. One that can take the place of any device loads
    all parts, and has their ``tasks`` too.
    """

    plan: str
    manifest: Manifest
    parts: Mapping[str, LoadedPart]
    tasks: LoadedTasks | None = None

    def part(self, device: str) -> LoadedPart:
        """Return the part of a device.

        Raises:
            ClovenError: if it is not loaded.
        """
        if device not in self.parts:
            raise ClovenError(f"the part of {device} is not loaded; loaded: {', '.join(self.parts)}")
        return self.parts[device]

    @property
    def largest(self) -> int:
        """Return the bytes of the largest message of all parts and tasks."""
        tasks = 0 if self.tasks is None else self.tasks.graph.largest()
        return max(tasks, *(part.schedule.largest for part in self.parts.values()))
