"""``cloven run``: run a plan in this process or on workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.assignment import AssignmentResult, ImageOptions, assignment, log_check, log_failures, print_result
from cloven.cli.exits import MISSED
from cloven.cli.models import ModelOptions, PlanOptions, fallbacks_of, plan_of, planned, ready_for
from cloven.cli.options import (
    DATA,
    DAY,
    WORKERS,
    AsJson,
    Batch,
    Classes,
    Deadline,
    Fallback,
    InputSize,
    Limit,
    Mean,
    ModelOption,
    OwnCount,
    OwnImages,
    Picture,
    PlanFile,
    Seed,
    Standby,
    Std,
    Weights,
    Window,
    names_in,
    unmet,
)
from cloven.cli.printing import print_json, table
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.runtime.check import Comparison
    from cloven.runtime.cluster.coordinator import Coordinator
    from cloven.runtime.cluster.send_options import SendOptions

log = logging.getLogger("cloven")

REQUIRED = {
    "window": ["cluster"],
    "batch": ["cluster"],
    "deadline": ["cluster"],
    "retry": ["cluster"],
    "patience": ["cluster", "retry"],
    "sent": ["cluster"],
    "auxiliary": ["cluster", "sent"],
    "queries": ["cluster", "sent", "auxiliary"],
    "steal": ["cluster"],
    "standby": ["cluster"],
    "fallback": ["cluster"],
    "record": ["cluster", "steal"],
}
"""The other options that an option requires."""


@dataclass(frozen=True)
class ClusterOptions:
    """The options of a run on workers.

    They are the cluster file, the sending options, the files of fallbacks, the folder for sent images, and the file
    for the tasks.
    """

    file: Path
    send: SendOptions
    fallbacks: Sequence[Path]
    sent: Path | None
    record: Path | None


def run(
    context: typer.Context,
    plan_file: PlanFile,
    data: Annotated[str | None, DATA] = None,
    picture: Picture = None,
    limit: Limit = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit with 1 unless the result equals the whole model's.")
    ] = False,
    cluster: Annotated[
        Path | None,
        typer.Option(
            help="Run on the workers in this TOML file, not in this process. The options below require it.",
            metavar="FILE",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    window: Window = 8,
    batch: Batch = 1,
    deadline: Deadline = 30.0,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            help="Send images again that failed because a worker or link was lost.",
            rich_help_panel=WORKERS,
        ),
    ] = False,
    patience: Annotated[
        float,
        typer.Option(
            help="With --retry: time to wait for a lost worker.",
            min=1,
            max=DAY,
            metavar="SECONDS",
            rich_help_panel=WORKERS,
        ),
    ] = 60.0,
    sent: Annotated[
        Path | None,
        typer.Option(
            help="Write the sent images and their outputs to this folder, for `cloven audit --pairs`.",
            metavar="FOLDER",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    standby: Standby = None,
    fallback: Fallback = None,
    steal: Annotated[
        bool,
        typer.Option(
            "--steal",
            help="Let any worker compute any part of the plan: each idle one takes the next. The workers must have "
            "loaded the whole bundle, and the plan needs more devices than there are workers.",
            rich_help_panel=WORKERS,
        ),
    ] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="With --steal: write to this JSON file which worker received which part of which image.",
            metavar="FILE",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    auxiliary: OwnImages = None,
    queries: OwnCount = 1000,
    model: ModelOption = "",
    input_size: InputSize = "",
    classes: Classes = None,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Run a plan on pictures or a data set.

    A CNN of the zoo without weights is first trained on the data set, or read from the cache.
    """
    if problems := unmet(context, REQUIRED):
        raise ClovenError(problems)
    plan = PlanOptions(plan_file, ModelOptions(model, input_size, classes, weights, mean, std))
    images = ImageOptions(data, picture, limit, auxiliary, queries, seed)
    if cluster is None:
        _run_here(plan, images, verify=verify, as_json=as_json)
        return
    from cloven.runtime.cluster.send_options import SendOptions

    chosen = None if standby is None else names_in(standby)
    sending = SendOptions(window, deadline, patience if retry else 0.0, steal, chosen, batch=batch)
    options = ClusterOptions(cluster, sending, fallback or (), sent, record)
    _run_on_workers(plan, images, options, verify=verify, as_json=as_json)


def _run_here(source: PlanOptions, options: ImageOptions, *, verify: bool, as_json: bool) -> None:
    from cloven.partition import plan as plans
    from cloven.runtime.check import compare

    plan, graph = planned(source)
    ready, graph = ready_for(plan, graph, options.data, options.picture, options.seed)
    images = ready.images
    if options.limit is not None:
        images = images.take(range(min(options.limit, len(images))))
    check = compare(plans.compile(graph, plan), graph, images.tensor(), images.labels)
    equal = log_check(check) if verify else True
    if as_json:
        print_json({"plan": plan.title(), "weights": ready.weights, **check.model_dump()})
    else:
        _print_check(plan.title(), ready.weights, check)
    if not equal:
        raise typer.Exit(MISSED)


def _print_check(title: str, weights: str, check: Comparison) -> None:
    rows = [["equal to the whole model", "yes" if check.equal else "NO"], ["weights", weights]]
    for name, value in check.model_dump(exclude={"equal", "inexact", "unjudged"}, exclude_none=True).items():
        rows.append([name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)])
    for name, text in (("inexact", "; ".join(check.inexact)), ("unjudged", check.unjudged)):
        rows += [[name, text]] if text else []
    table(title, ["", ""], rows)


def _run_on_workers(
    source: PlanOptions, images: ImageOptions, options: ClusterOptions, *, verify: bool, as_json: bool
) -> None:
    """Send images through workers and print the result; exit with 1 if an image failed or an output is wrong."""
    from cloven.files import write_bytes
    from cloven.runtime.cluster.sending import send, write_answered
    from cloven.runtime.evaluation import evaluated

    coordinator = _coordinator(source, options)
    assumed = verify and images.picture is not None and coordinator.plan.named_model.weights is None
    if assumed:
        log.warning(
            "the plan does not name weights: comparing with the model that `cloven bundle` writes without --data"
        )
    given = assignment(source, images, verify=verify)
    pixels = given.sent.pixels
    with report_progress() as progress:
        outcome = send(coordinator, pixels, progress)
    # Images that were sent again are counted twice, and the counts of lost workers are missing. The inputs of tasks
    # all cross the coordinator's links, which the table of transfers does not have.
    numbers = [answer.number for answer in outcome.predictions]
    plans = outcome.plans()
    silent = [name for name in coordinator.pool.workers if name not in outcome.reports]
    complete = numbers == list(range(len(pixels))) and not silent and outcome.tasks is None and len(plans) < 2
    counted = outcome.sent() if complete else None
    for name in silent:
        log.warning("%s did not report its times and bytes", name)
    outputs = outcome.outputs if outcome.answered else None
    found = evaluated(given.sent, outputs, outcome.answered, whole=given.whole, link_bytes=counted)
    result = AssignmentResult(given, outcome.summary(), found, coordinator.pool.tls is not None)
    equal = log_check(found.check)
    if assumed and not equal:
        log.warning("if the bundle was written with --data or --weights, compare with them: give the same here")
    if as_json:
        print_json(result.json())
    else:
        print_result(result)
    if options.sent is not None and outcome.answered:
        log.info(
            "wrote the sent images and their outputs: %s",
            write_answered(options.sent, outcome, pixels, given.sent.queries),
        )
    if options.record is not None and outcome.tasks is not None:
        write_bytes(options.record, outcome.tasks.text().encode())
        log.info("wrote which worker received which part: %s", options.record)
    log_failures(result)
    if result.summary.failed or not equal:
        raise typer.Exit(MISSED)


def _coordinator(source: PlanOptions, options: ClusterOptions) -> Coordinator:
    """Return the coordinator of a run; check its files before a model is loaded, or even trained.

    Raises:
        ClovenError: with all errors of the files.
    """
    from cloven.runtime.cluster.sending import coordinator

    problems: list[str] = []
    plan = tried(lambda: plan_of(source), problems)
    fallbacks = tried(lambda: fallbacks_of(source, options.fallbacks), problems) or ()
    sending = replace(options.send, fallbacks=fallbacks)
    found = None if plan is None else tried(lambda: coordinator(plan, options.file, sending), problems)
    if options.sent is not None and options.sent.exists() and not options.sent.is_dir():
        problems.append(f"--sent is {options.sent}, which is not a folder; expected a new or an existing folder")
    if problems or found is None:
        raise ClovenError(problems)
    return found
