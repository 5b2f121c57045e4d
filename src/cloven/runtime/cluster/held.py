"""What a worker has loaded of a bundle: its part, ready to compute."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cloven.partition.protection import COORDINATOR
from cloven.runtime.cluster import wire
from cloven.runtime.cluster.joined import Engine
from cloven.runtime.cluster.messages import VERSION
from cloven.runtime.cluster.wire import Line

if TYPE_CHECKING:
    from cloven.runtime.bundle.format import Manifest
    from cloven.runtime.bundle.schedule import Schedule
    from cloven.runtime.link.identity import Identity


@dataclass(frozen=True, eq=False)
class Held:
    """What a worker has loaded. ``plan`` is the hash of the bundle's manifest: the same for the whole plan."""

    device: str
    plan: str
    manifest: Manifest
    schedule: Schedule
    engine: Engine

    def line(self, run: str, party: str, identity: Identity | None) -> Line:
        """The link with a party in a run; whoever comes first in the plan dials, the coordinator before all."""
        order = [COORDINATOR, *(device.name for device in self.manifest.devices)]
        dialer, other = sorted((self.device, party), key=order.index)
        protection = self.manifest.protection.of(dialer, other)
        key = partial(wire.link_key, identity, party, protection)
        return Line(run, dialer, other, protection, key, wire.limits(self.schedule.largest))

    def described(self) -> dict[str, Any]:
        """What the worker announces."""
        m = self.manifest
        return {
            "cloven": VERSION,
            "device": self.device,
            "plan": self.plan,
            "plan_text": m.plan if isinstance(m.plan, str) else json.dumps(m.plan),
            "model": m.model,
            "devices": [device.name for device in m.devices],
            "image": list(m.image),
            "output": list(m.output),
            "largest": self.schedule.largest,
            "parties": sorted(self.schedule.parties),
            "source": (COORDINATOR, 0) in self.schedule.incoming,
            "sink": any(out.message == (COORDINATOR, 0) for out in self.schedule.outgoing),
            "process": os.getpid(),
        }
