"""The processes of `benchmarks/pipelines.py`: one that makes the bundles, the whole model, and the coordinator.

    python -m benchmarks.stages prepare MODEL FOLDER
    python -m benchmarks.stages whole BUNDLE THREADS
    python -m benchmarks.stages coordinate PLAN CLUSTER WINDOW BATCH

Only the first imports torch. It measures the time between all cuts that carry one tensor, and keeps the cuts
nearest to half of the time. The others answer each line ``many N`` (N images as fast as possible) or ``single N``
(each image after the answer to the previous one) with a `Round`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from cloven.runtime.bundle.format import RunSegment
from cloven.runtime.bundle.reader import Bundle, read
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.unit_images import unit

if TYPE_CHECKING:
    from cloven.graph.graph import Graph

IMAGE = (3, 224, 224)
CLASSES = 1000
NEAR = (0.3, 0.7)
"""Cuts outside this part of the multiply-accumulates are ignored."""

TRIED = 3
"""The number of cuts that are kept."""

Array = NDArray[np.float32]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Cut:
    """A cut: the value that crosses it, its bytes, and the fraction of the compute time before it."""

    value: str
    bytes: int
    before: float


@dataclass(frozen=True)
class Round:
    """The seconds for some images, and the output of the last."""

    seconds: float
    output: list[float]


def pictures(count: int) -> NDArray[np.uint8]:
    """Return the pixels of random images ``(n, C, H, W)``."""
    return np.random.default_rng(0).integers(0, 256, (count, *IMAGE), np.uint8)


def repeated(images: Iterable[Made], count: int) -> list[Made]:
    """Return a number of images, which repeat after a few different ones."""
    return list(islice(cycle(images), count))


def segments(bundle: Bundle) -> list[Path]:
    """Return the model of each device, in the order of the devices."""
    return [
        bundle.place(device.name) / step.segment
        for device in bundle.manifest.devices
        for step in bundle.parts[device.name].steps
        if isinstance(step, RunSegment)
    ]


# --- bundles --------------------------------------------------------------------------------------------------


def prepare(name: str, folder: Path) -> None:
    """Write the bundles ``whole`` and ``cut-0``, ``cut-1``, ... with random weights, and print the cuts."""
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import make

    torch.set_num_threads(1)
    torch.manual_seed(0)
    graph = capture(make(name, shape=IMAGE, classes=CLASSES), torch.zeros(1, *IMAGE))
    write(name, graph, [], folder / "whole")
    values = candidates(graph)
    before = shares(write(name, graph, values, folder / "chain"))
    cuts = [Cut(v, graph.by_name[v].bytes, share) for v, share in zip(values, before, strict=True)]
    best = sorted(cuts, key=lambda cut: abs(cut.before - 0.5))[:TRIED]
    for i, cut in enumerate(best):
        write(name, graph, [cut.value], folder / f"cut-{i}")
    print(json.dumps([asdict(cut) for cut in best]))


def candidates(graph: Graph) -> list[str]:
    """Return values near the middle that cross a cut alone, after ops that onnxruntime does not fuse further."""
    from cloven.graph.ops import macs

    sums = np.cumsum([macs(op, graph.input_shapes(op)) for op in graph.ops])
    low, high = (share * sums[-1] for share in NEAR)

    def fused(name: str) -> bool:
        readers = (graph.by_name[reader] for reader in graph.users[name])
        return any(len(op.inputs) == 1 and op.kind in ("batch_norm", "elementwise") for op in readers)

    return [
        op.name
        for i, op in enumerate(graph.ops)
        if low < sums[i] < high and graph.live[i] == (op.name,) and not fused(op.name)
    ]


def write(name: str, graph: Graph, cuts: Sequence[str], folder: Path) -> Bundle:
    """Write the bundle of a vertical plan, and the plan next to it."""
    from cloven.partition import plan as plans
    from cloven.partition.plan import ModelSpec, Plan
    from cloven.partition.transform import Transforms
    from cloven.partition.vertical import Vertical
    from cloven.runtime.bundle import writer

    plan = Plan(
        model=ModelSpec(name=name, input=IMAGE, classes=CLASSES),
        strategy=(Vertical(cuts=tuple(cuts)),),
        devices=tuple(f"edge{i}" for i in range(len(cuts) + 1)),
        transform=Transforms(image="uint8"),
    )
    folder.with_suffix(".toml").write_text(plan.toml(), "utf-8")
    return writer.write(plans.compile(graph, plan), folder, model=name, plan=plan.toml(), images=unit(pictures(1)))


def shares(chain: Bundle, runs: int = 15) -> list[float]:
    """Return the fraction of the time (CPU seconds, one thread, medians) after each stretch but the last."""
    from cloven.runtime.bundle.engine import session

    stretches = [session(path) for path in segments(chain)]
    taken: list[list[float]] = [[] for _ in stretches]
    for _ in range(runs):
        value = unit(pictures(1))
        for stretch, times in zip(stretches, taken, strict=True):
            start = time.process_time()
            (value,) = stretch.run(None, {stretch.get_inputs()[0].name: value})
            times.append(time.process_time() - start)
    sums = np.cumsum([statistics.median(times) for times in taken])
    return [float(share) for share in sums[:-1] / sums[-1]]


# --- computing ------------------------------------------------------------------------------------------------


def whole(folder: Path, threads: int) -> None:
    """Run the whole model in one session."""
    import onnxruntime

    (path,) = segments(read(folder))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, output = session.get_inputs()[0].name, np.empty(0, np.float32)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        images = repeated(unit(pictures(8)), int(line.split()[1]))
        start = time.perf_counter()
        for image in images:
            (output,) = session.run(None, {name: image[None]})
        answer(start, output)


def answer(start: float, output: Array) -> None:
    """Print the round that has just ended."""
    print(json.dumps(asdict(Round(time.perf_counter() - start, output.ravel().tolist()))), flush=True)


async def coordinate(plan_file: Path, cluster: Path, options: SendOptions) -> None:
    """Run the coordinator of a plan's workers."""
    from cloven.cost.cluster import Cluster
    from cloven.partition.plan import parse
    from cloven.runtime.cluster.coordinator import Coordinator, Prediction

    plan = parse(plan_file.read_text("utf-8"))
    async with Coordinator(plan, Cluster.load(cluster, plan.devices), None, options) as run:

        async def answers(how: str, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
            if how == "single":
                return [await run.submit(image) for image in images]
            found = [one async for one in run.answers(images)]
            assert all(isinstance(one, Prediction) for one in found), found
            return [one for one in found if isinstance(one, Prediction)]

        assert "torch" not in sys.modules
        print(json.dumps("ready"), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            how, count = line.split()
            images = repeated(pictures(8), int(count))
            start = time.perf_counter()
            answer(start, (await answers(how, images))[-1].output)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", name, folder]:
            prepare(name, Path(folder))
        case ["whole", folder, threads]:
            whole(Path(folder), int(threads))
        case ["coordinate", plan, cluster, window, batch]:
            options = SendOptions(int(window), batch=int(batch))
            asyncio.run(coordinate(Path(plan), Path(cluster), options))
