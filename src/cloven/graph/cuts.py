"""Every possible cut of a graph between two consecutive ops, and what it carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cloven.graph.graph import Graph, Op, live_after
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

    def row(self) -> dict[str, Any]:
        """Return the cut as a row of a table."""
        total = self.macs_before + self.macs_after
        return {
            "after": self.after,
            "module": self.module,
            "tensors": [{"value": op.name, "shape": list(op.shape), "bytes": op.bytes} for op in self.tensors],
            "bytes": self.bytes,
            "macs_before": self.macs_before,
            "macs_after": self.macs_after,
            "before_percent": 100 * self.macs_before / total if total else 0.0,
        }


def cuts(graph: Graph) -> list[Cut]:
    """Return all cuts in the order of the ops: after each op but the last."""
    costs = [macs(op, graph.input_shapes(op)) for op in graph.ops]
    found, before = [], 0
    for i, op in enumerate(graph.ops[:-1]):
        before += costs[i]
        tensors = tuple(graph.by_name[value] for value in live_after(graph, i))
        found.append(Cut(op.name, op.module, tensors, before, sum(costs) - before))
    return found


def described(graph: Graph) -> list[dict[str, Any]]:
    """Return the ops as rows of a table: MACs and bytes for one image."""
    return [
        {
            "op": op.name,
            "kind": op.kind,
            "module": op.module,
            "reads": list(op.inputs),
            "shape": list(op.shape),
            "bytes": op.bytes,
            "macs": macs(op, graph.input_shapes(op)),
            "weight_bytes": op.param_bytes,
        }
        for op in graph.ops
    ]
