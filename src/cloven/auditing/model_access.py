"""The attacker's access to the model: queries, and, for an attacker who has the weights, its front and rear."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from cloven.attacks.knowledge import Front, Query, QueryResult, Rear, finite
from cloven.auditing.captured import Capture, Observed
from cloven.auditing.features import Shares
from cloven.auditing.material import Material
from cloven.graph.box import extent, slices
from cloven.partition.determine import ops_behind
from cloven.runtime.torch_engine import apply, evaluate, forward, prepared


def front_of(observed: Observed, captured: Shares) -> Front | None:
    """Return the model up to the observed values, in the shapes in which they are captured; None for a capture."""
    if isinstance(observed, Capture) or not observed.seen:
        return None
    compute = cache(lambda: forward(observed.graph, {s.value for s in observed.seen}))
    shares = [(s.value, slices(s.share), part) for s, part in zip(observed.seen, captured.parts, strict=True)]

    def front(images: Tensor) -> list[Tensor]:
        made = compute()(images)
        return [part.read(made[value][box]) for value, box, part in shares]

    return front


def rear_of(observed: Observed, captured: Shares) -> Rear | None:
    """Return the model from the observed values on; None if they do not determine the model's output."""
    if isinstance(observed, Capture) or not observed.seen:
        return None
    graph, steps = observed.graph, ops_behind(observed)
    if steps is None:
        return None
    compute = cache(lambda: [prepared(graph, op, torch.float32) for op in graph.ops if op.name in steps])

    def rear(tensors: Sequence[Tensor]) -> Tensor:
        values: dict[str, Tensor] = {}
        for s, part, z in zip(observed.seen, captured.parts, tensors, strict=True):
            if s.value not in values:
                values[s.value] = z.new_zeros(len(z), *graph.by_name[s.value].shape)
            values[s.value][slices(s.share)] = part.unread(z, extent(s.share))
        for name, local, inputs, params in compute():
            values[name] = apply(local, [values[i] for i in inputs], params)
        return values[graph.output]

    return rear


def query_of(observed: Observed, captured: Shares, material: Material, recorded: str) -> Query | None:
    """Return the running service as a function that the attacker can query; None for a recorded observation."""
    if isinstance(observed, Capture) or recorded or not observed.seen:
        return None

    def query(images: Tensor) -> QueryResult:
        values = evaluate(observed.graph, images, {s.value for s in observed.seen})
        tensors = []
        for s, part in zip(observed.seen, captured.parts, strict=True):
            share = values[s.value][slices(s.share)]
            tensors.append(part.read(material.features.rounded(finite(share)).float()))
        return QueryResult(tensors, material.classifier.classify(images))

    return query
