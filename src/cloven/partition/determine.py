"""Which observations follow from which: what the graph can compute from what was seen, no listener can miss."""

from __future__ import annotations

from cloven.graph.box import Box, covers, whole
from cloven.graph.ops import KINDS
from cloven.partition.observe import Observation


def determines(shallow: Observation, deep: Observation) -> bool:
    """Return whether all of ``deep`` can be computed from ``shallow`` alone, by the model's own ops.

    By the data-processing inequality ``deep`` then holds nothing about the image that ``shallow`` does not. True
    where every path from the image to what is seen at ``deep`` passes through what is seen at ``shallow``, box by
    box. What was seen through a transform determines nothing.
    """
    held: dict[str, list[Box]] = {}
    for seen in shallow.seen:
        if seen.transform.exact:
            held.setdefault(shallow.graph.fingerprints[seen.value], []).append(seen.share)
    graph = deep.graph
    wanted: dict[str, set[Box]] = {}
    for seen in deep.seen:
        wanted.setdefault(seen.value, set()).add(seen.share)
    for op in reversed(graph.ops):
        known = held.get(graph.fingerprints[op.name], [])
        for box in wanted.get(op.name, ()):
            if covers(known, box):
                continue
            if not op.inputs:
                return False
            needs = KINDS[op.kind].needs(op, graph.input_shapes(op), box)
            for name, need in zip(op.inputs, needs, strict=True):
                if need is not None:
                    wanted.setdefault(name, set()).add(need)
    return True


def ops_behind(observation: Observation) -> frozenset[str] | None:
    """Return the names of the ops that compute the model's output from what is seen.

    None where that does not suffice: of some value that they need only a part is seen, or nothing.
    """
    graph = observation.graph
    boxes: dict[str, list[Box]] = {}
    for seen in observation.seen:
        boxes.setdefault(seen.value, []).append(seen.share)
    known = {value for value, shares in boxes.items() if covers(shares, whole(graph.by_name[value].shape))}
    wanted = {graph.output} - known
    for op in reversed(graph.ops):
        if op.name in wanted:
            wanted.update(name for name in op.inputs if name not in known)
    return None if graph.input.name in wanted else frozenset(wanted)
