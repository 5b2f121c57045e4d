"""Replace activations and additions by in-place versions where nothing else reads their input.

Whole models do the same (``inplace=True``, ``+=``). It saves memory traffic, and does not change the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cloven.graph.graph import Graph
from cloven.partition.program import Compute, Send, Step

_ACTIVATIONS = "relu hardtanh silu hardswish sigmoid hardsigmoid leaky_relu elu".split()

IN_PLACE = {"aten.add.Tensor": "aten.add_.Tensor"} | {
    f"aten.{name}.default": f"aten.{name}_.default" for name in _ACTIVATIONS
}
"""Calls and their in-place versions, which overwrite their first argument."""

FRESH = frozenset(
    "normalise batch_norm conv2d conv_transpose2d linear max_pool2d avg_pool2d sum_pool2d concat group_norm "
    "layer_norm".split()
)
"""Kinds of ops that always return a new tensor."""


def in_place(graph: Graph, steps: Sequence[tuple[str, Step]], dropped: Sequence[list[str]]) -> Iterator[Step]:
    """Yield the steps; a call is in place if its device computed the whole input and does not read it again."""
    sent = {(device, step.transfer.value) for device, step in steps if isinstance(step, Send)}
    computed = [(device, step) for device, step in steps if isinstance(step, Compute)]
    # Other ops that read a value may return a view of it (a reshape, a slice), which is used later.
    viewed = {(device, value) for device, step in computed if not _is_fresh(step) for value, _ in step.reads}
    kept = sent | viewed
    own = {
        (device, step.value, step.box)
        for device, step in computed
        if _is_fresh(step) and (device, step.value) not in kept
    }
    for (device, step), last in zip(steps, dropped, strict=True):
        if isinstance(step, Compute) and step.local.attrs.get("op") in IN_PLACE and step.local.kind == "call":
            value, box = step.reads[0]
            first = step.local.attrs["args"][0] == {"input": 0}
            same_type = graph.by_name[value].dtype == graph.by_name[step.value].dtype
            if first and same_type and value in last and box == step.box and (device, value, box) in own:
                attrs = {**step.local.attrs, "op": IN_PLACE[step.local.attrs["op"]]}
                yield replace(step, local=replace(step.local, attrs=attrs))
                continue
        yield step


def _is_fresh(step: Compute) -> bool:
    local = step.local
    return local.kind in FRESH or (local.kind == "call" and local.attrs["op"] in IN_PLACE and local.crop is None)
