"""``cloven bundle``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli import printing
from cloven.cli.models import planned, ready_for
from cloven.cli.options import DATA, AsJson, PlanFile
from cloven.cli.printing import print_json
from cloven.errors import ClovenError

log = logging.getLogger("cloven")


def bundle(
    plan_file: PlanFile,
    out: Annotated[Path, typer.Option(help="The bundle's folder; an older bundle of the same plan is replaced.")],
    data: Annotated[str | None, DATA] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Also replace a bundle of another plan.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a folder for each device: ONNX models, weights, steps, hashes; checked against the whole model.

    With --data, a CNN of the zoo without weights is trained first, or taken from the cache, as `cloven run` does.
    """
    from cloven.partition import plan as plans
    from cloven.runtime.bundle.writer import write

    made, graph = planned(plan_file)
    if problems := made.transform.unsendable(made.devices):
        raise ClovenError(problems)  # before a model is trained
    images = None
    if data is not None:
        ready, graph = ready_for(made, graph, data, None, seed)
        images = ready.images.take(range(min(2, len(ready.images)))).tensor().numpy()
    elif made.model.weights is None:
        log.warning("the plan names no weights: the bundle's are random (or the factory's own)")
    written = write(
        plans.compile(graph, made),
        out,
        model=made.model.name,
        plan=made.toml(),
        images=images,
        protection=made.protection,
        overwrite=force,
    )
    shown = written.summary().model_dump(mode="json")
    if as_json:
        print_json(shown)
    else:
        printing.bundle(str(out), shown)
