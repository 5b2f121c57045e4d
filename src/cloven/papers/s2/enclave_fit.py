"""A fit to the seven times that the paper prints for a CNN inside SGX; nothing is measured.

The model of a time is a sum of four costs: a fixed one, one for each op, one for each byte of weights that exceeds
the protected memory and must be paged, and one for each multiply-accumulate. All four are non-negative. They make
the profile of a device, from which `cloven.estimate` computes the fitted times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cloven.cost.cluster import Cluster, ClusterDevice, ClusterLink
from cloven.cost.estimate import estimate
from cloven.cost.profile import ComputeCost, DeviceProfile, LinkProfile, MemorySize, MessageCost, read_profile
from cloven.cost.tasks import SegmentRun, Workload
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.papers.points import resolve
from cloven.papers.s2.published import TABLE_3, PublishedRow
from cloven.partition.compiler import divide
from cloven.partition.program import Program
from cloven.partition.vertical import Vertical

EPC = 93 * 2**20
"""Usable bytes of the protected memory (EPC), 128 MiB in all, of processors such as the paper's."""


@dataclass(frozen=True)
class EnclaveLoad:
    """The work of an enclave for one image: ops, bytes of weights, multiply-accumulates."""

    ops: int
    weight_bytes: int
    macs: int


def load(program: Program) -> EnclaveLoad:
    """Return the work of the first device of a program."""
    workload, enclave = Workload.of(program), program.devices[0]
    works = [
        work
        for task in workload.tasks
        if isinstance(task, SegmentRun) and task.device == enclave
        for work in task.works
    ]
    return EnclaveLoad(len(works), workload.usage[0].weight_bytes, sum(work.macs for work in works))


class EnclaveCost(Document):
    """Seconds inside an enclave: fixed, per op, per byte of weights beyond ``epc`` bytes, and per MAC."""

    fixed: float
    op: float
    byte: float
    mac: float
    epc: int = EPC

    def profile(self) -> DeviceProfile:
        """Return the profile of a device with this cost."""
        return DeviceProfile(
            name="SGX enclave of an Intel Core i7-9700K",
            compute=ComputeCost(
                origin="assumed",
                note="fitted to the seven times in Rajasekar et al. (2024), Table III and Sect. V-D3",
                segment=self.fixed,
                operator=self.op,
                macs_per_second=1 / self.mac if self.mac else None,
            ),
            messages=MessageCost(
                origin="assumed",
                note="the hand-over of 0.02 to 0.1 s (Sect. V-C) is part of the fitted times",
                send=0.0,
                receive=0.0,
                send_byte=0.0,
                receive_byte=0.0,
            ),
            memory=MemorySize(
                origin="assumed",
                note="93 of 128 MiB of protected memory are usable, all for weights; paging is fitted, too",
                worker=0,
                available=self.epc,
                paging=self.byte,
            ),
        )

    def seconds(self, program: Program) -> float:
        """Return the estimated seconds of the first device of a program on one image."""
        link = ClusterLink(read_profile(LinkProfile, "loopback", Path()))
        cluster = Cluster(dict.fromkeys(program.devices, ClusterDevice(self.profile())), default=link)
        busy = estimate(program, cluster).devices[0].busy
        assert busy is not None
        return busy


def fitted(loads: Sequence[EnclaveLoad], seconds: Sequence[float], epc: int = EPC) -> EnclaveCost:
    """Fit a cost to times by non-negative least squares.

    Args:
        loads: the work of each measurement.
        seconds: the time of each measurement.
        epc: the usable bytes of the protected memory.

    Raises:
        ClovenError: for different numbers of times and loads, no times, or a negative size of memory.
    """
    from scipy.optimize import nnls

    problems = []
    if len(loads) != len(seconds) or not loads:
        problems.append(
            f"got {len(seconds)} times for {len(loads)} loads; expected one time for each, at least one"
        )
    if epc < 0:
        problems.append(f"the protected memory must be 0 bytes or more, got {epc}")
    if problems:
        raise ClovenError(problems)
    terms = np.array(
        [(1, load.ops, max(0, load.weight_bytes - epc), load.macs) for load in loads], dtype=np.float64
    )
    sizes = np.maximum(terms.max(0), 1e-300)  # bring all columns to the same scale
    parts, _ = nnls(terms / sizes, np.array(seconds, dtype=np.float64))
    fixed, op, byte, mac = (float(part) for part in parts / sizes)
    return EnclaveCost(fixed=fixed, op=op, byte=byte, mac=mac, epc=epc)


Where = tuple[str, int | None]
"""A model, and the partition point up to which it runs in the enclave; None for the whole model."""


def published() -> dict[Where, float]:
    """Return the seven times in seconds that the paper prints (Table III, Sect. V-D3)."""
    full: dict[Where, float] = {(row.model, None): float(row.full) for row in TABLE_3}
    return {**full, **{(row.model, row.point): float(row.partitioned) for row in TABLE_3}}


def programs() -> dict[Where, Program]:
    """Return the divided model behind each of the paper's times, for an image of 224 x 224 pixels."""
    graphs = {model: bare_graph(model) for model in dict.fromkeys(model for model, _ in published())}
    return {(model, point): _divided(graphs[model], model, point) for model, point in published()}


def bare_graph(model: str) -> Graph:
    """Return the graph of a model with uninitialised weights, since the counts do not depend on them."""
    import torch

    from cloven.graph.tracing import trace
    from cloven.zoo.named import make, usual

    known = usual(model)
    with torch.device("meta"), torch.no_grad():
        bare = make(model, shape=known.shape, classes=known.classes)
    return trace(bare.to_empty(device="cpu"), torch.zeros(1, *known.shape))


def _divided(graph: Graph, model: str, point: int | None) -> Program:
    cuts = () if point is None else (resolve(model, f"s2:{point}"),)
    return divide(graph, Vertical(cuts), ("enclave", "gpu")[: 1 + len(cuts)])


NOTES = (
    "A fit of four numbers to seven times describes these times and predicts no others.",
    "The paper's times include the steps outside the enclave; the hand-over takes only 0.02 to 0.1 s of them.",
    "The time of ResNet-50 on TON_IoT is compared with its time in the enclave for ImageNet, as in the paper.",
    "The paper calls the percentage of time saved a speedup, and truncates its decimals.",
)


class FittedTime(Document):
    """A published time beside the fitted one; ``point`` is None for the whole model in the enclave."""

    model: str
    point: int | None
    ops: int
    weight_bytes: int
    macs: int
    published_seconds: float
    fitted_seconds: float
    residual_seconds: float


class FittedCost(EnclaveCost):
    """The fitted cost, and its residuals."""

    rows: tuple[FittedTime, ...]


class PublishedTable(Document):
    """The paper's Table III with derived numbers and the fit."""

    schema_version: Literal[2] = 2
    paper: Literal["s2"] = "s2"
    figure: Literal["table3"] = "table3"
    source: Literal["published"] = "published"
    rows: tuple[PublishedRow, ...]
    fit: FittedCost
    notes: tuple[str, ...]


def document(divided: Mapping[Where, Program], epc: int = EPC) -> PublishedTable:
    """Return Table III with derived numbers, and the fit with its residuals."""
    times = published()
    loads = {where: load(divided[where]) for where in times}
    cost = fitted(list(loads.values()), list(times.values()), epc)
    rows = []
    for where, seconds in times.items():
        estimated = cost.seconds(divided[where])
        row = FittedTime(
            model=where[0],
            point=where[1],
            ops=loads[where].ops,
            weight_bytes=loads[where].weight_bytes,
            macs=loads[where].macs,
            published_seconds=seconds,
            fitted_seconds=round(estimated, 3),
            residual_seconds=round(seconds - estimated, 3),
        )
        rows.append(row)
    return PublishedTable(
        rows=tuple(row.row() for row in TABLE_3),
        fit=FittedCost(**cost.model_dump(), rows=tuple(rows)),
        notes=NOTES,
    )
