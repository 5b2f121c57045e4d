"""Execute a plan in the laboratory, and measure the devices and links of the laboratory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cost_settings import Model, Surroundings, calibration, captured
from benchmarks.processes import busy_seconds, process_seconds
from cloven.cost.profile import LinkProfile, MessageCost, Transmission
from cloven.documents import Document
from cloven.partition import plan as plans
from cloven.partition.plan import ModelSpec, Plan
from cloven.partition.program import Program
from cloven.partition.vertical import Vertical
from cloven.process_memory import resident
from cloven.runtime import caches
from cloven.runtime.bundle.format import DevicePart
from cloven.runtime.bundle.reader import read, read_manifest
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.cluster.sending import SendSummary
from cloven.runtime.lab import laboratory
from cloven.runtime.lab.lab_folder import BUNDLE
from cloven.runtime.lab.laboratory import Experiment

IMAGES, FEWER = 15, 7
"""The number of images that a plan runs; of plans that take longer than `LONG` seconds for one, fewer."""

LONG = 0.1

LAYERS, SIDES = 5, (8, 148)
"""The layers of the model with which messages are measured, and the sides of its images: 0.8 and 263 kB."""


class WorkerMemory(Document):
    """The largest resident memory of a device's worker, in bytes, and the one after the last image."""

    device: str
    peak: int
    after: int


class Execution(Document):
    """An execution of a plan; ``others`` is the number of cores that other processes kept busy meanwhile."""

    summary: SendSummary
    memory: tuple[WorkerMemory, ...]
    others: float

    @property
    def latency(self) -> float:
        """The median latency in seconds."""
        return self.summary.latency.median_ms / 1000


def executed(plan: Plan, program: Program, around: Surroundings, folder: Path, estimated: float) -> Execution:
    """Run images through a plan in the laboratory, one at a time."""
    count = IMAGES if estimated < LONG else FEWER
    pixels = np.random.default_rng(0).integers(0, 256, (count, *plan.named_model.input), dtype=np.uint8)
    speeds = {
        name: speed for name, speed in zip(around.devices, around.speeds, strict=True) if name in plan.devices
    }
    experiment = Experiment(
        plan=plan,
        program=program,
        pixels=pixels,
        auxiliary=0,
        folder=folder,
        bandwidth=around.bandwidth,
        delay=around.delay,
        speeds=speeds,
        window=1,
    )
    with laboratory.system(experiment) as net:
        workers = dict(zip((d.name for d in read_manifest(folder / BUNDLE).devices), net.started, strict=False))
        start, busy, used = time.perf_counter(), busy_seconds(), _used(workers.values())
        outcome = laboratory.send(experiment, net)
        used = _used(workers.values()) - used
        others = max(0.0, busy_seconds() - busy - used) / (time.perf_counter() - start)
        memory = tuple(_memory(name, process.pid) for name, process in workers.items())
    if outcome.summary.failed:
        raise SystemExit(f"{plan.title()}: {outcome.summary.failed[0].reason}")
    return Execution(summary=outcome.summary, memory=memory, others=round(others, 3))


def _used(workers: Iterable[subprocess.Popen[Any]]) -> float:
    """Return the CPU seconds of this process, of workers, and of all processes that have ended."""
    return sum(os.times()[:4]) + sum(process_seconds(worker.pid) for worker in workers)


def _memory(device: str, pid: int) -> WorkerMemory:
    found = resident(str(pid))
    return WorkerMemory(device=device, peak=found.most, after=found.now)


def parts(model: Model, bundles: Path) -> list[tuple[DevicePart, Path]]:
    """Return the parts of a few divisions of a model; they are written once."""
    found = []
    for name, strategies, devices in calibration():
        folder = bundles / name
        if not folder.exists():
            plan = Plan(model=model.spec, strategy=strategies, devices=[f"edge{i}" for i in range(devices)])
            write(plans.compile(captured(model), plan), folder, model=model.name, plan=plan.toml())
        bundle = read(folder)
        found += [(part, bundle.place(device)) for device, part in bundle.parts.items()]
    return found


class HopTimes(Document):
    """The seconds from the result of a segment to the start of the next one on another device, by message size."""

    small_bytes: int
    small: float
    large_bytes: int
    large: float


class Filling(torch.nn.Module):
    """A layer with few computations, whose weights fill the caches of a core as far as those of a model do."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        width = max(1, weights // 24)  # two matrices of 3 float32 numbers for each
        self.wide = torch.nn.Linear(3, width)
        self.narrow = torch.nn.Linear(width, 3)
        self.last = torch.nn.Conv2d(3, 3, 1, groups=3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of the same shape."""
        gate = self.narrow(self.wide(images.mean((2, 3))))
        result: torch.Tensor = self.last(images + gate[:, :, None, None])
        return result


def hops(around: Surroundings, weights: int, folder: Path) -> HopTimes:
    """Measure messages between workers in the laboratory, with a model that two devices compute in turn.

    Each of its layers has as many bytes of weights as the whole of another model, ``weights``, at most 4 MB.
    The model has hardly anything to compute. Its time that no segment takes is divided among its messages, those
    of the coordinator included.
    """
    sizes, times = [], []
    for side in SIDES:
        plan, program = _in_turn(side, min(weights, caches.BYTES))
        found = executed(plan, program, around, folder, 0.0)
        computing = sum(device.compute_ms for device in found.summary.devices) / 1000
        sizes.append(program.graph.input.bytes)
        times.append(found.latency - computing)
    shutil.rmtree(folder)
    small = times[0] / (LAYERS + 1)
    large = (times[1] - small) / LAYERS  # the answer is small
    return HopTimes(small_bytes=sizes[0], small=small, large_bytes=sizes[1], large=large)


def _in_turn(side: int, weights: int) -> tuple[Plan, Program]:
    """Return a plan for images of ``(3, side, side)`` whose layers are on two devices in turn."""
    torch.manual_seed(0)
    layers = [Filling(weights) for _ in range(LAYERS)]
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    graph = capture(torch.nn.Sequential(*layers, *head).eval(), torch.zeros(1, 3, side, side))
    stages = [Vertical(until=f"{i}.last", on=(f"edge{i % 2}",)) for i in range(LAYERS - 1)]
    plan = Plan(
        model=ModelSpec(name="layers in turn", input=(3, side, side), classes=3),
        strategy=(*stages, Vertical(on=(f"edge{(LAYERS - 1) % 2}",))),
        devices=("edge0", "edge1"),
    )
    return plan, plans.compile(graph, plan)


def message_cost(hop: HopTimes) -> MessageCost:
    """Return the cost of messages on unlimited links; each end has half of it."""
    message, byte = _line(hop)
    return MessageCost(
        origin="measured",
        note="between workers in the laboratory, half of the time for each end",
        send=message / 2,
        receive=message / 2,
        send_byte=byte / 2,
        receive_byte=byte / 2,
    )


def link(unlimited: HopTimes, limited: HopTimes) -> LinkProfile:
    """Return the profile of a link: the time of a message beyond that on an unlimited link."""
    (message, byte), (longer, byte_longer) = _line(unlimited), _line(limited)
    return LinkProfile(
        name="a link of the laboratory",
        transmission=Transmission(
            origin="measured",
            note="between workers in the laboratory, beyond the time on an unlimited link",
            bandwidth=8 / max(byte_longer - byte, 1e-11),
            delay=max(0.0, longer - message),
        ),
    )


def _line(hop: HopTimes) -> tuple[float, float]:
    """Return the seconds of a message and of a byte."""
    byte = max(0.0, (hop.large - hop.small) / (hop.large_bytes - hop.small_bytes))
    return hop.small - byte * hop.small_bytes, byte
