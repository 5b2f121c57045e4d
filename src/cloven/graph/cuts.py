"""Every possible cut of a graph between two consecutive ops, and the tensors that cross it."""

from __future__ import annotations

from dataclasses import dataclass

from cloven.graph.graph import Graph, Op
from cloven.graph.ops import macs


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut after an op: the set of tensors that cross it, and the MACs on both sides, for one image."""

    after: str
    module: str
    tensors: tuple[Op, ...]
    macs_before: int
    macs_after: int

    @property
    def bytes(self) -> int:
        """Bytes that cross for one image."""
        return sum(op.bytes for op in self.tensors)


def cuts(graph: Graph) -> list[Cut]:
    """Return the cut after each op except the last, in order."""
    costs = [macs(op, graph.input_shapes(op)) for op in graph.ops]
    found, before = [], 0
    for i, op in enumerate(graph.ops[:-1]):
        before += costs[i]
        tensors = tuple(graph.by_name[value] for value in graph.live[i])
        found.append(Cut(op.name, op.module, tensors, before, sum(costs) - before))
    return found
