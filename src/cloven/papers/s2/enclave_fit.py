"""A fit to the seven times that the paper prints for a CNN inside SGX; nothing is measured.

The model of a time is a sum of four costs: a fixed one, one for each op, one for each byte of weights that exceeds
the protected memory and must be paged, and one for each multiply-accumulate. All four are non-negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.graph.ops import macs
from cloven.papers.points import resolve
from cloven.papers.s2.published import TABLE_3, PublishedRow

EPC = 93 * 2**20
"""Usable bytes of the protected memory (EPC), 128 MiB in all, of processors such as the paper's."""


@dataclass(frozen=True)
class EnclaveLoad:
    """The work of an enclave for one image: ops, bytes of weights, multiply-accumulates."""

    ops: int
    weight_bytes: int
    macs: int


@dataclass(frozen=True)
class EnclaveCost:
    """Seconds inside an enclave: fixed, per op, per byte of weights beyond ``epc`` bytes, and per MAC."""

    fixed: float
    op: float
    byte: float
    mac: float
    epc: int = EPC

    def seconds(self, load: EnclaveLoad) -> float:
        """Return the time for one image."""
        return float(np.dot((self.fixed, self.op, self.byte, self.mac), _terms(load, self.epc)))


def _terms(load: EnclaveLoad, epc: int) -> tuple[float, float, float, float]:
    return 1.0, float(load.ops), float(max(0, load.weight_bytes - epc)), float(load.macs)


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
    terms = np.array([_terms(load, epc) for load in loads])
    sizes = np.maximum(terms.max(0), 1e-300)  # bring all columns to the same scale
    parts, _ = nnls(terms / sizes, np.array(seconds, dtype=np.float64))
    fixed, op, byte, mac = (float(part) for part in parts / sizes)
    return EnclaveCost(fixed, op, byte, mac, epc)


Where = tuple[str, int | None]
"""A model, and the partition point up to which it runs in the enclave; None for the whole model."""


def published() -> dict[Where, float]:
    """Return the seven times in seconds that the paper prints (Table III, Sect. V-D3)."""
    full: dict[Where, float] = {(row.model, None): float(row.full) for row in TABLE_3}
    return {**full, **{(row.model, row.point): float(row.partitioned) for row in TABLE_3}}


def loads() -> dict[Where, EnclaveLoad]:
    """Return the work behind each of the paper's times, for an image of 224 x 224 pixels, from captured models."""
    found: dict[Where, EnclaveLoad] = {}
    wanted = list(published())
    for model in dict.fromkeys(model for model, _ in wanted):
        graph = _graph(model)
        found |= {(model, point): _load(graph, model, point) for name, point in wanted if name == model}
    return found


def _graph(model: str) -> Graph:
    """Return the graph of a model with uninitialised weights, since the counts do not depend on them."""
    import torch

    from cloven.graph.tracing import trace
    from cloven.zoo.named import make, usual

    known = usual(model)
    with torch.device("meta"), torch.no_grad():
        bare = make(model, shape=known.shape, classes=known.classes)
    return trace(bare.to_empty(device="cpu"), torch.zeros(1, *known.shape))


def _load(graph: Graph, model: str, point: int | None) -> EnclaveLoad:
    last = graph.output if point is None else graph.find(resolve(model, f"s2:{point}"))
    inside = graph.ops[1 : graph.position[last] + 1]  # the first op is the input
    work = sum(macs(op, graph.input_shapes(op)) for op in inside)
    return EnclaveLoad(len(inside), sum(op.param_bytes for op in inside), work)


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


class FittedCost(Document):
    """The fitted `EnclaveCost`, and its residuals."""

    fixed: float
    op: float
    byte: float
    mac: float
    epc: int
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


def document(found: Mapping[Where, EnclaveLoad], epc: int = EPC) -> PublishedTable:
    """Return Table III with derived numbers, and the fit with its residuals."""
    times = published()
    cost = fitted([found[where] for where in times], list(times.values()), epc)
    rows = []
    for (model, point), seconds in times.items():
        load = found[model, point]
        row = FittedTime(
            model=model,
            point=point,
            ops=load.ops,
            weight_bytes=load.weight_bytes,
            macs=load.macs,
            published_seconds=seconds,
            fitted_seconds=round(cost.seconds(load), 3),
            residual_seconds=round(seconds - cost.seconds(load), 3),
        )
        rows.append(row)
    return PublishedTable(
        rows=tuple(row.row() for row in TABLE_3),
        fit=FittedCost(**asdict(cost), rows=tuple(rows)),
        notes=NOTES,
    )
