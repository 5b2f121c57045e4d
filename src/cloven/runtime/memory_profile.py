"""Measure the memory of a worker on this machine: without a model, for the segments of models, and for messages.

`serve` and `load` run in processes of their own, which have loaded the same modules as a worker.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from cloven.cost.cluster import Cluster, ClusterDevice
from cloven.cost.profile import MemorySize
from cloven.errors import ClovenError
from cloven.graph.box import extent, whole
from cloven.partition.plan import ModelSpec, Plan
from cloven.partition.program import BYTES
from cloven.partition.vertical import Vertical
from cloven.process_memory import forget_most, resident, returning_freed
from cloven.runtime.bundle.engine import session
from cloven.runtime.bundle.format import (
    MANIFEST,
    PART,
    DeviceFolder,
    DevicePart,
    Manifest,
    NumericalCheck,
    ReceiveShare,
    RunSegment,
    SendShare,
    SentImage,
    Step,
)
from cloven.runtime.bundle.reader import digest, read_device
from cloven.runtime.cluster import logs, worker
from cloven.runtime.cluster.coordinator import Coordinator
from cloven.runtime.cluster.send_options import SendOptions

SMALL, LARGE = 16, 512
"""The sides of two images, of 1 KB and 1 MB, that workers without a model receive and send on."""

IMAGES = 20
"""The number of images."""

STARTING = 30.0
"""Seconds within which a worker must have started."""


class LoadedSegment(NamedTuple):
    """A segment that was loaded: its operators, the memory of its weights, and the bytes that it took.

    ``weight_bytes`` and ``loading_bytes`` are as in `RunSegment`. ``held`` is what the process holds afterwards,
    and ``more`` what it held in addition while it loaded the segment.
    """

    operators: int
    weight_bytes: int
    loading_bytes: int
    held: int
    more: int


class PartMemory(NamedTuple):
    """The segments of a part; the bytes of the process before it loaded them, and of the code that they run."""

    segments: list[LoadedSegment]
    starting: int
    code: int


def measured(folders: Sequence[Path]) -> MemorySize | None:
    """Measure the memory of workers, and return None if the system does not report it.

    Args:
        folders: the folders of devices in bundles; what their segments take is measured.
    """
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        alone, linked, large = _worker(SMALL, 1), _worker(SMALL, 2), _worker(LARGE, 1)
        loaded = [_loaded(folder) for folder in folders]
    except (OSError, subprocess.CalledProcessError):
        return None
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    segments = [segment for part in loaded for segment in part.segments]
    held = [(s.weight_bytes, s.operators, 1.0) for s in segments if s.held > 0]
    weights, operator, segment = _not_negative(held, [s.held for s in segments if s.held > 0])
    loading = sum(s.loading_bytes for s in segments)
    return MemorySize(
        origin="measured",
        note="resident memory; all memory of the machine",
        worker=round(alone + median(part.code for part in loaded)),
        starting=round(median(part.starting for part in loaded)),
        weights=round(max(1.0, weights), 3),
        segment=round(segment),
        operator=round(operator),
        loading=round(sum(max(0, s.more) for s in segments) / loading, 3) if loading else 0.0,
        link=max(0, linked - alone),
        message=round(max(0.0, (large - alone) / (2 * 4 * (LARGE**2 - SMALL**2))), 3),  # received and sent
        available=1024 * total,
    )


def _not_negative(terms: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Return the factors of the terms, none of them negative, whose sums are nearest to the values.

    Squared errors are divided by the values: if there is only one term, its sum over all values is exact.
    """
    scale = np.sqrt(values)
    matrix, scaled = np.array(terms, np.float64) / scale[:, None], np.array(values) / scale
    number = matrix.shape[1]
    best, least = np.zeros(number), math.inf
    for size in range(1, number + 1):
        for chosen in combinations(range(number), size):
            factors = np.zeros(number)
            factors[list(chosen)] = np.linalg.lstsq(matrix[:, chosen], scaled)[0]
            error = float(np.sum((matrix @ factors - scaled) ** 2))
            if (factors >= 0).all() and error < least:
                best, least = factors, error
    return [float(factor) for factor in best]


# --- a worker without a model ---------------------------------------------------------------------------------


def _worker(side: int, devices: int) -> int:
    """Return the most resident memory of a worker that receives images and sends them on.

    The images are of shape ``(1, side, side)``. With two devices, it sends them to the second one.
    """
    spec = ModelSpec(name="the image itself", input=(1, side, side), classes=side * side)
    plan = Plan(model=spec, strategy=(Vertical(),), devices=("first", "second")[:devices])
    image = np.zeros(spec.input, np.float32)

    async def run(addresses: Sequence[str]) -> None:
        workers = {name: ClusterDevice(address=a) for name, a in zip(plan.devices, addresses, strict=True)}
        cluster = Cluster(workers, insecure=True)
        async with Coordinator(plan, cluster, None, SendOptions(window=1)) as coordinator:
            for _ in range(IMAGES):
                await coordinator.submit(image)

    with TemporaryDirectory() as folder, ExitStack() as stack:
        _write_bundle(Path(folder), plan)
        started = [stack.enter_context(_started(Path(folder) / name)) for name in plan.devices]
        asyncio.run(run([address for _, address in started]))
        return resident(str(started[0][0].pid)).most


def _write_bundle(folder: Path, plan: Plan) -> None:
    """Write the bundle of a plan whose output is the image: its devices run no segments."""
    spec = plan.named_model
    image = SentImage(value="image", shape=spec.input)
    share: dict[str, Any] = {
        "step": 0,
        "transfer": 0,
        "message": 0,
        "value": "image",
        "share": whole(spec.input),
        "shape": spec.input,
        "bytes": BYTES * prod(spec.input),
    }
    parts = {}
    for number, device in enumerate(plan.devices):
        first, last = number == 0, number == len(plan.devices) - 1
        steps: list[Step] = []
        if not first:
            steps.append(ReceiveShare(source=plan.devices[0], **share))
        if not last:
            steps.append(SendShare(target=plan.devices[1], **share))
        part = DevicePart(
            device=device,
            model=spec.name,
            image=image if first else None,
            output=image if last else None,
            steps=tuple(steps),
        )
        parts[device] = folder / device / PART
        parts[device].parent.mkdir()
        parts[device].write_text(part.text(), "utf-8")
    manifest = Manifest(
        model=spec.name,
        plan=plan.toml(),
        exact=True,
        image=spec.input,
        output=spec.input,
        devices=tuple(DeviceFolder(name=device, folder=device) for device in parts),
        made_with={},
        check=NumericalCheck(images=0, largest_difference=0.0, tolerance=0.0),
        files={f"{device}/{PART}": digest(path) for device, path in parts.items()},
    )
    (folder / MANIFEST).write_text(manifest.text(), "utf-8")


def _calling(function: str, folder: Path) -> list[str]:
    """Return the command of a process that calls a function of this module with a device's folder."""
    code = f"import sys, cloven.cli.application\nfrom {__name__} import {function}\n{function}(sys.argv[1])"
    return [sys.executable, "-P", "-c", code, str(folder)]


@contextmanager
def _started(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the worker of a device's folder for the duration of the block; yield its process and its address."""
    log = folder.parent / f"{folder.name}.log"
    command = _calling("serve", folder)
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)  # noqa: S603 (ours)
    try:
        until = time.monotonic() + STARTING
        while (ready := re.search(r'"listen": "([^"]+)"', log.read_text("utf-8"))) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise ClovenError(f"a worker did not start: {log.read_text('utf-8').strip()}")
            time.sleep(0.02)
        yield process, ready[1]
    finally:
        process.terminate()
        process.wait()


def serve(folder: str) -> None:
    """Run a worker, as `cloven worker` does, after this process has computed something."""
    _compute_something()
    logs.to_stderr()
    bundle = worker.load(Path(folder), None)
    (device,) = bundle.parts
    asyncio.run(worker.serve(device, [bundle], None, worker.Addresses(("127.0.0.1", 0)), tls=False))


def _compute_something() -> None:
    """Let onnxruntime load and run a small model."""
    import onnxruntime.datasets

    small = session(Path(onnxruntime.datasets.get_example("mul_1.onnx")))
    given = small.get_inputs()[0]
    small.run(None, {given.name: np.zeros(given.shape, np.float32)})


# --- segments -------------------------------------------------------------------------------------------------


def _loaded(folder: Path) -> PartMemory:
    """Load a part in another process."""
    done = subprocess.run(_calling("load", folder), capture_output=True, text=True, check=True)  # noqa: S603 (ours)
    found = json.loads(done.stdout)
    return PartMemory([LoadedSegment(*row) for row in found["segments"]], found["starting"], found["code"])


def load(folder: str) -> None:
    """Load the segments of a part, run each once, and print what they took."""
    _compute_something()
    segments, sessions = [], []
    with returning_freed():
        start = resident()
        steps = [step for step in read_device(Path(folder))[1].steps if isinstance(step, RunSegment)]
        for step in steps:
            before = resident().now
            forget_most()
            sessions.append(session(Path(folder) / step.segment))
            after = resident()
            counted = len(step.operators), step.weight_bytes or 0, step.loading_bytes or 0
            segments.append(LoadedSegment(*counted, after.now - before, after.most - after.now))
    for step, loaded in zip(steps, sessions, strict=True):
        loaded.run(None, {piece.name: np.zeros((1, *extent(piece.box)), np.float32) for piece in step.inputs})
    code = resident().files - start.files
    print(json.dumps({"segments": segments, "starting": start.now, "code": code}))  # noqa: T201
