"""The models and clusters of `benchmarks/cost.py`, and the plans that are executed for each pair of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from cloven.advising.alternatives import Pricing
from cloven.advising.baselines import baselines
from cloven.advising.candidates import Candidate, space
from cloven.cost.cluster import Cluster, ClusterDevice, ClusterLink
from cloven.cost.profile import ComputeCost, DeviceProfile, LinkProfile, scaled
from cloven.documents import Document
from cloven.graph.graph import Graph
from cloven.partition.horizontal import AXES, Horizontal
from cloven.partition.plan import Entry, ModelSpec, Plan
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.zoo.named import make, usual

LONGEST = 1.5
"""Plans with a longer estimated latency, in seconds, are not executed."""

CANDIDATES = 400
"""The most candidates that are compared; of more, the search thins the cuts."""

BASELINES = 3
"""The number of baselines that are executed: those with the shortest estimated latency."""


@dataclass(frozen=True)
class Model:
    """A model with random weights, for square images."""

    name: str
    pixels: int

    @property
    def spec(self) -> ModelSpec:
        """The model as a plan names it."""
        known = usual(self.name)
        return ModelSpec(name=self.name, input=(known.shape[0], self.pixels, self.pixels), classes=known.classes)


@lru_cache(1)
def captured(model: Model) -> Graph:
    """Return the graph of a model."""
    torch.manual_seed(0)
    spec = model.spec
    return capture(make(model.name, shape=spec.input, classes=spec.classes), torch.zeros(1, *spec.input))


@dataclass(frozen=True)
class Surroundings:
    """The speed of each device, as a share of this machine's, and the bits per second and delay of every link."""

    speeds: tuple[float, ...]
    bandwidth: int | None
    delay: float

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices."""
        return tuple(f"edge{i}" for i in range(len(self.speeds)))

    def cluster(self, device: DeviceProfile, link: LinkProfile, hot: ComputeCost) -> Cluster:
        """Return the cluster, given the profiles of this machine and of a link.

        A slow device takes the times of operators that run one right after the other (``hot``) divided by its
        speed.
        """
        slow = device.model_copy(update={"compute": hot})
        named = zip(self.devices, self.speeds, strict=True)
        entries = {name: ClusterDevice(device if speed == 1 else scaled(slow, speed)) for name, speed in named}
        return Cluster({COORDINATOR: ClusterDevice(device), **entries}, default=ClusterLink(link, exposed=False))


# A delay takes a process for each link where the kernel has no netem; more than three would take both cores.
CLUSTERS: Mapping[str, Surroundings] = {
    "2 devices, unlimited": Surroundings((1.0, 1.0), None, 0.0),
    "2 devices, 100 mbit": Surroundings((1.0, 1.0), 100_000_000, 0.2e-3),
    "2 devices at 0.05 and 0.2, 100 mbit": Surroundings((0.05, 0.2), 100_000_000, 0.2e-3),
    "3 devices at 0.1, unlimited": Surroundings((0.1,) * 3, None, 0.0),
    "3 devices at 0.05, 100 mbit": Surroundings((0.05,) * 3, 100_000_000, 0.0),
    "4 devices at 0.05, 100 mbit": Surroundings((0.05,) * 4, 100_000_000, 0.0),
    "2 devices at 0.05 and 0.2, 20 mbit": Surroundings((0.05, 0.2), 20_000_000, 1e-3),
}

FAST, ETHERNET, UNEVEN, THREE_UNLIMITED, THREE, FOUR, WIFI = CLUSTERS

PAIRS: Mapping[Model, tuple[str, ...]] = {
    Model("resnet20", 32): (FAST, THREE, WIFI),
    Model("torchvision:mobilenet_v2", 160): (FAST, THREE, UNEVEN),
    Model("torchvision:resnet18", 160): (FAST, THREE_UNLIMITED, FOUR),
    Model("torchvision:squeezenet1_1", 160): (FAST, FOUR),
    Model("lenet5", 28): (FAST, UNEVEN),
    Model("mobilenet_v1_0.5", 128): (ETHERNET, UNEVEN),
    Model("torchvision:efficientnet_b0", 160): (FAST, THREE),
    Model("torchvision:shufflenet_v2_x1_0", 160): (ETHERNET, UNEVEN),
    Model("torchvision:densenet121", 96): (FAST, WIFI),
    Model("torchvision:resnet50", 160): (FAST, ETHERNET, FOUR),
}
"""The clusters of each model."""


def calibration() -> Iterator[tuple[str, tuple[Entry, ...], int]]:
    """Yield the divisions whose operators are measured: a name, the strategies, the number of devices."""
    yield "whole", (Vertical(),), 1
    yield "rows", (Horizontal("rows"),), 2
    yield "channels", (Horizontal("out_channels"),), 2


class Chosen(Document):
    """A plan to execute; ``names`` are those of the baselines that it is, and "advised"."""

    number: int
    kind: str
    title: str
    names: tuple[str, ...]
    estimated: float
    plan: str

    @property
    def name(self) -> str:
        """The name of the baseline that the plan is."""
        return ", ".join(name for name in self.names if name != "advised")


def chosen(graph: Graph, spec: ModelSpec, cluster: Cluster, turn: int) -> tuple[Chosen, ...]:
    """Return the plans to execute for a model and a cluster.

    They are the one with the shortest estimated latency, everything on one device, the fastest baselines, and the
    fastest candidate of one more kind, which changes with ``turn``, so that every strategy is executed.
    """
    pricing = Pricing(graph, cluster, "latency")
    found: dict[Candidate, tuple[float, Candidate, list[str]]] = {}

    def add(candidate: Candidate, name: str | None) -> None:
        if candidate not in found:
            priced = pricing.alternative(candidate)
            if priced is None or priced.latency is None:
                return
            found[candidate] = (priced.latency, candidate, [])
        if name is not None:
            found[candidate][2].append(name)

    for candidate in space(graph, cluster, CANDIDATES)[1].candidates():
        add(candidate, None)
    for named in baselines(graph, cluster):
        add(named.candidate, named.name)
    ranked = sorted(found.values(), key=lambda entry: entry[0])
    best, ones = ranked[0], [entry for entry in ranked if entry[1].kind == "one device"]
    best[2].insert(0, "advised")
    taken = [best, *ones[:1], *[entry for entry in ranked if entry[2] and entry is not best][:BASELINES]]
    kinds = ["data", *(f"horizontal, {axis}" for axis in AXES), "vertical"]
    others = [entry for entry in ranked if entry[1].kind == kinds[turn % len(kinds)] and entry not in taken]
    taken += others[:1]
    distinct = {id(entry): entry for entry in taken if entry is best or entry[0] <= LONGEST}
    return tuple(
        Chosen(
            number=number,
            kind=candidate.kind,
            title=str(candidate),
            names=tuple(names),
            estimated=seconds,
            plan=Plan(model=spec, strategy=candidate.strategies, devices=candidate.devices).toml(),
        )
        for number, (seconds, candidate, names) in enumerate(distinct.values())
    )


def names(pairs: Mapping[Model, Sequence[str]] = PAIRS) -> Iterator[tuple[Model, str, str]]:
    """Yield each model and cluster, and the name of the pair."""
    for model, clusters in pairs.items():
        for cluster in clusters:
            short = model.name.rpartition(":")[2]
            yield model, cluster, f"{short}-{model.pixels}, {cluster}"
