"""The model of a command, from options or from a plan, and the images to run it on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """The options of a model. Options that are left out have the model's defaults."""

    name: str = ""
    input_size: str = ""
    classes: int | None = None
    weights: Path | None = None
    mean: str = ""
    std: str = ""

    def spec(self, base: ModelSpec | None = None) -> ModelSpec:
        """Return the ``[model]`` table of a plan from the options, completed from ``base`` or the model's defaults.

        The number of classes of a user's own model is not known yet.

        Raises:
            ClovenError: with all problems of the options.
        """
        from pydantic import ValidationError

        from cloven.documents import wrong_entries
        from cloven.partition.plan import ModelSpec
        from cloven.zoo.named import is_own, make, usual

        problems: list[str] = []
        name = self.name or (base.name if base is not None else "")
        default = usual(name)
        shape = default.shape if base is None else base.input
        if self.input_size:
            shape = tried(lambda: image_size(self.input_size), problems) or shape
        elif base is None and is_own(name):
            problems.append(f"{name} requires --input-size: the size of one image, such as 3x32x32")
            tried(lambda: make(name, shape=shape, classes=default.classes), problems)
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
        classes = self.classes or (default.classes if base is None else base.classes)
        entries: dict[str, object] = {} if base is None else dict(base)
        entries |= {"name": name, "input": shape, "classes": classes}
        entries |= {"weights": str(self.weights)} if self.weights is not None else {}
        entries |= {"mean": mean, "std": std} if mean is not None else {}
        try:
            return ModelSpec.model_validate(entries)
        except ValidationError as error:
            raise ClovenError(wrong_entries(error, "the model")) from error


@dataclass(frozen=True)
class PlanOptions:
    """A plan file, and the options of its model."""

    file: Path
    model: ModelOptions = ModelOptions()


def resolved(options: ModelOptions) -> tuple[ModelSpec, Graph]:
    """Return the complete ``[model]`` table of a plan, and the model's graph.

    Raises:
        ClovenError: with all problems of the options or the model.
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
    """Return the graph of a plan's model; without weights, its random weights are always the same."""
    import torch

    from cloven.zoo.named import make

    weights = Path(spec.weights) if spec.weights else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that `run --verify` uses the same model as `bundle`
        model = make(spec.name, shape=spec.input, classes=spec.classes, weights=weights)
    return captured(model, spec)


def captured(model: Module, spec: ModelSpec) -> Graph:
    """Return the graph of an existing model."""
    import torch

    from cloven.runtime.capture import capture
    from cloven.zoo.named import normalisation

    mean, std = normalisation(spec.name, spec.weights, spec.mean, spec.std) or (None, None)
    return capture(model, torch.zeros(1, *spec.input), mean=mean, std=std)


# --- plans --------------------------------------------------------------------------------------------------------


def plan_of(options: PlanOptions) -> Plan:
    """Return a plan from a file, with the options of its model applied.

    The strategies are not checked against the model.

    Raises:
        ClovenError: for every wrong entry, and if the plan and the options name no model or two different ones.
    """
    from cloven.partition.plan import parse, read

    plan = parse(read(options.file), str(options.file))
    _check_name(plan, options)
    spec = resolved(options.model)[0] if plan.model is None else options.model.spec(plan.model)
    return plan.model_copy(update={"model": spec})


def fallbacks_of(options: PlanOptions, files: Sequence[Path] | None) -> tuple[Plan, ...]:
    """Return the plans of ``--fallback``, with the options of the plan's model applied.

    Raises:
        ClovenError: with the problems of all of them.
    """
    problems: list[str] = []
    found = [tried(partial(plan_of, replace(options, file=file)), problems) for file in files or ()]
    if problems:
        raise ClovenError(problems)
    return tuple(plan for plan in found if plan is not None)


def planned(options: PlanOptions) -> tuple[Plan, Graph]:
    """Return a plan from a file and the graph of its model, after checking both; see `plan_of`.

    Raises:
        ClovenError: with all problems of the plan and its model.
    """
    from cloven.partition.plan import check, problems, read

    def model(plan: Plan) -> tuple[ModelSpec, Graph]:
        _check_name(plan, options)
        if plan.model is None:
            return resolved(options.model)
        spec = options.model.spec(plan.model)
        return spec, graph_of(spec)

    plan, found = check(read(options.file), str(options.file))
    if plan is None:
        raise ClovenError(found)
    made = tried(partial(model, plan), found)
    if made is not None:
        plan = plan.model_copy(update={"model": made[0]})
        found += problems(made[1], plan)
    if found or made is None:
        raise ClovenError(found)
    return plan, made[1]


def _check_name(plan: Plan, options: PlanOptions) -> None:
    name = options.model.name
    if plan.model is None and not name:
        raise ClovenError(f"{options.file} names no model; give one with --model, or add a [model] table")
    if plan.model is not None and name not in ("", plan.model.name):
        raise ClovenError(f"{options.file} is a plan for {plan.model.name}, got --model {name}; leave --model out")


def ready_for(
    plan: Plan, graph: Graph, data: str | None, picture: Path | None, seed: int
) -> tuple[PreparedModel, Graph]:
    """Return the images to run a plan on and its model's graph, a new one if the model is trained first."""
    return prepared_for(plan.named_model, graph, data, picture, seed)


def prepared_for(
    model: ModelSpec, graph: Graph, data: str | None, picture: Path | None, seed: int
) -> tuple[PreparedModel, Graph]:
    """Return the images to run a model on and its graph, a new one if the model is trained first."""
    from cloven.zoo.prepared import prepared

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
