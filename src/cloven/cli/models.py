"""The model of a command: as options name it, or a plan; and what is run through it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloven.cli.options import image_size, numbers
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from torch.nn import Module

    from cloven.graph.graph import Graph
    from cloven.partition.plan import Plan
    from cloven.zoo.prepared import PreparedModel

log = logging.getLogger("cloven")


@dataclass(frozen=True)
class ModelOptions:
    """A model as the command line names it. What is left out is usual for the model, or the model's own."""

    name: str
    input_size: str = ""
    classes: int | None = None
    weights: Path | None = None
    mean: str = ""
    std: str = ""

    def spec(self) -> dict[str, Any]:
        """Return the ``[model]`` table of a plan, without ``classes`` if only the model itself knows them.

        Raises:
            ClovenError: with all that is wrong with the options.
        """
        from cloven.zoo.named import is_own, make, usual

        problems: list[str] = []
        default = usual(self.name)
        own = is_own(self.name)
        size = self.input_size
        shape = tried(lambda: image_size(size), problems) if size else default.shape
        if own and not size:
            problems.append(f"{self.name} requires --input-size: the size of one image, such as 3x32x32")
            tried(lambda: make(self.name, shape=default.shape, classes=default.classes), problems)
        if bool(self.mean) != bool(self.std):
            problems.append("--mean requires --std" if self.mean else "--std requires --mean")
        table: dict[str, Any] = {"name": self.name, "input": list(shape or ())}
        for option, text in (("mean", self.mean), ("std", self.std)):
            if text and (found := tried(partial(numbers, text, f"--{option}", "0.5,0.5,0.5"), problems)):
                table[option] = list(found)
        if problems:
            raise ClovenError(problems)
        if self.classes is not None or not own:
            table["classes"] = self.classes or default.classes
        return table | ({"weights": str(self.weights)} if self.weights is not None else {})


def resolved(options: ModelOptions) -> tuple[dict[str, Any], Graph]:
    """Return the ``[model]`` table of a plan, complete, and the model's graph.

    Raises:
        ClovenError: with all that is wrong with the options or the model.
    """
    from cloven.zoo.named import is_own

    spec = options.spec()
    graph = graph_of(spec)
    if is_own(options.name) and "mean" not in spec:
        log.warning(
            "%s is given images in [0, 1]; if it was trained on normalised images, give --mean and --std",
            options.name,
        )
    return {"classes": graph.by_name[graph.output].shape[0], **spec}, graph


def graph_of(spec: Mapping[str, Any]) -> Graph:
    """Return the graph of a ``[model]`` table; without weights with random ones, always the same."""
    import torch

    from cloven.zoo.named import make

    weights = Path(spec["weights"]) if spec.get("weights") else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that `run --verify` means the model that `bundle` wrote
        model = make(spec["name"], shape=tuple(spec["input"]), classes=spec.get("classes", 2), weights=weights)
    return captured(model, spec)


def captured(model: Module, spec: Mapping[str, Any]) -> Graph:
    """Return the graph of a model that is there already."""
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation

    usual = normalisation(spec["name"], spec.get("weights")) or (None, None)
    mean, std = (spec["mean"], spec["std"]) if spec.get("mean") else usual
    return capture(model, torch.zeros(1, *spec["input"]), mean=mean, std=std)


# --- plans --------------------------------------------------------------------------------------------------------


def plan_of(plan_file: Path) -> Plan:
    """Return a plan from a file; it is not checked against its model.

    Raises:
        ClovenError: for every wrong entry.
    """
    from cloven.partition.plan import parse, read

    return parse(read(plan_file), str(plan_file))


def planned(plan_file: Path) -> tuple[Plan, Graph]:
    """Return a plan from a file and the graph of its model, on which it was checked.

    Raises:
        ClovenError: with all that is wrong with the plan and its model.
    """
    from cloven.partition.plan import check, problems, read

    plan, found = check(read(plan_file), str(plan_file))
    if plan is None:
        raise ClovenError(found)
    graph = tried(lambda: graph_of(plan.named_model.model_dump()), found)
    found += problems(graph, plan) if graph is not None else []
    if found or graph is None:
        raise ClovenError(found)
    return plan, graph


def ready_for(
    plan: Plan, graph: Graph, data: str | None, picture: Path | None, seed: int
) -> tuple[PreparedModel, Graph]:
    """Return what to run a plan on; and its model's graph, another one if the model is trained first."""
    from cloven.zoo.prepared import prepared

    model = plan.named_model
    with report_progress() as progress:
        ready = prepared(
            model.name,
            shape=model.input,
            classes=model.classes,
            weights=Path(model.weights) if model.weights else None,
            data=data,
            picture=picture,
            seed=seed,
            progress=progress,
        )
    return ready, captured(ready.model, model.model_dump()) if ready.model is not None else graph
