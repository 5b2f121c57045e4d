"""The programs of a study in its summary: what each sends, what the paper counts, and how accurate it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cloven.auditing.cases import Case, Target
from cloven.auditing.material import Material
from cloven.graph.box import text
from cloven.partition import compiler
from cloven.partition.data import Data
from cloven.partition.program import Program
from cloven.runtime.local import run
from cloven.runtime.torch_engine import evaluate
from cloven.threads import one_thread
from cloven.zoo.training import accuracy


def plans(material: Material, every: Sequence[Case], labels: Tensor | None) -> list[dict[str, Any]]:
    """Each program once: what it sends, what the paper counts, and whether it computes what the model does."""
    graph, victims = material.classifier, material.tensors["victims"]
    found: list[dict[str, Any]] = []
    with one_thread():
        logits = evaluate(graph, victims, [graph.output])[graph.output]
        for target in dict.fromkeys(case.target for case in every):
            counted = [c for c in every if c.target is target and c.observation.view == "paper"]
            found.append({**_plan(target, target.program, logits, victims, labels), "counted": _counted(counted)})
            if target.grid is not None and target.transform == "none":
                bare = compiler.divide(graph, Data(target.grid, halo="none"), len(target.program.devices))
                plan = _plan(target, bare, logits, victims, labels)
                found.append({**plan, "title": f"{target.title}, no halo", "counted": []})
    return found


def _plan(
    target: Target, program: Program, logits: Tensor, victims: Tensor, labels: Tensor | None
) -> dict[str, Any]:
    made = run(program, victims)
    return {
        "strategy": target.strategy,
        "title": target.title,
        "devices": len(program.devices),
        "exact": program.exact,
        "transform": target.transform,
        "accuracy": accuracy(made, labels) if labels is not None else None,
        "agreement": float((made.argmax(1) == logits.argmax(1)).double().mean()),
        "max_difference": float((made - logits).abs().max()),
        "transfers": [transfer.row() for transfer in program.transfers],
    }


def _counted(every: Sequence[Case]) -> list[dict[str, Any]]:
    return [
        {
            "link": list(seen.link) if seen.link else None,
            "value": share.value,
            "share": text(share.share),
            "bytes": share.bytes,
            "crosses": seen.crosses,
        }
        for seen in (case.observation for case in every)
        for share in seen.seen
    ]
