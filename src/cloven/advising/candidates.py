"""The divisions that are compared: every strategy, its cuts, and every assignment of the cluster's devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from cloven.cost.cluster import Cluster
from cloven.graph.cuts import Cut, cuts
from cloven.graph.graph import Graph
from cloven.partition.data import GRIDS, Data
from cloven.partition.horizontal import AXES, Horizontal
from cloven.partition.plan import Entry, in_words
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical

CUTS = 16
"""The largest number of cuts to combine. If a model has more, the cut with the fewest bytes is taken in each of as
many equal ranges of multiply-accumulates."""

MOST_DEVICES = 4
"""The largest number of devices of a candidate."""


@dataclass(frozen=True)
class Candidate:
    """One or more strategies in sequence, as in a plan, and the devices that run their parts, in order."""

    strategies: tuple[Entry, ...]
    devices: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The strategy's name: ``one device``, ``vertical``, ``horizontal, rows``, ``data``, ``hybrid``."""
        if len(self.devices) == 1:
            return "one device"
        if len(self.strategies) > 1:
            return "hybrid"
        (strategy,) = self.strategies
        return f"horizontal, {strategy.axis}" if isinstance(strategy, Horizontal) else strategy.kind

    def __str__(self) -> str:
        if len(self.devices) == 1:
            return f"all of it on {self.devices[0]}"
        return f"{in_words(self.strategies)} on {', '.join(self.devices)}"


def candidates(graph: Graph, cluster: Cluster) -> tuple[list[Candidate], bool]:
    """Return the divisions of a model over a cluster, and whether all cuts were combined.

    Devices with the same profile, the same trust and no links of their own are interchangeable: only one of the
    assignments that differ in them is returned.
    """
    names = tuple(name for name in cluster.devices if name != COORDINATOR)
    places, complete = _places(graph)
    found = []
    for number in range(1, min(len(names), MOST_DEVICES) + 1):
        assignments = list(_assignments(names, number, cluster))
        for strategy in _strategies(places, number):
            found += [Candidate((strategy,), devices) for devices in assignments]
    return found, complete


def _strategies(places: Sequence[str], number: int) -> Iterator[Entry]:
    """Yield the strategies for a number of devices."""
    yield from (Vertical(cuts=chosen) for chosen in combinations(places, number - 1))
    if number > 1:
        yield from (Horizontal(axis=axis) for axis in AXES)
        if number in GRIDS:
            yield Data(grid=GRIDS[number])


def _places(graph: Graph) -> tuple[list[str], bool]:
    """Return the ops after which a model is cut, and whether all cuts are among them.

    If several cuts have the same multiply-accumulates before them, such as before and after an activation, only the
    one with the fewest bytes is returned.
    """
    cheapest: dict[int, Cut] = {}
    for cut in cuts(graph)[1:]:  # the first is after the image
        if cut.macs_after and (cut.macs_before not in cheapest or cut.bytes <= cheapest[cut.macs_before].bytes):
            cheapest[cut.macs_before] = cut
    if len(cheapest) <= CUTS:
        return [cut.after for cut in cheapest.values()], True
    best: dict[int, Cut] = {}
    for cut in cheapest.values():
        step = CUTS * cut.macs_before // (cut.macs_before + cut.macs_after)
        if step not in best or cut.bytes < best[step].bytes:
            best[step] = cut
    return [cut.after for cut in best.values()], False


def _assignments(names: Sequence[str], number: int, cluster: Cluster) -> Iterator[tuple[str, ...]]:
    """Yield the ordered choices of ``number`` devices, one for each set of interchangeable choices."""
    alike = [_signature(name, cluster) for name in names]
    seen = set()
    for order in permutations(range(len(names)), number):
        signature = tuple(alike[i] for i in order)
        if signature not in seen:
            seen.add(signature)
            yield tuple(names[i] for i in order)


def _signature(name: str, cluster: Cluster) -> tuple[object, ...]:
    device = cluster.devices[name]
    own = any(link.startswith(f"{name}-") or link.endswith(f"-{name}") for link in cluster.links)
    profile = None if device.profile is None else device.profile.model_dump_json()
    return (name if own else None, profile, device.trusted)
