"""A laboratory with the links and the devices of a cluster, in which plans are executed one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cloven.cost.cluster import Cluster
from cloven.cost.operators import OperatorTimes
from cloven.cost.profile import ComputeCost
from cloven.cost.tasks import SegmentRun, Workload
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.plan import ModelSpec, Plan
from cloven.partition.program import Program
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical
from cloven.runtime import device_profile
from cloven.runtime.bundle.writer import write
from cloven.runtime.lab import host, laboratory
from cloven.runtime.lab.emulation import Emulation
from cloven.runtime.lab.laboratory import Experiment

IMAGES = 11
"""The number of images that a plan runs, one at a time."""

RUNS = 5
"""The number of runs with which this machine is compared with the devices."""

DEADLINE = 600.0
"""Seconds after which an image fails."""


@dataclass(frozen=True, eq=False)
class EmulatedCluster:
    """A laboratory on this machine with the links of a cluster, and devices that compute as fast as its profiles.

    Attributes:
        cluster: the cluster.
        model: the model of the plans, which name none.
        ratios: the time of the model on this machine, divided by that on each device by its profile. A device with
            a ratio above 1 is faster than this machine, and computes as fast as it.
    """

    cluster: Cluster
    model: ModelSpec
    ratios: Mapping[str, float]

    @classmethod
    def of(cls, graph: Graph, model: ModelSpec, cluster: Cluster) -> EmulatedCluster:
        """Measure a model on this machine, and return a laboratory for its plans."""
        program = divide(graph, Vertical(), 1)
        with TemporaryDirectory() as folder:
            bundle = write(program, Path(folder) / "bundle", model=model.name, plan="")
            parts = [(part, bundle.place(device)) for device, part in bundle.parts.items()]
            here = _seconds(program, device_profile.computing(parts, RUNS))
        profiles = {name: device.profile for name, device in cluster.devices.items() if name != COORDINATOR}
        times = {name: _seconds(program, one.compute) for name, one in profiles.items() if one is not None}
        return cls(cluster, model, {name: here / there for name, there in times.items() if there})

    def latency(self, plan: Plan, program: Program) -> float:
        """Execute a plan, and return the median seconds of one image.

        Raises:
            ClovenError: if the laboratory cannot be set up, or an image fails.
        """
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *program.graph.input.shape), dtype=np.uint8)
        with TemporaryDirectory() as folder:
            experiment = Experiment(
                plan=plan.model_copy(update={"model": self.model}),
                program=program,
                pixels=pixels,
                auxiliary=0,
                folder=Path(folder) / "laboratory",
                window=1,
                deadline=DEADLINE,
                cluster=self.cluster,
                speeds={name: min(1.0, self.ratios.get(name, 1.0)) for name in plan.devices},
            )
            summary = laboratory.run(experiment).summary
        if summary.failed:
            raise ClovenError(
                [f"{plan.title()}: {reason}" for reason in dict.fromkeys(one.reason for one in summary.failed)]
            )
        return summary.latency.median_ms / 1000

    def left_out(self, devices: Sequence[str]) -> Iterator[str]:
        """Yield what is not as on the devices, a sentence each."""
        yield (
            "the laboratory slows only computations to the speed of the profiles; messages and ciphers are as fast "
            "as on this machine"
        )
        yield from Emulation(cluster=self.cluster).left_out(list(combinations((COORDINATOR, *devices), 2)))
        for name in devices:
            if self.ratios.get(name, 0.0) > 1:
                yield f"{name} is slower in the laboratory than by its profile: as fast as this machine"


def unmet(cluster: Cluster) -> list[str]:
    """Return why plans cannot be executed in a laboratory with the links of a cluster."""
    links = (link.profile.transmission for link in (*cluster.links.values(), cluster.default) if link.profile)
    try:
        host.check(rate=True, relay=any(link.delay or link.loss for link in links))
    except ClovenError as error:
        return list(error.problems)
    return []


def _seconds(program: Program, cost: ComputeCost) -> float:
    """Return the seconds of a program's segments for one image on one device."""
    times = OperatorTimes(cost)
    runs = [task for task in Workload.of(program).tasks if isinstance(task, SegmentRun)]
    return sum(cost.segment + times.total(run.works) for run in runs)
