"""Compare the estimated memory of workers with the memory of workers that run the plans.

    python -m benchmarks.memory --out FILE [--only TEXT]

For each model, the benchmark measures the memory of this machine's workers with the segments of the model's other
divisions (`benchmarks/cost_settings.py`), then runs each plan in the laboratory, and compares the most resident
memory of each worker. The base, a worker without a model, is subtracted on both sides. It requires root.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from benchmarks.cost_runs import executed, parts
from benchmarks.cost_settings import Model, Surroundings, captured
from benchmarks.cost_tables import percent, row, share
from benchmarks.measurement import Measurement, measured
from cloven.cost.cluster import Cluster, ClusterDevice
from cloven.cost.estimate import estimate
from cloven.cost.profile import ComputeCost, DeviceProfile, MemorySize
from cloven.files import write_text
from cloven.partition import plan as plans
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.plan import Entry, Plan
from cloven.partition.vertical import Vertical
from cloven.runtime import memory_profile

NAME = "memory"
MODELS = (
    Model("lenet5", 28),
    Model("resnet20", 32),
    Model("mobilenet_v1_0.5", 128),
    Model("torchvision:mobilenet_v2", 160),
    Model("torchvision:resnet50", 160),
    Model("torchvision:vgg16", 96),
)

PLANS: Sequence[tuple[str, tuple[Entry, ...], int]] = (
    ("one device", (Vertical(),), 1),
    ("vertical, 2 devices", (Vertical(),), 2),
    ("rows, 2 devices", (Horizontal("rows"),), 2),
    ("output channels, 2 devices", (Horizontal("out_channels"),), 2),
    ("tiles, 2 devices", (Data(),), 2),
)

BOUND = 0.15
"""The largest relative error of the memory above the base that counts as met."""


@dataclass(frozen=True)
class Compared:
    """The memory of a device above the base, in bytes: estimated, and measured."""

    model: str
    plan: str
    device: str
    estimated: float
    measured: float

    @property
    def error(self) -> float:
        """The relative error of the estimate."""
        return self.estimated / self.measured - 1

    def line(self) -> str:
        """Return it as a row of a table."""
        sizes = (f"{size / 1e6:.2f}" for size in (self.estimated, self.measured))
        return row(self.model, self.plan, self.device, *sizes, percent(self.error))


def compared(model: Model) -> Iterator[Compared]:
    """Yield the devices of each plan of a model."""
    graph = captured(model)
    with TemporaryDirectory() as scratch:
        sizes = profiled(model, Path(scratch))
        compute = ComputeCost(origin="assumed", macs_per_second=1e9)
        device = ClusterDevice(DeviceProfile(name="this machine", compute=compute, memory=sizes))
        for number, (name, strategy, count) in enumerate(PLANS):
            devices = [f"edge{i}" for i in range(count)]
            plan = Plan(model=model.spec, strategy=strategy, devices=devices)
            program = plans.compile(graph, plan)
            cost = estimate(program, Cluster(dict.fromkeys(devices, device)), window=1)
            around = Surroundings((1.0,) * count, None, 0.0)
            found = executed(plan, program, around, Path(scratch) / f"lab-{number}", math.inf)
            peaks = {worker.device: worker.peak for worker in found.memory}
            for each in cost.devices:
                assert each.memory is not None
                above = each.memory - sizes.worker, peaks[each.device] - sizes.worker
                yield Compared(model.name, name, each.device, *above)


def profiled(model: Model, folder: Path) -> MemorySize:
    """Return the memory of workers, measured with other divisions of a model."""
    found = memory_profile.measured([place for _, place in parts(model, folder)])
    if found is None:
        raise SystemExit("the system does not report the memory of processes")
    print(model.name, found, file=sys.stderr)
    return found


def table(found: Sequence[Compared]) -> str:
    """Return the table of all devices, and the share of them within the bound."""
    head = row("model", "plan", "device", "estimated, MB", "measured, MB", "error")
    errors = [one.error for one in found]
    within = f"{percent(share(errors, BOUND))} of {len(found)} devices within {percent(BOUND)}"
    lines = [head, row(*["---"] * 3, *["--:"] * 3), *(one.line() for one in found)]
    return "\n".join([*lines, "", f"{within}, median error {percent(median(map(abs, errors)))}"]) + "\n"


def measure() -> Iterator[Measurement]:
    """Yield the errors of the estimated memory of the devices, by model."""
    torch.set_num_threads(1)
    for model in MODELS:
        errors = [100 * abs(one.error) for one in compared(model)]
        case = f"{model.name}: error of the memory of {len(errors)} devices"
        yield measured(NAME, case, errors, "%", goal=100 * BOUND)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [one for model in MODELS if options.only in model.name for one in compared(model)]
    write_text(options.out, table(found))
    print(table(found))


if __name__ == "__main__":
    main()
