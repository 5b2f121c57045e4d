"""``cloven bundle``: a folder for each device of a plan."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.models import ModelOptions, PlanOptions, planned, ready_for
from cloven.cli.options import DATA, AsJson, Classes, InputSize, Mean, ModelOption, PlanFile, Seed, Std, Weights
from cloven.cli.printing import print_json, print_text, table
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cloven.runtime.bundle.reader import BundleSummary

log = logging.getLogger("cloven")


def bundle(
    plan_file: PlanFile,
    out: Annotated[
        Path,
        typer.Option(help="The bundle's folder; an older bundle of the same plan is replaced.", metavar="FOLDER"),
    ],
    data: Annotated[str | None, DATA] = None,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Also replace a bundle of another plan.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a folder for each device of a plan.

    It holds ONNX models, weights, steps and hashes; every segment is compared with PyTorch. With --data, a model of
    the zoo without weights is trained first, or taken from the cache, as `cloven run` does.
    """
    from cloven.partition import plan as plans
    from cloven.runtime.bundle.writer import place_problems, write

    plan, graph = planned(PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std)))
    problems = plan.transform.unsendable(plan.devices)
    problems += place_problems(out, plan.named_model.name, plan.toml(), overwrite=force)
    if problems:
        raise ClovenError(problems)  # before a model is trained
    images = None
    if data is not None:
        ready, graph = ready_for(plan, graph, data, None, seed)
        images = ready.images.take(range(min(2, len(ready.images)))).tensor().numpy()
    elif plan.named_model.weights is None:
        log.warning("the plan names no weights: the bundle contains random weights, or those that the factory sets")
    written = write(
        plans.compile(graph, plan),
        out,
        model=plan.named_model.name,
        plan=plan.toml(),
        images=images,
        protection=plan.protection,
        overwrite=force,
    )
    summary = written.summary()
    if as_json:
        print_json(summary.model_dump(mode="json"))
    else:
        print_bundle(str(out), summary)


def print_bundle(folder: str, summary: BundleSummary) -> None:
    """Print the files of each device, and the comparison with PyTorch."""
    check = summary.check
    rows = [[device.device, device.folder, device.files, device.bytes] for device in summary.devices]
    table(folder, ["device", "folder", "files", "bytes"], rows)
    worst, allowed = f"{check.largest_difference:.3g}", f"{check.tolerance:.3g}"
    print_text(f"Largest difference of a segment from PyTorch: {worst}, allowed {allowed}.")
