"""The model that a command works on: its graph, and what is run through it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.cli.options import numbers
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from torch.nn import Module

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.zoo.prepared import PreparedModel


def model_table(model: str, input_size: str | None, classes: int | None, weights: Path | None) -> dict[str, Any]:
    """The ``[model]`` table of a plan."""
    from cloven.zoo.named import usual

    default = usual(model)
    shape = default.shape if input_size is None else numbers(input_size, 3, "--input-size", "3x224x224")
    spec = {"name": model, "input": list(shape), "classes": default.classes if classes is None else classes}
    return spec | ({"weights": str(weights)} if weights is not None else {})


def graph_of(spec: Mapping[str, Any]) -> Graph:
    """The graph of a plan's model; where the plan names no weights, with random ones, always the same."""
    import torch

    from cloven.zoo.named import make

    weights = Path(spec["weights"]) if spec.get("weights") else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that `run --verify` means the model that `bundle` wrote
        model = make(spec["name"], shape=tuple(spec["input"]), classes=spec["classes"], weights=weights)
    return captured(model, spec)


def captured(model: Module, spec: Mapping[str, Any]) -> Graph:
    """Return the graph of a model that is there already."""
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation

    mean, std = normalisation(spec["name"], spec.get("weights")) or (None, None)
    return capture(model, torch.zeros(1, *spec["input"]), mean=mean, std=std)


def plan_of(plan_file: Path) -> Plan:
    """A plan from a file; what only its model could show is not checked."""
    from cloven.partition.plan import parse, read

    return parse(read(plan_file), str(plan_file))


def planned(plan_file: Path) -> tuple[Plan, Graph]:
    """A plan from a file, checked against its model's graph."""
    from cloven.partition.plan import check, problems, read

    made, found = check(read(plan_file), str(plan_file))
    if made is None:
        raise ClovenError(found)
    graph = tried(lambda: graph_of(made.model.model_dump()), found)
    found += problems(graph, made) if graph is not None else []
    if found or graph is None:
        raise ClovenError(found)
    return made, graph


def ready_for(
    made: Plan, graph: Graph, data: str | None, picture: Path | None, seed: int
) -> tuple[PreparedModel, Graph]:
    """What to run a plan on; and its model's graph, another one where the model is trained first."""
    from cloven.zoo.prepared import prepared

    spec = made.model
    with report_progress() as progress:
        ready = prepared(
            spec.name, shape=spec.input, classes=spec.classes, weights=Path(spec.weights) if spec.weights else None,
            data=data, picture=picture, seed=seed, progress=progress,
        )  # fmt: skip
    return ready, captured(ready.model, spec.model_dump()) if ready.model is not None else graph
