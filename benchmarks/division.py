"""Measure the cost of division in one process: ratios of CPU time, alternating runs, medians, one thread.

    python -m benchmarks.division [--runs N] [--batch N] [--json]

For ResNet-50 at 224 pixels with random weights, it compares a vertical plan, output channels on four devices
(their sum), and 2x2 tiles up to layer2 with the whole eager model, and a capture with the export alone. It also
measures the time to compile plans of ResNet-50 and DenseNet-121. The exit code is 1 if a ratio or a time exceeds
its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

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


def medians(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median CPU seconds of each call, in alternating runs."""
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def all_macs(program: Program) -> int:
    """Return the multiply-accumulates of all devices for one image."""
    return sum(program.macs(device) for device in program.devices)


def compile_seconds(graph: Graph) -> dict[str, float]:
    """Return the wall seconds to compile each plan that fits a model."""
    taken = {}
    for name, (strategy, devices) in COMPILED.items():
        if name in PLANS and not _has(graph, strategy):
            continue
        start = time.perf_counter()
        divide(graph, strategy, devices)
        taken[name] = time.perf_counter() - start
    return taken


def _has(graph: Graph, strategy: Strategy) -> bool:
    names = {path.split(".")[0] for path in graph.layers()}
    return "layer2" in names or isinstance(strategy, Horizontal)


def main() -> int:
    """Measure, print, and compare with the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, graph = captured("resnet50")
    images = torch.rand(options.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    programs = {name: divide(graph, strategy, devices) for name, (strategy, devices) in PLANS.items()}
    ready = {name: prepare(program) for name, program in programs.items()}
    calls: dict[str, Callable[[], object]] = {"eager": lambda: model(images)}
    calls |= {name: lambda p=plan: run(p, images) for name, plan in ready.items()}  # type: ignore[misc]
    with torch.inference_mode():
        times = medians(calls, options.runs)
    example = torch.zeros(1, 3, 224, 224)
    both: dict[str, Callable[[], object]] = {
        "export": lambda: trace(model, example),
        "capture": lambda: capture(model, example),
    }
    captures = medians(both, options.runs)
    checked = captures["capture"] / captures["export"]
    one = all_macs(programs["vertical, 4 parts"])
    rows = []
    for name, program in programs.items():
        ratio, work = times[name] / times["eager"], all_macs(program) / one
        counted = ratio / work
        rows.append(
            {
                "plan": name,
                "seconds": times[name],
                "ratio": ratio,
                "macs": work,
                "per_macs": counted,
                "bound": BOUNDS[name],
                "holds": counted <= BOUNDS[name],
            }
        )
    compiled = {"resnet50": compile_seconds(graph), "densenet121": compile_seconds(captured("densenet121")[1])}
    slowest = {name: max(found.values()) for name, found in compiled.items()}
    fast = checked <= CAPTURE and all(slowest[name] <= SECONDS[name] for name in slowest)
    holds = fast and all(row["holds"] for row in rows)
    found = {
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "torch": torch.__version__,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "eager_seconds": times["eager"],
        "capture_seconds": captures,
        "plans": rows,
        "compile_seconds": compiled,
        "holds": holds,
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return 0 if holds else 1
    print(f"ResNet-50, 224 pixels, batch {options.batch}, one thread: eager {times['eager'] * 1000:.0f} ms CPU")
    for row in rows:
        ratios = f"{row['ratio']:.2f} x eager, {row['macs']:.2f} x its MACs, so {row['per_macs']:.2f}"
        print(f"  {row['plan']:28} {ratios} (at most {row['bound']})")
    print(f"capture {captures['capture']:.2f} s, {checked:.2f} x its export (at most {CAPTURE})")
    for name, taken in compiled.items():
        every = ", ".join(f"{plan} {seconds:.2f} s" for plan, seconds in taken.items())
        print(f"compile {name} (at most {SECONDS[name]:.0f} s): {every}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
