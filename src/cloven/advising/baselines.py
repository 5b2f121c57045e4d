"""Divisions from the literature, with which advice is compared.

None of them considers what leaks. They divide a model over the devices whose speed is known from their profile, the
fastest first; the coordinator takes no part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, permutations

from cloven.advising.candidates import Candidate, Seconds, grids_of, op_seconds
from cloven.cost.cluster import Cluster
from cloven.graph.cuts import Cut, cuts
from cloven.graph.graph import Graph
from cloven.graph.ops import ANCHORS
from cloven.partition.compiler import problems
from cloven.partition.data import Data, deepest_that_pays
from cloven.partition.division import everywhere
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Link
from cloven.partition.protection import COORDINATOR
from cloven.partition.vertical import Vertical


@dataclass(frozen=True)
class NamedCandidate:
    """A division with its name, such as ``min-cut (DADS)``, and the paper that it is from."""

    name: str
    candidate: Candidate
    source: str


def baselines(model: Graph, cluster: Cluster) -> tuple[NamedCandidate, ...]:
    """Return the divisions from the literature that fit a model and a cluster, of two devices or more."""
    seconds = device_seconds(model, cluster)
    devices = sorted(seconds, key=lambda name: sum(seconds[name].values()))
    if len(devices) < 2:
        return ()
    balanced = ((f"balanced MACs on {len(one.devices)} devices", one) for one in balanced_macs(model, devices))
    found = [
        *(
            NamedCandidate(name, one, "equal shares of the multiply-accumulates; no paper")
            for name, one in balanced
        ),
        NamedCandidate("proportional rows (CoEdge)", proportional_rows(model, devices, seconds), COEDGE),
        NamedCandidate("equal rows (MoDNN)", equal_rows(devices), MODNN),
        NamedCandidate("fused tiles (DeepThings)", fused_tiles(devices), DEEPTHINGS),
        NamedCandidate("tiles, then channels (Mehrafrooz et al.)", tiles_then_channels(model, devices), MEHRAFROOZ),
    ]
    if (cut := min_cut(model, cluster, seconds)) is not None:
        found.append(NamedCandidate("min-cut (DADS)", cut, DADS))
    if (early := early_layers_together(model, devices)) is not None:
        found.append(NamedCandidate("early layers on one device (Mehrafrooz et al.)", early, MEHRAFROOZ))
    return tuple(one for one in found if not problems(model, one.candidate.strategies, one.candidate.devices))


def device_seconds(model: Graph, cluster: Cluster) -> dict[str, Seconds]:
    """Return the seconds of each op for one image on each device whose speed is known, and not infinite."""
    return {name: each for name, each in op_seconds(model, cluster).items() if sum(each.values()) > 0}


# --- consecutive layers ---------------------------------------------------------------------------------------


def balanced_macs(model: Graph, devices: Sequence[str]) -> Iterator[Candidate]:
    """Yield cuts into equal shares of the multiply-accumulates, for two devices, three, up to all.

    The k-th of n - 1 cuts is the one with the share of the multiply-accumulates before it that is nearest to k/n;
    among equals, the last one with the fewest bytes. Numbers of devices for which two cuts are the same are left
    out.
    """
    places = [cut for cut in reversed(cuts(model)) if cut.macs_before and cut.macs_after]
    for number in range(2, len(devices) + 1 if places else 0):
        chosen = [_nearest(places, part / number).after for part in range(1, number)]
        if len(set(chosen)) == len(chosen):
            yield Candidate((Vertical(cuts=chosen),), tuple(devices[:number]))


def _nearest(places: Sequence[Cut], share: float) -> Cut:
    """Return the cut with a share of the multiply-accumulates before it that is nearest to this one."""
    return min(
        places, key=lambda cut: (abs(cut.macs_before / (cut.macs_before + cut.macs_after) - share), cut.bytes)
    )


DADS = (
    "Hu, C., Bao, W., Wang, D., Liu, F.: Dynamic adaptive DNN surgery for inference acceleration on the edge. "
    "IEEE INFOCOM 2019, pp. 1423-1431"
)


def min_cut(model: Graph, cluster: Cluster, seconds: Mapping[str, Seconds]) -> Candidate | None:
    """Return the division over two devices with the least computing and transmission; None if no link is known.

    It is the rule of DADS for a lightly loaded system, for every ordered pair of devices instead of an edge device
    and a cloud. The image comes from the coordinator to the first device. The time of an op is that of the cost
    model; that of a value follows from the bandwidth, delay and message cost of the link. The time in which devices
    handle and encrypt messages is not counted.
    """
    best: tuple[float, Candidate] | None = None
    for first, second in permutations(seconds, 2):
        sent, arrives = (_sending(model, cluster, link) for link in ((first, second), (COORDINATOR, first)))
        if sent and arrives:
            kept = surgery(model, seconds[first], seconds[second], sent)
            taken = arrives[model.input.name] + surgery_seconds(model, kept, seconds[first], seconds[second], sent)
            if best is None or taken < best[0]:
                best = taken, _assigned(model, kept, first, second)
    return None if best is None else best[1]


def _sending(model: Graph, cluster: Cluster, link: Link) -> Seconds | None:
    """Return the seconds for sending each value of a model over a link; None if its profile is unknown."""
    profile = cluster.link(*link).profile
    if profile is None:
        return None
    cost = profile.transmission
    return {op.name: 8 * op.bytes / cost.bandwidth + cost.delay + cost.message for op in model.ops}


PICOSECOND = 1e12
"""Picoseconds in a second. A maximum flow is only exact for whole numbers."""


def surgery(model: Graph, first: Seconds, second: Seconds, sent: Seconds) -> frozenset[str]:
    """Return the values of the first device in the minimum cut of DADS.

    The network has a node for each op, an edge to it that is cut if the second device runs it, and an edge from it
    that is cut if the first does. A value with several readers is sent once: one more node is between it and them.
    The image is on the first device, and edges of infinite capacity keep values from being sent back.

    Args:
        model: the model.
        first: the seconds of each op, except the image, on the first device.
        second: the same on the second device.
        sent: the seconds for sending each value, and the image, from the first device to the second.
    """
    from networkx import DiGraph, minimum_cut

    def picoseconds(time: float) -> int:
        return round(PICOSECOND * time)

    network = DiGraph()
    source, sink = ("first device", ""), ("second device", "")
    network.add_edge(source, ("op", model.input.name))  # an edge without a capacity has an infinite one
    for name in first:
        network.add_edge(source, ("op", name), capacity=picoseconds(second[name]))
        network.add_edge(("op", name), sink, capacity=picoseconds(first[name]))
    for name, readers in model.users.items():
        network.add_edge(("op", name), ("sent", name), capacity=picoseconds(sent[name]))
        for reader in readers:
            network.add_edge(("sent", name), ("op", reader))
            network.add_edge(("op", reader), ("op", name))
    _, (kept, _) = minimum_cut(network, source, sink)
    return frozenset(name for kind, name in kept if kind == "op")


def surgery_seconds(model: Graph, kept: Collection[str], first: Seconds, second: Seconds, sent: Seconds) -> float:
    """Return what the minimum cut minimises: all computing, and each value that the second device reads, once.

    ``kept`` are the values of the first device, with the image; the other arguments are as for `surgery`.
    """
    computing = sum(first[name] if name in kept else second[name] for name in first)
    crossing = [name for name in kept if any(reader not in kept for reader in model.users[name])]
    return computing + sum(sent[name] for name in crossing)


def _assigned(model: Graph, kept: Collection[str], first: str, second: str) -> Candidate:
    """Return the candidate in which the first device computes the values ``kept``, and the second all others.

    Where the cut is not between two consecutive ops, each run of ops on one device is a strategy of its own.
    """
    runs = [
        (device, [op.name for op in ops])
        for device, ops in groupby(model.ops[1:], key=lambda op: first if op.name in kept else second)
    ]
    devices = tuple(dict.fromkeys(device for device, _ in runs))
    if len(runs) <= 2:
        return Candidate((Vertical(cuts=tuple(ops[-1] for _, ops in runs[:-1])),), devices)
    *before, (last, _) = runs
    stages = (*(Vertical(until=ops[-1], on=(device,)) for device, ops in before), Vertical(on=(last,)))
    return Candidate(stages, devices)


# --- rows and tiles -------------------------------------------------------------------------------------------

COEDGE = (
    "Zeng, L., Chen, X., Zhou, Z., Yang, L., Zhang, J.: CoEdge: cooperative DNN inference with adaptive workload "
    "partitioning over heterogeneous edge devices. IEEE/ACM Trans. Netw. 29(2), 595-608 (2021)"
)


def proportional_rows(model: Graph, devices: Sequence[str], seconds: Mapping[str, Seconds]) -> Candidate:
    """Return rows in proportion to the devices' speeds on the whole model.

    CoEdge also adapts to the network and saves energy; here only the speeds count. The slowest device is dropped as
    long as it has fewer rows of the image than a convolution needs from the neighbour on each side, since rows of
    further devices would then have to be sent.
    """
    kernels = [op.attrs["kernel"][0] for op in model.ops if op.kind == "conv2d"]
    least = max([1, *(kernel // 2 for kernel in kernels)])
    speeds = [1 / sum(seconds[name].values()) for name in devices]
    while len(speeds) > 1 and model.input.shape[1] * speeds[-1] / sum(speeds) < least:
        speeds.pop()
    if len(speeds) == 1:
        return Candidate((Vertical(),), (devices[0],))
    shares = tuple(round(speed / sum(speeds), 6) for speed in speeds)
    return Candidate((Horizontal(axis="rows", shares=shares),), tuple(devices[: len(speeds)]))


MODNN = (
    "Mao, J., Chen, X., Nixon, K.W., Krieger, C., Chen, Y.: MoDNN: local distributed mobile computing system for "
    "deep neural network. DATE 2017, pp. 1396-1401"
)


def equal_rows(devices: Sequence[str]) -> Candidate:
    """Return equal rows of each map on all devices.

    MoDNN's one-dimensional partition also adapts to the devices, as `proportional_rows` does. It divides linear
    layers by clusters of their weights; here they are divided by output.
    """
    return Candidate((Horizontal(axis="rows"),), tuple(devices))


DEEPTHINGS = (
    "Zhao, Z., Barijough, K.M., Gerstlauer, A.: DeepThings: distributed adaptive deep learning inference on "
    "resource-constrained IoT edge clusters. IEEE Trans. Comput.-Aided Des. Integr. Circuits Syst. 37(11), "
    "2348-2359 (2018)"
)


def fused_tiles(devices: Sequence[str]) -> Candidate:
    """Return a grid of fused tiles on all devices, as square as their number allows.

    DeepThings has more tiles than devices, and idle devices steal some from others. Here each device has one tile,
    and the number of fused layers is the one with the fewest multiply-accumulates on the busiest device.
    """
    return Candidate((Data(grid=_grid(len(devices))),), tuple(devices))


MEHRAFROOZ = (
    "Mehrafrooz, F., Siyadatzaadeh, R., Mentens, N., Stefanov, T.: A security analysis of CNN partitioning "
    "strategies for distributed inference at the edge (2025), Section 6"
)


def tiles_then_channels(model: Graph, devices: Sequence[str]) -> Candidate:
    """Return tiles for the early layers, then shares of the output channels, on all devices.

    The paper recommends data partitioning on as many devices as possible, or its combination with horizontal
    partitioning. It names no layer for the change; here it is the last one that `fused_tiles` divides into tiles.
    """
    grid = _grid(len(devices))
    until = deepest_that_pays(everywhere(model, len(devices)), grid)
    return Candidate((Data(grid=grid, until=until), Horizontal()), tuple(devices))


def early_layers_together(model: Graph, devices: Sequence[str]) -> Candidate | None:
    """Return the first half of the layers on the fastest device, and the others on the second; None for one layer.

    The paper recommends to run the early layers on one device, because their values are the easiest to invert. It
    does not say how many; here it is half of the convolutions and linear layers, rounded up. Of the cuts before the
    next layer, the last one with the fewest bytes is taken.
    """
    layers = [model.position[op.name] for op in model.ops if op.kind in ANCHORS]
    half = (len(layers) + 1) // 2
    if half == len(layers):
        return None
    places = reversed(cuts(model)[layers[half - 1] : layers[half]])
    return Candidate((Vertical(cuts=(min(places, key=lambda cut: cut.bytes).after,)),), tuple(devices[:2]))


def _grid(number: int) -> tuple[int, int]:
    """Return the rows and columns of a number of tiles, as similar as possible, with no more rows than columns."""
    return max(grid for grid in grids_of(number) if grid[0] <= grid[1])
