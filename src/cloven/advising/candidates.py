"""The divisions that are compared: every strategy, its parameters, and every assignment of devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, permutations
from math import comb

from cloven.cost.cluster import Cluster
from cloven.cost.operators import OperatorTimes, work
from cloven.graph.box import whole
from cloven.graph.cuts import Cut, cuts
from cloven.graph.graph import Graph
from cloven.graph.ops import macs
from cloven.partition.data import Data
from cloven.partition.horizontal import AXES, Axis, Horizontal
from cloven.partition.plan import Entry, in_words
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical

MOST_DEVICES = 4
"""The largest number of devices of a candidate."""

MOST_CANDIDATES = 6000
"""The largest number of divisions that are all compared. Of a larger space, the cuts are thinned until that many
are left, and a genetic search looks among the others.
"""

HYBRID_AXES: tuple[Axis, ...] = ("out_channels", "fused")
"""The axes of the second stage of a hybrid."""

Seconds = Mapping[str, float]
"""The seconds of each op for one image."""


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

    @property
    def single_cut(self) -> str | None:
        """The cut of a vertical division in two parts; None for any other division."""
        (strategy, *more) = self.strategies
        return strategy.cuts[0] if not more and isinstance(strategy, Vertical) and len(strategy.cuts) == 1 else None

    def __str__(self) -> str:
        if len(self.devices) == 1:
            return f"all of it on {self.devices[0]}"
        return f"{in_words(self.strategies)} on {', '.join(self.devices)}"


@dataclass(frozen=True, eq=False)
class Space:
    """The divisions of a model over a cluster.

    Attributes:
        model: the model.
        cluster: the cluster.
        places: the cuts that are combined, from the image to the answer.
        op_seconds: the seconds of each op on each device whose profile is known.
    """

    model: Graph
    cluster: Cluster
    places: tuple[Cut, ...]
    op_seconds: Mapping[str, Seconds]

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The seconds of the whole model on each device whose profile is known."""
        return {name: sum(times.values()) for name, times in self.op_seconds.items()}

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """The devices that may run a part of the model."""
        return tuple(name for name in self.cluster.devices if name != COORDINATOR)

    @property
    def numbers(self) -> range:
        """The numbers of devices of a candidate."""
        return range(1, min(len(self.devices), MOST_DEVICES) + 1)

    @property
    def size(self) -> int:
        """The number of candidates."""
        return sum(
            len(self.assignments(number)) * (comb(len(self.places), number - 1) + self.others(number))
            for number in self.numbers
        )

    def others(self, number: int) -> int:
        """Return the number of strategies for a number of devices besides the vertical ones, at most."""
        if number == 1:
            return 0
        grids = len(grids_of(number))
        return 2 * len(AXES) + grids + len(self.places) * (grids + 1) * 2 * len(HYBRID_AXES)

    @cache  # noqa: B019 - a space lives as long as its search
    def assignments(self, number: int) -> list[tuple[str, ...]]:
        """Return the ordered choices of ``number`` devices, one for each set of interchangeable choices.

        Devices with the same profile, the same trust and no links of their own are interchangeable.
        """
        alike = [_signature(name, self.cluster) for name in self.devices]
        found: dict[tuple[tuple[object, ...], ...], tuple[str, ...]] = {}
        for order in permutations(range(len(self.devices)), number):
            found.setdefault(tuple(alike[i] for i in order), tuple(self.devices[i] for i in order))
        return list(found.values())

    def shares(self, devices: Sequence[str]) -> list[tuple[float, ...] | None]:
        """Return the proportions of devices: equal ones (None), and those of their speeds if they differ."""
        if any(not self.seconds.get(name) for name in devices):
            return [None]
        speeds = [1 / self.seconds[name] for name in devices]
        if max(speeds) < 1.05 * min(speeds):
            return [None]
        return [None, tuple(round(speed / sum(speeds), 4) for speed in speeds)]

    def candidates(self) -> Iterator[Candidate]:
        """Yield every candidate; some may not fit the model."""
        places = [cut.after for cut in self.places]
        for number in self.numbers:
            for devices in self.assignments(number):
                for chosen in combinations(places, number - 1):
                    yield Candidate((Vertical(cuts=chosen),), devices)
                if number > 1:
                    yield from self.parallel(devices)
                    for place in places:
                        yield from self.hybrids(place, devices)

    def parallel(self, devices: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the candidates in which all devices work on the same layers."""
        for axis in AXES:
            for shares in self.shares(devices):
                yield Candidate((Horizontal(axis=axis, shares=shares),), devices)
        for grid in grids_of(len(devices)):
            yield Candidate((Data(grid=grid),), devices)

    def hybrids(self, place: str, devices: tuple[str, ...]) -> Iterator[Candidate]:
        """Yield the candidates with tiles or one device up to a layer, and then channels on all devices."""
        first: list[Entry] = [Vertical(until=place, on=devices[:1])]
        first += [Data(grid=grid, until=place) for grid in grids_of(len(devices))]
        for stage in first:
            for axis in HYBRID_AXES:
                for shares in self.shares(devices):
                    yield Candidate((stage, Horizontal(axis=axis, shares=shares)), devices)


def space(model: Graph, cluster: Cluster, most: int = MOST_CANDIDATES) -> tuple[Space, Space]:
    """Return all divisions of a model over a cluster, and those with so few cuts that there are at most ``most``.

    The two are equal if all divisions can be compared. Otherwise the time of the model, averaged over the devices,
    is divided into equal ranges, and the cut with the fewest bytes is taken in each.
    """
    seconds = op_seconds(model, cluster)
    whole = Space(model, cluster, tuple(useful_cuts(model, seconds.values())), seconds)
    before, thinned = progress_of(model, seconds.values()), whole
    for ranges in range(len(whole.places), 0, -1):
        if thinned.size <= most:
            break
        fewest: dict[int, Cut] = {}
        for cut in whole.places:
            step = min(int(ranges * before[cut.after]), ranges - 1)
            if step not in fewest or cut.bytes < fewest[step].bytes:
                fewest[step] = cut
        thinned = Space(model, cluster, tuple(fewest.values()), seconds)
    return whole, thinned


def op_seconds(model: Graph, cluster: Cluster) -> dict[str, Seconds]:
    """Return the seconds of each op for one image on each device that has a profile."""
    works = {op.name: work(model, op.name, whole(op.shape)) for op in model.ops[1:]}
    found: dict[str, Seconds] = {}
    for name, device in cluster.devices.items():
        if name != COORDINATOR and device.profile is not None:
            times = OperatorTimes(device.profile.compute)
            found[name] = {value: times.seconds(what) for value, what in works.items()}
    return found


def useful_cuts(model: Graph, seconds: Iterable[Seconds]) -> list[Cut]:
    """Return the cuts for which no later one is as good on every device.

    A later cut is as good if no more bytes cross it and the ops between the two take no time on any device, such as
    an activation that is fused with the layer before it. What crosses it leaks no more either, since it is computed
    from what crosses the earlier one.
    """
    each = list(seconds)
    found: list[Cut] = []
    for cut in cuts(model)[1:]:  # the first is after the image
        free = all(times.get(cut.after, 0.0) == 0 for times in each) if each else not _works(model, cut)
        if free and found and cut.bytes <= found[-1].bytes:
            found.pop()
        found.append(cut)
    return found


def _works(model: Graph, cut: Cut) -> bool:
    """Return whether the op before a cut has multiply-accumulates."""
    op = model.by_name[cut.after]
    return macs(op, model.input_shapes(op)) > 0


def progress_of(model: Graph, seconds: Iterable[Seconds]) -> dict[str, float]:
    """Return the share of the model's time, averaged over devices, that each op and those before it take."""
    each = [times for times in seconds if sum(times.values()) > 0]
    found, before = {}, 0.0
    for op in model.ops:
        if each:
            before += sum(times.get(op.name, 0.0) / sum(times.values()) for times in each) / len(each)
        else:
            before += 1 / len(model.ops)
        found[op.name] = before
    return found


def grids_of(number: int) -> list[tuple[int, int]]:
    """Return the grids with a number of tiles: rows, columns."""
    return [(rows, number // rows) for rows in range(1, number + 1) if number % rows == 0]


def _signature(name: str, cluster: Cluster) -> tuple[object, ...]:
    device = cluster.devices[name]
    own = any(link.startswith(f"{name}-") or link.endswith(f"-{name}") for link in cluster.links)
    profile = None if device.profile is None else device.profile.model_dump_json()
    return (name if own else None, profile, device.trusted)
