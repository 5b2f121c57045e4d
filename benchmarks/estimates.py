"""Measure the time to compile and estimate plans, and to rank many divisions, in one process with one thread.

python -m benchmarks.estimates [--runs N] [--candidates N]

"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, islice, permutations

import torch

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

CLUSTER = "three-devices"
DEVICES = ("camera", "gateway", "server")
PROTECTIONS = (Protection(), Protection(default="ascon-aead128"))
PLAN_MS = 50.0
RANKING_SECONDS = 60.0


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


def fastest(call: Callable[[], object], runs: int) -> float:
    """Return the milliseconds of the fastest of several runs."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return 1000 * min(taken)


def plan_times(graph: Graph, cluster: Cluster, runs: int) -> float:
    """Print the times of a plan of each strategy, and return the largest sum of compiling and estimating."""
    slowest, estimator = 0.0, Estimator(cluster)
    for name, strategy in strategies(graph).items():
        program = divide(graph, strategy, DEVICES)
        compiled = fastest(partial(divide, graph, strategy, DEVICES), runs)
        latency = fastest(lambda p=program: estimator.estimate(Workload.of(p)), runs)  # type: ignore[misc]
        everything = fastest(partial(estimate, program, cluster), runs)
        slowest = max(slowest, compiled + everything)
        print(f"  {name:26} compile {compiled:6.1f} ms, latency {latency:5.1f} ms, all costs {everything:6.1f} ms")
    return slowest


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


def rank(graph: Graph, cluster: Cluster, number: int) -> float:
    """Print the best of a number of candidates by latency, and how they are composed; return the seconds taken."""
    start = time.process_time()
    found = list(islice(_latencies(graph, cluster), number))
    found.sort(key=lambda one: one[0])
    seconds = time.process_time() - start
    kinds = ", ".join(f"{times} {kind}" for kind, times in Counter(type(s).__name__ for _, s, _ in found).items())
    print(f"ranked {len(found)} candidates ({kinds}) in {seconds:.1f} s: {1000 * seconds / len(found):.2f} ms each")
    latency, strategy, devices = found[0]
    print(f"  the best is {strategy.title()} on {', '.join(devices)}: {1000 * latency:.1f} ms")
    return seconds


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


def main() -> int:
    """Measure, print, and compare with the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cluster = Cluster.named(CLUSTER)
    slowest = {}
    for name in ("resnet50", "mobilenet_v2"):
        print(f"{name}, 224 pixels, {CLUSTER}")
        graph = captured(name)
        slowest[name] = plan_times(graph, cluster, options.runs)
    seconds = rank(graph, cluster, options.candidates)
    holds = slowest["resnet50"] <= PLAN_MS and seconds <= RANKING_SECONDS
    print(f"ResNet-50: at most {slowest['resnet50']:.0f} ms a plan (bound {PLAN_MS:.0f} ms)")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
