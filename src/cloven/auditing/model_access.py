"""The attacker's access to the model: queries as a user; its front and rear for an attacker with the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from cloven.attacks.knowledge import Front, Query, QueryResult, Rear, finite
from cloven.auditing.captured import Capture, Observed
from cloven.auditing.features import Shares
from cloven.auditing.material import Material
from cloven.graph.box import slices, whole
from cloven.graph.graph import Graph
from cloven.runtime.torch_engine import apply, evaluate, forward, prepared


def front_of(observed: Observed, captured: Shares) -> Front | None:
    """Return the model up to what is observed, in the shapes in which it is captured; None of a recording."""
    if isinstance(observed, Capture) or not observed.seen:
        return None
    compute = cache(lambda: forward(observed.graph, {s.value for s in observed.seen}))
    shares = [(s.value, slices(s.share), part) for s, part in zip(observed.seen, captured.parts, strict=True)]

    def front(images: Tensor) -> list[Tensor]:
        made = compute()(images)
        return [part.read(made[value][box]) for value, box, part in shares]

    return front


def rear_of(observed: Observed, captured: Shares) -> Rear | None:
    """Return the model behind what is observed; None where that is not enough to compute the model's output."""
    if isinstance(observed, Capture) or not observed.seen:
        return None
    graph, known = observed.graph, {s.value for s in observed.seen}
    wanted = {graph.output}
    for op in reversed(graph.ops):
        if op.name in wanted - known:
            wanted.update(op.inputs)
    partial = any(s.share != whole(graph.by_name[s.value].shape) for s in observed.seen)
    if partial or graph.input.name in wanted - known:
        return None
    compute = cache(lambda: _from_values(graph, known, wanted))

    def rear(tensors: Sequence[Tensor]) -> Tensor:
        given = zip(observed.seen, captured.parts, tensors, strict=True)
        return compute()({s.value: part.unread(z, graph.by_name[s.value].shape) for s, part, z in given})

    return rear


def _from_values(graph: Graph, known: set[str], wanted: set[str]) -> Callable[[dict[str, Tensor]], Tensor]:
    """Return the function from known values of a graph to its output, by way of the wanted ones."""
    steps = [prepared(graph, op, torch.float32) for op in graph.ops if op.name in wanted - known]

    def compute(values: dict[str, Tensor]) -> Tensor:
        values = dict(values)
        for name, local, inputs, params in steps:
            values[name] = apply(local, [values[i] for i in inputs], params)
        return values[graph.output]

    return compute


def query_of(observed: Observed, captured: Shares, material: Material, recorded: str) -> Query | None:
    """Return the running service as an attacker can ask it; None where what is observed was recorded beforehand."""
    if isinstance(observed, Capture) or recorded or not observed.seen:
        return None

    def query(images: Tensor) -> QueryResult:
        values = evaluate(observed.graph, images, {s.value for s in observed.seen})
        tensors = []
        for s, part in zip(observed.seen, captured.parts, strict=True):
            share = values[s.value][slices(s.share)]
            tensors.append(part.read(material.features.rounded(finite(share)).float()))
        return QueryResult(tensors, material.classify(images))

    return query
