"""Vertical partitioning: each device owns whole consecutive layers.

It is Fig. 1a of Mehrafrooz et al. (2025), and the division of Rajasekar et al. (2024).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import field
from itertools import accumulate, pairwise
from math import inf
from typing import Literal

from cloven.errors import ClovenError
from cloven.graph.graph import Graph, total_bytes
from cloven.graph.ops import macs
from cloven.partition.division import Owners, Placed, Placement, Stretch, everything
from cloven.partition.strategy import Names, Strategy, checked


@checked
class Vertical(Strategy):
    """Cuts after the named layers or ops, in order; k cuts make k + 1 parts.

    Without ``cuts``, there is one part for each device. The cuts then minimise the MACs of the largest part and,
    among equal solutions, the bytes that cross them.
    """

    kind: Literal["vertical"] = field(default="vertical", kw_only=True)
    cuts: Names = ()

    def title(self) -> str:
        """Return the parameters in a few words."""
        if self.on is not None and len(self.on) == 1:
            return f"one device, {self.on[0]}"
        return f"vertical, cut after {', '.join(self.cuts)}" if self.cuts else "vertical, balanced cuts"

    def count(self, devices: int | None) -> int:
        """Return the number of cuts plus one; without cuts, ``devices`` (default: 2)."""
        return len(self.cuts) + 1 if self.cuts else devices or 2

    def problems(self, stretch: Stretch) -> list[str]:
        """Return the problems: unknown layers, cuts out of order, a cut at the end, too many devices."""
        graph = stretch.graph
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
        if places and places[-1][1] == stretch.last and not stretch.ends_early:
            found.append(f"cut {places[-1][0]!r} is at the model's end and leaves nothing for the last device")
        elif any(not stretch.first - 1 <= place < stretch.last for _, place in places):
            ends = f"{stretch.ops[0].name} to {stretch.ops[-1].name}"
            found.append(f"cuts {', '.join(c for c, _ in places)}: expected them inside {ends}, not at its end")
        devices, ops = len(stretch.devices), len(stretch.ops)
        if not self.cuts and not 1 <= devices <= ops:
            found.append(f"the strategy has {devices} devices for {ops} ops; expected 1 to {ops} devices")
        return found

    def place(self, stretch: Stretch, before: Placement) -> Placed:
        """Return the owners: device i owns all values between cut i - 1 and cut i."""
        graph, devices = stretch.graph, stretch.devices
        cuts = [graph.position[graph.find(cut)] for cut in self.cuts] or balanced(stretch)
        owners: dict[str, Owners] = {}
        for i, op in enumerate(stretch.ops, start=stretch.first):
            owners[op.name] = everything(graph, op.name, devices[bisect_left(cuts, i)])
        return Placed(graph, {**before, **owners}, sink=devices[-1])


def further(graph: Graph, cuts: Sequence[str], devices: int) -> tuple[str, ...]:
    """Return the cuts, followed by balanced ones until there are ``devices`` parts.

    Raises:
        ClovenError: if the graph does not have a layer, or too few ops follow the last cut.
    """
    more = devices - len(cuts) - 1
    if more < 1 or not cuts:
        return tuple(cuts)
    rest = Stretch(graph, graph.position[graph.find(cuts[-1])] + 1, len(graph.ops) - 1, tuple(range(more + 1)))
    if len(rest.ops) <= more:
        raise ClovenError(f"{devices} devices: after {cuts[-1]} there are {len(rest.ops)} ops for {more + 1} parts")
    return (*cuts, *(graph.ops[position].name for position in balanced(rest)))


def balanced(stretch: Stretch) -> list[int]:
    """Return the positions of balanced cuts: fewest MACs in the largest part, then fewest bytes on the cuts.

    Two exact dynamic programs over the ops: the first finds the smallest bound on a part's MACs, the second the
    fewest bytes under that bound.
    """
    graph, devices, ops = stretch.graph, len(stretch.devices), stretch.ops
    carried = [total_bytes(graph, graph.live[stretch.first + i]) for i in range(len(ops))]
    # sums[p] are the MACs of the first p ops.
    sums = [0, *accumulate(macs(op, graph.input_shapes(op)) for op in ops)]
    last = len(ops)
    slowest = [float(total) for total in sums]
    for parts in range(2, devices + 1):
        before, slowest = slowest, []
        for p in range(last + 1):
            found = (max(before[q], sums[p] - sums[q]) for q in range(parts - 1, p))
            slowest.append(min(found, default=inf))
    bound = slowest[last]
    best: list[tuple[float, list[int]]] = [
        (0.0, []) if p and sums[p] <= bound else (inf, []) for p in range(last + 1)
    ]
    for parts in range(2, devices + 1):
        shorter, best = best, []
        for p in range(last + 1):
            under = (q for q in range(parts - 1, p) if sums[p] - sums[q] <= bound)
            cuts = ((shorter[q][0] + carried[q - 1], [*shorter[q][1], q]) for q in under)
            best.append(min(cuts, default=(inf, [])))
    return [stretch.first + q - 1 for q in best[last][1]]
