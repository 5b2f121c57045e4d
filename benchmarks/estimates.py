"""Measure the CPU time to compile and estimate plans, and to rank many divisions, in one process with one thread.

python -m benchmarks.estimates [--runs N] [--candidates N]

The exit code is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import combinations, islice, permutations

import torch

from benchmarks.measurement import Measurement, measured, shown
from cloven.cost.cluster import Cluster
from cloven.cost.estimate import Estimator, estimate
from cloven.cost.tasks import Workload
from cloven.graph.cuts import cuts
from cloven.graph.graph import Graph
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import AXES, Horizontal
from cloven.partition.protection import Protection
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.zoo.libraries import from_torchvision

NAME = "estimates"
CLUSTER = "three-devices"
DEVICES = ("camera", "gateway", "server")
PROTECTIONS = (Protection(), Protection(default="ascon-aead128"))
MODELS = {"resnet50": 50.0, "mobilenet_v2": None}
"""The models, and the milliseconds within which a plan is compiled and all its costs are estimated."""

RANKING_MS = 6.0
"""The milliseconds for a ranked candidate: 10,000 in a minute."""


def captured(name: str) -> Graph:
    """Return the graph of a torchvision model with random weights at 224 pixels."""
    return capture(from_torchvision(name, (3, 224, 224), 1000).eval(), torch.zeros(1, 3, 224, 224))


def strategies(graph: Graph) -> dict[str, Strategy]:
    """Return a plan of each strategy on three devices."""
    places = [cut.after for cut in cuts(graph)[1:]]
    return {
        "vertical": Vertical((places[len(places) // 3], places[2 * len(places) // 3])),
        "vertical, balanced": Vertical(),
        **{f"horizontal, {axis}": Horizontal(axis) for axis in AXES},
        "data, 1x3 tiles": Data((1, 3)),
    }


def plan_times(name: str, graph: Graph, cluster: Cluster, runs: int) -> Iterator[Measurement]:
    """Yield the milliseconds to compile a plan of each strategy and to estimate all its costs."""
    for title, strategy in strategies(graph).items():
        taken = []
        for _ in range(runs + 1):
            start = time.process_time()
            estimate(divide(graph, strategy, DEVICES), cluster)
            taken.append(1000 * (time.process_time() - start))
        case = f"{name}, {title}: compile and estimate all costs"
        yield measured(NAME, case, taken[1:], "ms", goal=MODELS[name])


def divisions(graph: Graph) -> Iterator[Strategy]:
    """Yield the strategies to rank: horizontal ones and tiles, then vertical cuts, evenly spread over the model."""
    for number in (2, 3):
        yield from (Horizontal(axis, shares=(1,) * number) for axis in AXES)
        yield from (Data((1, number)), Data((number, 1)))
    places = [cut.after for cut in cuts(graph)[1:]]
    yield from (Vertical((place,)) for place in places)
    pairs = list(combinations(places, 2))
    step = 7  # neither the number of places nor of pairs is a multiple of it
    yield from (Vertical(pairs[i * step % len(pairs)]) for i in range(len(pairs)))


def rank(graph: Graph, cluster: Cluster, number: int, runs: int) -> list[float]:
    """Return the milliseconds for each of a number of candidates that are ranked by latency."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        sorted(islice(_latencies(graph, cluster), number), key=lambda one: one[0])
        taken.append(1000 * (time.process_time() - start) / number)
    return taken


def _latencies(graph: Graph, cluster: Cluster) -> Iterator[tuple[float, Strategy, tuple[str, ...]]]:
    """Yield the latency of each candidate: each strategy is compiled once for all devices and protections."""
    estimator = Estimator(cluster)
    for strategy in divisions(graph):
        workload = Workload.of(divide(graph, strategy))
        for devices in permutations(DEVICES, len(workload.devices)):
            for protection in PROTECTIONS:
                latency = estimator.estimate(workload, devices, protection).latency
                assert latency is not None
                yield latency, strategy, devices


def measure(runs: int = 7, candidates: int = 1_000) -> Iterator[Measurement]:
    """Yield the times of a plan of each strategy, and of a ranked candidate."""
    torch.set_num_threads(1)
    cluster = Cluster.named(CLUSTER)
    graphs = {name: captured(name) for name in MODELS}
    for name, graph in graphs.items():
        yield from plan_times(name, graph, cluster, runs)
    taken = rank(graphs["mobilenet_v2"], cluster, candidates, max(3, runs // 2))
    case = f"mobilenet_v2: rank {candidates:,} candidates, each"
    yield measured(NAME, case, taken, "ms", goal=RANKING_MS)


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=10_000)
    options = parser.parse_args()
    return shown(measure(options.runs, options.candidates))


if __name__ == "__main__":
    sys.exit(main())
