"""Compare the latency of an image on one device with that on two, in the laboratory.

    python -m benchmarks.latency [--rounds N] [MODEL ...]

Random weights, one image in flight. A device is a worker with one thread whose process may use one core: edge0 the
first, edge1 the second. All divisions of a model have their workers at the same time, and take turns. For each the
benchmark gives the latency, the time for which the slower device computes, and the rest: messages, copies and
waiting for the other device. Requires root, for the network namespaces. The exit code is 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.measurement import Measurement, measured, ratios, shown
from benchmarks.processes import use_core
from cloven.graph.graph import Graph
from cloven.partition import plan as plans
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.plan import Entry, ModelSpec, Plan
from cloven.partition.transform import ImageType, Transforms
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.lab import laboratory
from cloven.runtime.lab.laboratory import Experiment
from cloven.runtime.lab.network import Network
from cloven.zoo.named import make

NAME = "latency"
IMAGE, CLASSES = (3, 224, 224), 1000
ONE = "one device"
VGG, MOBILENET = "torchvision:vgg16", "torchvision:mobilenet_v2"
MODELS = {
    VGG: 9,
    "torchvision:resnet50": 21,
    "torchvision:densenet121": 21,
    "torchvision:squeezenet1_1": 41,
    MOBILENET: 41,
}
"""The number of images in a round."""

GOALS = {(VGG, "rows"): 0.75}
"""The largest ratio to the latency of one device."""

ETHERNET, DELAY = 100_000_000, 2e-3
"""The bandwidth and the delay of the links over which an image is sent as float32 and as its pixels."""


@dataclass(frozen=True)
class Way:
    """A division of a model, and the links of its laboratory."""

    strategy: Entry | Sequence[Entry]
    devices: int = 2
    image: ImageType = "float32"
    bandwidth: int | None = None
    delay: float = 0.0

    def experiment(self, name: str, graph: Graph, images: int, folder: Path) -> Experiment:
        """Return the experiment that sends a number of images, one at a time."""
        plan = Plan(
            model=ModelSpec(name=name, input=IMAGE, classes=CLASSES),
            strategy=self.strategy,
            devices=[f"edge{i}" for i in range(self.devices)],
            transform=Transforms(image=self.image),
        )
        return Experiment(
            plan=plan,
            program=plans.compile(graph, plan),
            pixels=np.random.default_rng(0).integers(0, 256, (images, *IMAGE), dtype=np.uint8),
            auxiliary=0,
            folder=folder,
            bandwidth=self.bandwidth,
            delay=self.delay,
            window=1,
        )


BLOCKS = {VGG: ("features.4", "features.9", "features.16", "features.23", "features.30")}
"""The last layers of blocks: devices that have tiles of a block exchange rows only between the blocks."""


def divisions(name: str) -> dict[str, Way]:
    """Return the divisions of a model that are compared."""
    found = {
        ONE: Way(Vertical(), 1),
        "rows": Way(Horizontal("rows")),
        "two tiles": Way(Data((2, 1))),
    }
    if name in BLOCKS:
        tiled = [Data((2, 1), until=last) for last in BLOCKS[name]]
        found["two tiles of each block"] = Way([*tiled, Horizontal("rows")])
    return found


IMAGES = {
    "float32": Way(Vertical(), 1, bandwidth=ETHERNET, delay=DELAY),
    "uint8": Way(Vertical(), 1, image="uint8", bandwidth=ETHERNET, delay=DELAY),
}


@dataclass(frozen=True)
class Rounds:
    """The median milliseconds of an image in each round, and those for which the slower device computes."""

    latency: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)

    @property
    def rest(self) -> list[float]:
        """The milliseconds in which the slower device does not compute."""
        return [whole - part for whole, part in zip(self.latency, self.computing, strict=True)]


def rounds_of(name: str, ways: Mapping[str, Way], folder: Path, rounds: int, images: int) -> dict[str, Rounds]:
    """Return the rounds of each division of a model; a first round is not counted."""
    torch.manual_seed(0)
    graph = capture(make(name, shape=IMAGE, classes=CLASSES), torch.zeros(1, *IMAGE))
    found = {way: Rounds() for way in ways}
    with ExitStack() as stack:
        running = {}
        for i, (way, division) in enumerate(ways.items()):
            experiment = division.experiment(name, graph, images, folder / str(i))
            net = stack.enter_context(laboratory.system(experiment))
            one_core_each(net, division.devices)
            running[way] = experiment, net
        for turn in range(rounds + 1):
            for way, (experiment, net) in running.items():
                summary = laboratory.send(experiment, net).summary
                if summary.failed:
                    raise SystemExit(f"{name}, {way}: {summary.failed[0].reason}")
                if turn:
                    found[way].latency.append(summary.latency.median_ms)
                    found[way].computing.append(max(device.compute_ms for device in summary.devices))
    return found


def one_core_each(net: Network, devices: int) -> None:
    """Let all threads of each worker use one core only."""
    cores = sorted(os.sched_getaffinity(0))
    for i, worker in enumerate(net.started[:devices]):
        use_core(worker.pid, cores[i % len(cores)])


def divided(name: str, folder: Path, rounds: int) -> Iterator[Measurement]:
    """Yield the latency of each division of a model, its parts, and the ratio to that of one device."""
    model = name.rpartition(":")[2]
    found = rounds_of(name, divisions(name), folder, rounds, MODELS[name])
    for way, times in found.items():
        yield measured(NAME, f"{model}, {way}", times.latency, "ms")
        yield measured(NAME, f"{model}, {way}: the slower device computes", times.computing, "ms")
        yield measured(NAME, f"{model}, {way}: the rest", times.rest, "ms")
        if way != ONE:
            over = ratios(times.latency, found[ONE].latency)
            yield measured(NAME, f"{model}, {way} / {ONE}", over, "x", goal=GOALS.get((name, way)))


def sent(name: str, folder: Path, rounds: int) -> Iterator[Measurement]:
    """Yield the latency of a model on one device over slow links, by the type of the numbers of the image."""
    model = name.rpartition(":")[2]
    for way, times in rounds_of(name, IMAGES, folder, rounds, MODELS[name]).items():
        yield measured(NAME, f"{model}, {ONE}, 100 mbit/s and 2 ms, image as {way}", times.latency, "ms")


def measure(rounds: int = 5, models: Sequence[str] = ()) -> Iterator[Measurement]:
    """Yield the measurements of some models (default: all)."""
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(models or MODELS):
            yield from divided(name, Path(folder) / str(i), rounds)
        if not models or MOBILENET in models:
            yield from sent(MOBILENET, Path(folder) / "images", rounds)


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    return shown(measure(given.rounds, given.models))


if __name__ == "__main__":
    sys.exit(main())
