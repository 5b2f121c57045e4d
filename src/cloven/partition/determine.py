"""Relations between observations: one follows from another if the model's ops can compute it from that one."""

from __future__ import annotations

from cloven.graph.box import Box, covers, whole
from cloven.graph.ops import KINDS
from cloven.partition.observe import Observation


def determines(shallow: Observation, deep: Observation) -> bool:
    """Return whether all of ``deep`` can be computed from ``shallow`` alone, with the model's own ops.

    By the data-processing inequality, ``deep`` then contains no information about the image that ``shallow`` does
    not. This is the case if every path from the image to ``deep`` passes through ``shallow``, box by box. A share
    that was sent through a transform determines nothing.
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
    """Return the names of the ops that compute the model's output from an observation.

    Returns None if the observation is not enough, because a value that they need is seen in part or not at all.
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
