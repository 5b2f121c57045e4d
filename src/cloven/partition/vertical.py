"""Vertical partitioning (S1 Fig. 1a, S2): each device owns the whole of a run of consecutive layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cloven.errors import ClovenError
from cloven.graph.graph import Graph, live_after, total_bytes
from cloven.graph.ops import macs
from cloven.partition.division import Division, everything


@dataclass(frozen=True)
class Vertical:
    """Cuts after the named layers or ops, in order; k cuts make k + 1 parts.

    Without cuts, as many as the devices ask for are placed where the slowest part has the fewest MACs; among
    those, where the cuts carry the fewest bytes.
    """

    cuts: tuple[str, ...] | list[str] = ()

    def count(self, devices: int | None) -> int:
        """One device more than there are cuts; without cuts, as many as asked for (2 if left open)."""
        return len(self.cuts) + 1 if self.cuts else devices or 2

    def problems(self, graph: Graph, devices: int) -> list[str]:
        """Unknown layers, cuts out of order or twice, a cut that leaves nothing behind it, too many devices."""
        found: list[str] = []
        places: list[tuple[str, int]] = []
        for cut in self.cuts:
            try:
                places.append((cut, graph.position[graph.find(cut)]))
            except ClovenError as error:
                found += error.problems
        for (before, a), (after, b) in pairwise(places):
            if a >= b:
                found.append(f"cut {after!r} does not come after cut {before!r}; give cuts in the model's order")
        if places and places[-1][1] == len(graph.ops) - 1:
            found.append(f"cut {places[-1][0]!r} is the model's end; nothing is left for the last device")
        if not self.cuts and not 1 <= devices <= len(graph.ops) - 1:
            found.append(f"{devices} devices for {len(graph.ops) - 1} ops; expected 1 to {len(graph.ops) - 1}")
        return found

    def divide(self, graph: Graph, devices: int) -> Division:
        """Device i owns all values between cut i - 1 and cut i; the image belongs to the first device."""
        cuts = [graph.position[graph.find(cut)] for cut in self.cuts] or balanced(graph, devices)
        owners = {
            op.name: everything(graph, op.name, sum(cut < i for cut in cuts)) for i, op in enumerate(graph.ops)
        }
        return Division(graph, owners, devices, sink=devices - 1)


def balanced(graph: Graph, devices: int) -> list[int]:
    """The positions of ``devices - 1`` cuts: least MACs in the slowest part, then fewest bytes on the cuts.

    Two exact dynamic programmes over the order of the ops: the first finds the least bound on a part's MACs,
    the second the fewest bytes under that bound.
    """
    cost = [macs(op, graph.input_shapes(op)) for op in graph.ops]
    carried = [total_bytes(graph, live_after(graph, i)) for i in range(len(graph.ops))]
    sums = [0]
    for value in cost:
        sums.append(sums[-1] + value)
    last = len(graph.ops) - 1
    # best[p] = (MACs of the slowest part, ...) of ops 1..p in k parts
    slowest = [float(sums[p + 1]) for p in range(last + 1)]
    for parts in range(2, devices + 1):
        slowest = [
            min(
                (max(slowest[q], sums[p + 1] - sums[q + 1]) for q in range(parts - 1, p)),
                default=float("inf"),
            )
            for p in range(last + 1)
        ]
    bound = slowest[last]
    best: list[tuple[float, list[int]]] = [
        (0.0, []) if p and sums[p + 1] <= bound else (float("inf"), []) for p in range(last + 1)
    ]
    for parts in range(2, devices + 1):
        best = [
            min(
                (
                    (best[q][0] + carried[q], [*best[q][1], q])
                    for q in range(parts - 1, p)
                    if sums[p + 1] - sums[q + 1] <= bound
                ),
                default=(float("inf"), []),
            )
            for p in range(last + 1)
        ]
    return best[last][1]
