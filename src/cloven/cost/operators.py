"""The time of an operator: measured, or predicted by a regression over operators of its family."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from statistics import median
from typing import NamedTuple

import numpy as np

from cloven.cost.profile import ComputeCost, OperatorTime
from cloven.graph.box import Box, count
from cloven.graph.graph import SIZES, Graph, Op
from cloven.graph.ops import ANCHORS, Shapes, piece
from cloven.remembered import remembered

FEWEST = 4
"""The minimum size of a family for its own fit; smaller families use all operators of the profile."""


class Work(NamedTuple):
    """The work of an operator for one image: multiply-accumulates, and the bytes that it reads and writes."""

    family: str
    macs: int
    bytes: int


@remembered
def work(graph: Graph, value: str, box: Box) -> Work:
    """Return the work of computing a box; the bytes are those of its inputs, its weights and its output."""
    op = graph.by_name[value]
    types = tuple([graph.by_name[source].dtype for source in op.inputs])
    return _work(op, graph.input_shapes(op), types, _follows_convolution(graph, op), box)


@remembered
def _work(op: Op, shapes: Shapes, types: tuple[str, ...], follows: bool, box: Box) -> Work:
    """Return the work, given what it depends on: so it serves in all rewritten graphs that contain the op."""
    reads, local, macs = piece(op, shapes, box)
    sizes = {source: SIZES[dtype] for source, dtype in zip(op.inputs, types, strict=True)}
    moved = SIZES[op.dtype] * count(box) + local.param_bytes
    moved += sum(sizes[source] * count(need) for source, need in reads)
    return Work(_family(op, fused=follows and not macs), macs, moved)


def _family(op: Op, *, fused: bool) -> str:
    """Return the family of a computation: its kind, a convolution's geometry, and whether it can be fused.

    onnxruntime fuses an activation with the convolution before it if nothing else reads that convolution, so such
    activations are a separate family.
    """
    name = str(op.attrs.get("op", op.kind))
    if "kernel" in op.attrs:
        name += " " + "x".join(map(str, op.attrs["kernel"]))
    if int(op.attrs.get("groups", 1)) > 1:
        name += " depthwise" if op.attrs["groups"] == op.shape[0] else " grouped"
    if max(op.attrs.get("stride", (1,)), default=1) > 1:
        name += " strided"
    return f"{name} after conv" if fused else name


def _follows_convolution(graph: Graph, op: Op) -> bool:
    """Return whether an op and a convolution or linear layer before it are a chain that nothing else reads."""
    while len(op.inputs) == 1 and graph.users[op.inputs[0]] == (op.name,):
        op = graph.by_name[op.inputs[0]]
        if op.kind in ANCHORS:
            return True
    return False


class OperatorTimes:
    """Predicts the seconds of operators from a profile's table, or from the same speed for all operators.

    An operator that was measured has its measured time. Others are predicted by a least-squares fit of relative
    errors with coefficients that are not negative: seconds = a x macs + b x bytes + c, for each family, and over
    all operators for families with fewer than four.
    """

    def __init__(self, cost: ComputeCost) -> None:
        self.cost = cost
        self.families: dict[str, list[OperatorTime]] = defaultdict(list)
        for row in cost.operators:
            self.families[row.family].append(row)
        self.fits: dict[str, tuple[float, float, float]] = {}
        measured: dict[Work, list[float]] = defaultdict(list)
        for row in cost.operators:
            measured[Work(row.family, row.macs, row.bytes)].append(row.seconds)
        self.measured: dict[Work, float] = {what: median(seconds) for what, seconds in measured.items()}
        self.known = dict(self.measured)

    @cached_property
    def over_all(self) -> tuple[float, float, float]:
        """The fit over all operators."""
        return fitted(self.cost.operators)

    def uncovered(self, works: Iterable[Work]) -> list[str]:
        """Return the families of operators whose times are not known from their own family."""
        return list(dict.fromkeys(what.family for what in works if not self.covers(what)))

    def total(self, works: Iterable[Work]) -> float:
        """Return the seconds of several operators on one image."""
        return sum(map(self.seconds, works))

    def covers(self, what: Work) -> bool:
        """Return whether the time of an operator is known from its own family."""
        return not self.cost.operators or what in self.measured or len(self.families.get(what.family, ())) >= FEWEST

    def seconds(self, what: Work) -> float:
        """Return the seconds of an operator on one image."""
        if not self.cost.operators:
            rate = self.cost.macs_per_second
            return (self.cost.operator or 0.0) + (0.0 if rate is None else what.macs / rate)
        if what not in self.known:
            rows = self.families.get(what.family, [])
            if what.family not in self.fits:
                self.fits[what.family] = fitted(rows) if len(rows) >= FEWEST else self.over_all
            a, b, c = self.fits[what.family]
            self.known[what] = a * what.macs + b * what.bytes + c
        return self.known[what]


def fitted(rows: Sequence[OperatorTime]) -> tuple[float, float, float]:
    """Return the non-negative seconds per multiply-accumulate, byte and operator that fit the rows best."""
    from scipy.optimize import nnls

    taken = [row for row in rows if row.seconds > 0]
    if not taken:
        return 0.0, 0.0, 0.0
    terms = np.array([(row.macs, row.bytes, 1.0) for row in taken])
    terms /= np.array([row.seconds for row in taken])[:, None]  # relative errors weigh all operators equally
    sizes = np.maximum(terms.max(axis=0), 1e-300)  # scale the columns to similar size for the solver
    parts, _ = nnls(terms / sizes, np.ones(len(taken)))
    a, b, c = (float(part) for part in parts / sizes)
    return a, b, c
