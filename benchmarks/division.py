"""Measure the cost of division in one process: ratios of CPU time, alternating runs, medians, one thread.

    python -m benchmarks.division [--runs N] [--batch N]

For ResNet-50 at 224 pixels with random weights, it compares a vertical plan, output channels on four devices
(their sum), and 2x2 tiles up to layer2 with the whole eager model, and a capture with the export alone. It also
measures the time to compile plans of ResNet-50 and DenseNet-121. The exit code is 1 if a ratio or a time exceeds
its bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.measurement import Measurement, alternating, measured, ratios, shown
from cloven.graph.graph import Graph
from cloven.graph.tracing import trace
from cloven.partition.compiler import divide
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.runtime.capture import capture
from cloven.runtime.local import prepare, run
from cloven.zoo.named import make

NAME = "division"
UNTIL = "layer2"
PLANS: dict[str, tuple[Strategy, int]] = {
    "vertical, 4 parts": (Vertical(("layer1", "layer2.0.conv2", "layer3")), 4),
    "output channels, 4 devices": (Horizontal(), 4),
    "2x2 tiles to layer2": (Data((2, 2), until=UNTIL), 4),
}
BOUNDS = {"vertical, 4 parts": 1.05, "output channels, 4 devices": 2.0, "2x2 tiles to layer2": 1.3}
"""The largest ratio to the whole eager model; for tiles, relative to their part of its multiply-accumulates."""

COMPILED: dict[str, tuple[Strategy, int]] = {
    **PLANS,
    "vertical, balanced": (Vertical(), 8),
    "input channels": (Horizontal("in_channels"), 8),
    "fused pairs": (Horizontal("fused"), 8),
    "rows": (Horizontal("rows"), 7),
    "tiles as deep as it pays": (Data((2, 4)), 8),
}
CAPTURE = 1.5
"""The largest ratio of a capture, which checks the graph on images, to the export alone."""
SECONDS = {"resnet50": 2.0, "densenet121": 5.0}


def captured(name: str) -> tuple[torch.nn.Module, Graph]:
    """Return a torchvision model and its graph at 224 pixels."""
    model = make(f"torchvision:{name}", shape=(3, 224, 224), classes=1000)
    return model, capture(model, torch.zeros(1, 3, 224, 224))


def all_macs(program: Program) -> int:
    """Return the multiply-accumulates of all devices for one image."""
    return sum(program.macs(device) for device in program.devices)


def compiled(name: str, graph: Graph, runs: int) -> Iterator[Measurement]:
    """Yield the CPU seconds to compile each plan that fits a model."""
    fitting = {
        plan: partial(divide, graph, strategy, devices)
        for plan, (strategy, devices) in COMPILED.items()
        if plan not in PLANS or _has(graph, strategy)
    }
    for plan, seconds in alternating(fitting, runs).items():
        yield measured(NAME, f"{name}: compile {plan}", seconds, "s", goal=SECONDS[name])


def _has(graph: Graph, strategy: Strategy) -> bool:
    names = {path.split(".")[0] for path in graph.layers()}
    return "layer2" in names or isinstance(strategy, Horizontal)


def measure(runs: int = 7, batch: int = 1) -> Iterator[Measurement]:
    """Yield the ratios and the times."""
    torch.set_num_threads(1)
    model, graph = captured("resnet50")
    images = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    programs = {name: divide(graph, strategy, devices) for name, (strategy, devices) in PLANS.items()}
    ready = {name: prepare(program) for name, program in programs.items()}
    calls: dict[str, Callable[[], object]] = {"eager": lambda: model(images)}
    calls |= {name: partial(run, plan, images) for name, plan in ready.items()}
    with torch.inference_mode():
        times = alternating(calls, runs)
    yield measured(NAME, "ResNet-50, eager", times["eager"], "s")
    one = all_macs(programs["vertical, 4 parts"])
    for name, program in programs.items():
        work = all_macs(program) / one
        counted = [ratio / work for ratio in ratios(times[name], times["eager"])]
        case = f"ResNet-50, {name} / eager, per multiply-accumulate"
        yield measured(NAME, case, counted, "x", goal=BOUNDS[name])
    example = torch.zeros(1, 3, 224, 224)
    both = alternating(
        {"export": partial(trace, model, example), "capture": partial(capture, model, example)}, runs
    )
    yield measured(NAME, "ResNet-50, capture / export", ratios(both["capture"], both["export"]), "x", goal=CAPTURE)
    yield from compiled("resnet50", graph, runs)
    yield from compiled("densenet121", captured("densenet121")[1], runs)


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    return shown(measure(options.runs, options.batch))


if __name__ == "__main__":
    sys.exit(main())
