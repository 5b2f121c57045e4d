"""The part of a bundle that a worker has loaded, ready to compute."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import frame_stream
from cloven.runtime.cluster.frame_stream import LinkSpec
from cloven.runtime.cluster.protocol import VERSION, WorkerDescription
from cloven.runtime.cluster.worker_session import Engine

if TYPE_CHECKING:
    from cloven.runtime.bundle.format import Manifest
    from cloven.runtime.bundle.schedule import Schedule
    from cloven.runtime.link.identity import Identity


@dataclass(frozen=True, eq=False)
class LoadedPart:
    """The part of a device. ``plan`` is the hash of the bundle's manifest, the same on all devices."""

    device: str
    plan: str
    manifest: Manifest
    schedule: Schedule
    engine: Engine

    def link(self, run: str, party: str, identity: Identity | None) -> LinkSpec:
        """Return the link with a party; its dialer is the coordinator, or the device that is first in the plan."""
        order = [COORDINATOR, *(device.name for device in self.manifest.devices)]
        dialer, other = sorted((self.device, party), key=order.index)
        protection = self.manifest.protection.of(dialer, other)
        key = partial(frame_stream.link_key, identity, party, protection)
        return LinkSpec(run, dialer, other, protection, key, frame_stream.limits(self.schedule.largest))

    def description(self, run: str | None) -> WorkerDescription:
        """Return the description that the worker sends; ``run`` is the run that it takes part in, if any."""
        m = self.manifest
        return WorkerDescription(
            cloven=VERSION,
            device=self.device,
            plan=self.plan,
            plan_text=m.plan if isinstance(m.plan, str) else json.dumps(m.plan),
            model=m.model,
            devices=[device.name for device in m.devices],
            image=list(m.image),
            output=list(m.output),
            largest=self.schedule.largest,
            parties=sorted(self.schedule.parties),
            source=(COORDINATOR, 0) in self.schedule.incoming,
            sink=any(out.message == (COORDINATOR, 0) for out in self.schedule.outgoing),
            process=os.getpid(),
            run=run,
        )
