"""The model of a command: as options name it, or a plan; and what is run through it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.cli.options import image_size, numbers
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from torch.nn import Module

    from cloven.graph.graph import Graph
    from cloven.partition.plan import ModelSpec, Plan
    from cloven.zoo.prepared import PreparedModel

log = logging.getLogger("cloven")


@dataclass(frozen=True)
class ModelOptions:
    """A model as the command line names it. What is left out is usual for the model, or the model's own."""

    name: str = ""
    input_size: str = ""
    classes: int | None = None
    weights: Path | None = None
    mean: str = ""
    std: str = ""

    def spec(self) -> ModelSpec:
        """Return the ``[model]`` table of a plan; the classes of a person's own model are still to be counted.

        Raises:
            ClovenError: with all that is wrong with the options.
        """
        from pydantic import ValidationError

        from cloven.documents import wrong_entries
        from cloven.partition.plan import ModelSpec
        from cloven.zoo.named import is_own, make, usual

        problems: list[str] = []
        default = usual(self.name)
        shape = default.shape
        if self.input_size:
            shape = tried(lambda: image_size(self.input_size), problems) or shape
        elif is_own(self.name):
            problems.append(f"{self.name} requires --input-size: the size of one image, such as 3x32x32")
            tried(lambda: make(self.name, shape=shape, classes=default.classes), problems)
        if bool(self.mean) != bool(self.std):
            problems.append("--mean requires --std" if self.mean else "--std requires --mean")
        example = "0.5,0.5,0.5"
        mean = tried(partial(numbers, self.mean, "--mean", example), problems) if self.mean else None
        std = tried(partial(numbers, self.std, "--std", example), problems) if self.std else None
        for option, given in (("--mean", mean), ("--std", std)):
            if given is not None and len(given) != shape[0]:
                problems.append(f"{option} has {len(given)} numbers; expected {shape[0]}, one for each channel")
        if problems:
            raise ClovenError(problems)
        weights = None if self.weights is None else str(self.weights)
        classes = self.classes or default.classes
        try:
            return ModelSpec(name=self.name, input=shape, classes=classes, weights=weights, mean=mean, std=std)
        except ValidationError as error:
            raise ClovenError(wrong_entries(error, "the model")) from error


@dataclass(frozen=True)
class PlanOptions:
    """A plan file, and the model that it is for if the file names none."""

    file: Path
    model: ModelOptions = ModelOptions()


def resolved(options: ModelOptions) -> tuple[ModelSpec, Graph]:
    """Return the ``[model]`` table of a plan, complete, and the model's graph.

    Raises:
        ClovenError: with all that is wrong with the options or the model.
    """
    from cloven.zoo.named import is_own

    spec = options.spec()
    graph = graph_of(spec)
    if not is_own(options.name):
        return spec, graph
    if spec.mean is None:
        log.warning(
            "%s is given images in [0, 1]; if it was trained on normalised images, give --mean and --std",
            options.name,
        )
    (classes, *_) = graph.by_name[graph.output].shape
    return spec if options.classes else spec.model_copy(update={"classes": classes}), graph


def graph_of(spec: ModelSpec) -> Graph:
    """Return the graph of a plan's model; without weights with random ones, always the same."""
    import torch

    from cloven.zoo.named import make

    weights = Path(spec.weights) if spec.weights else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that `run --verify` means the model that `bundle` wrote
        model = make(spec.name, shape=spec.input, classes=spec.classes, weights=weights)
    return captured(model, spec)


def captured(model: Module, spec: ModelSpec) -> Graph:
    """Return the graph of a model that is there already."""
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation

    mean, std = normalisation(spec.name, spec.weights, spec.mean, spec.std) or (None, None)
    return capture(model, torch.zeros(1, *spec.input), mean=mean, std=std)


# --- plans --------------------------------------------------------------------------------------------------------


def plan_of(options: PlanOptions) -> Plan:
    """Return a plan from a file, with the model of the options if the file names none.

    Its divisions are not checked against the model.

    Raises:
        ClovenError: for every wrong entry, and for a model that is named twice or not at all.
    """
    from cloven.partition.plan import parse, read

    plan = parse(read(options.file), str(options.file))
    if not _names_model(plan, options):
        spec, _ = resolved(options.model)
        plan = plan.model_copy(update={"model": spec})
    return plan


def planned(options: PlanOptions) -> tuple[Plan, Graph]:
    """Return a plan from a file and the graph of its model, on which it was checked; see `plan_of`.

    Raises:
        ClovenError: with all that is wrong with the plan and its model.
    """
    from cloven.partition.plan import check, problems, read

    made, found = check(read(options.file), str(options.file))
    if made is None:
        raise ClovenError(found)
    plan, graph = made, None
    named = tried(lambda: _names_model(made, options), found)
    if named:
        graph = tried(lambda: graph_of(made.named_model), found)
    elif named is not None and (model := tried(lambda: resolved(options.model), found)) is not None:
        spec, graph = model
        plan = made.model_copy(update={"model": spec})
    found += problems(graph, plan) if graph is not None else []
    if found or graph is None:
        raise ClovenError(found)
    return plan, graph


def _names_model(plan: Plan, options: PlanOptions) -> bool:
    """Return whether the plan names its model, and not the options."""
    model = options.model
    if plan.model is None and not model.name:
        raise ClovenError(f"{options.file} names no model; give one with --model, or add a [model] table")
    if plan.model is None or model == ModelOptions():
        return plan.model is not None
    given = [name for name, value in vars(model).items() if value != getattr(ModelOptions, name)]
    flags = ", ".join("--model" if name == "name" else f"--{name.replace('_', '-')}" for name in given)
    raise ClovenError(f"{options.file} names its model, {plan.model.name}: leave out {flags}, or its [model] table")


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
    return ready, captured(ready.model, model) if ready.model is not None else graph
