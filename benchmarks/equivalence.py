"""Check that every strategy computes the same as the model, for every model and 2 to 8 devices.

    python -m benchmarks.equivalence [--models NAME ...] [--devices N ...] [--size N] [--images N]

There are eleven models with random weights, and batch norms fitted to photographs so that values have the
magnitude of a trained model's. Images have 224 pixels, or the usual size for LeNet-5 and the ResNets for CIFAR-10.
For each model, strategy and number of devices, it writes a line of Markdown: the largest difference of an output,
the allowed difference, the bytes sent for an image, and the seconds to compile the plan. It runs one image on one
thread. The exit code is 1 if a line does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from cloven.graph.graph import Graph
from cloven.partition.compiler import Routing, divide
from cloven.partition.data import Data, tileable
from cloven.partition.division import device_names, everywhere
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.check import Comparison, compare
from cloven.zoo.datasets import load
from cloven.zoo.named import make, usual
from cloven.zoo.pixels import Shape
from cloven.zoo.training import seeded

MODELS = {
    "lenet5": "lenet5",
    "resnet20": "resnet20",
    "resnet56": "resnet56",
    "mobilenet_v1": "mobilenet_v1",
    "vgg16": "torchvision:vgg16",
    "resnet50": "torchvision:resnet50",
    "mobilenet_v2": "torchvision:mobilenet_v2",
    "efficientnet_b0": "torchvision:efficientnet_b0",
    "densenet121": "torchvision:densenet121",
    "googlenet": "torchvision:googlenet",
    "shufflenet_v2_x1_0": "torchvision:shufflenet_v2_x1_0",
}
"""The models by short name, with the names that the command line accepts."""

DEVICES = (2, 3, 4, 8)
GRIDS = {2: (1, 2), 3: (3, 1), 4: (2, 2), 8: (2, 4)}
"""The grid of tiles for a number of devices."""

PROPORTIONS = (2.0, 1.0, 0.0, 0.5, 1.0, 3.0, 1.0, 1.0)
"""Shares of unequal devices, one of which is idle."""

CLASSES = 10
SETTLING = 2**19
"""The number of pixels, in one channel, of the photographs that the batch norms are fitted to."""


@dataclass(frozen=True)
class Case:
    """A strategy as a function of the graph and the number of devices, which returns None if it does not fit."""

    title: str
    made: Callable[[Graph, int], Strategy | Sequence[Strategy] | None]
    numbers: tuple[int, ...] = DEVICES
    routing: Routing = "direct"
    reuse: bool = True

    def program(self, graph: Graph, devices: int) -> Program | None:
        """Return the program of the plan."""
        strategy = self.made(graph, devices)
        if strategy is None:
            return None
        return divide(graph, strategy, devices, routing=self.routing, reuse=self.reuse)


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    model: str
    case: Case
    devices: int
    found: Comparison
    seconds: float

    @property
    def holds(self) -> bool:
        """True if the result equals the whole model's, bit by bit if only whole layers are placed."""
        return self.found.equal and (self.case.title != "vertical" or self.found.max_difference == 0)

    def text(self) -> str:
        """Return the line in Markdown."""
        found = self.found
        return (
            f"| {self.model} | {self.case.title} | {self.devices} | {found.max_difference:.1e} | {found.bound:.1e} "
            f"| {'yes' if self.holds else 'NO'} | {found.bytes_an_image:,} | {self.seconds:.2f} |"
        )


HEAD = (
    "| model | strategy | devices | largest difference | allowed | equal | bytes per image | s to compile |\n"
    "|---|---|---:|---:|---:|---|---:|---:|"
)


# --- the ends of a plan's stages ------------------------------------------------------------------------------


def shallow(graph: Graph, grid: tuple[int, int]) -> str:
    """Return an early layer that can be tiled: a quarter of the way to the last that can."""
    able = tileable(everywhere(graph, grid[0] * grid[1]), grid)
    return able[len(able) // 4]


def inside(graph: Graph, grid: tuple[int, int]) -> str | None:
    """Return an early layer inside a block with branches, so that two or more maps cross a cut after it."""
    able = tileable(everywhere(graph, grid[0] * grid[1]), grid)
    crossed = {name: graph.live[graph.position[name]] for name in able}
    branching = [name for name, live in crossed.items() if sum(len(graph.by_name[v].shape) == 3 for v in live) > 1]
    return branching[len(branching) // 3] if branching else None


def part_way(graph: Graph, share: float) -> str:
    """Return the op at a fraction of the model."""
    return graph.ops[round(share * (len(graph.ops) - 1))].name


def _tiles(_: Graph, devices: int) -> Strategy:
    return Data(GRIDS[devices])


def _tiles_to_a_shallow_layer(graph: Graph, devices: int) -> Strategy:
    return Data(GRIDS[devices], until=shallow(graph, GRIDS[devices]))


def _tiles_to_inside_a_block(graph: Graph, devices: int) -> Strategy | None:
    until = inside(graph, GRIDS[devices])
    return Data(GRIDS[devices], until=until) if until else None


def _tiles_then_channels(graph: Graph, devices: int) -> Sequence[Strategy]:
    grid = GRIDS[devices]
    return [Data(grid, until=shallow(graph, grid)), Horizontal()]


def _vertical_then_channels(graph: Graph, _: int) -> Sequence[Strategy]:
    return [Vertical(until=part_way(graph, 0.5), on=["edge0", "edge1"]), Horizontal()]


def _channels_in_one_part(graph: Graph, devices: int) -> Sequence[Strategy]:
    first, last = part_way(graph, 1 / 3), part_way(graph, 2 / 3)
    middle = Horizontal(until=last, on=device_names(devices))
    return [Vertical(until=first, on=["edge0"]), middle, Vertical(on=[f"edge{devices - 1}"])]


CASES = (
    Case("vertical", lambda *_: Vertical()),
    Case("output channels", lambda *_: Horizontal()),
    Case("output channels, exchanged at the layer", lambda *_: Horizontal(exchange="layer")),
    Case("input channels", lambda *_: Horizontal("in_channels")),
    Case("input channels, scattered sums", lambda *_: Horizontal("in_channels", sums="scatter")),
    Case("fused pairs", lambda *_: Horizontal("fused")),
    Case("rows", lambda *_: Horizontal("rows")),
    Case("columns", lambda *_: Horizontal("columns")),
    Case("unequal shares", lambda _, devices: Horizontal(shares=PROPORTIONS[:devices])),
    Case("1x2 tiles", _tiles, (2,)),
    Case("2x2 tiles", _tiles, (4,)),
    Case("tiles to a shallow layer", _tiles_to_a_shallow_layer),
    Case("tiles to inside a block", _tiles_to_inside_a_block),
    Case("tiles, then output channels", _tiles_then_channels),
    Case("vertical, then output channels", _vertical_then_channels),
    Case("output channels in one vertical part", _channels_in_one_part),
    Case("output channels through a star", lambda *_: Horizontal(), routing="star"),
    Case("output channels through a star without reuse", lambda *_: Horizontal(), routing="star", reuse=False),
)
"""Every strategy."""


# --- models and images ----------------------------------------------------------------------------------------


def image_shape(model: str, size: int) -> Shape:
    """Return the shape of a model's images: its usual one if that is small."""
    own = usual(MODELS[model]).shape
    return own if own[1] < 224 else (own[0], size, size)


@cache
def settled(model: str, size: int) -> tuple[nn.Module, Graph]:
    """Return a model whose values have the magnitude of a trained model's, and its graph."""
    shape = image_shape(model, size)
    made = seeded(lambda: _settled(model, shape), 0)
    return made, capture(made, torch.zeros(1, *shape))


def _settled(model: str, shape: Shape) -> nn.Module:
    """Fit batch norms to photographs, and scale the last layer so that its outputs deviate by 1."""
    made = make(MODELS[model], shape=shape, classes=CLASSES)
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    count = min(64, max(8, SETTLING // (shape[1] * shape[2])))
    photographs = load("photos", shape=shape, limit=count).tensor()
    last = [module for module in made.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        if norms:
            made.train()(photographs)
        last.weight /= made.eval()(photographs).std(0).mean()
    return made


@cache
def images(model: str, size: int, count: int) -> Tensor:
    """Return photographs that the batch norms were not fitted to."""
    return load("photos", shape=image_shape(model, size), limit=64 + count).tensor()[64:]


# --- the product ----------------------------------------------------------------------------------------------


def line(model: str, case: Case, devices: int, *, size: int, count: int = 1) -> Line | None:
    """Compare one plan with the whole model; return None if the plan does not fit the model."""
    _, graph = settled(model, size)
    start = time.perf_counter()
    program = case.program(graph, devices)
    taken = time.perf_counter() - start
    if program is None:
        return None
    return Line(model, case, devices, compare(program, graph, images(model, size, count)), taken)


def product(models: Sequence[str], devices: Sequence[int], *, size: int, count: int = 1) -> Iterator[Line]:
    """Yield the comparison of every strategy on these models with these numbers of devices, if it fits."""
    for model in models:
        for case in CASES:
            for number in (n for n in case.numbers if n in devices):
                found = line(model, case, number, size=size, count=count)
                if found is not None:
                    yield found
        settled.cache_clear()


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--devices", nargs="+", type=int, choices=DEVICES, default=DEVICES)
    parser.add_argument(
        "--size",
        type=int,
        default=224,
        help="Height and width of images in pixels, except for models with small images.",
    )
    parser.add_argument("--images", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(HEAD, flush=True)
    failed = lines = 0
    for found in product(options.models, options.devices, size=options.size, count=options.images):
        lines, failed = lines + 1, failed + (not found.holds)
        print(found.text(), flush=True)
    print(f"\n{lines} plans, {failed} not equal; {time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
