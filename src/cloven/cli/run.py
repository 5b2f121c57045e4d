"""``cloven run``: a plan, in this process or on workers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli import printing
from cloven.cli.exits import MISSED
from cloven.cli.models import plan_of, planned, ready_for
from cloven.cli.options import DATA, DAY, PICTURES, AsJson, Deadline, PlanFile, Window, useless
from cloven.cli.outcomes import ToSend, name_links, to_send, told, warn
from cloven.cli.printing import print_json
from cloven.errors import ClovenError, tried
from cloven.progress import report_progress

if TYPE_CHECKING:
    from cloven.runtime.check import Comparison
    from cloven.runtime.cluster.coordinator import Coordinator, SendOptions

log = logging.getLogger("cloven")


def run(
    context: typer.Context,
    plan_file: PlanFile,
    data: Annotated[str | None, DATA] = None,
    picture: Annotated[
        Path | None, typer.Option("--input", help=f"A picture, or a folder of them. {PICTURES}")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Exit 1 unless it is proved to be the whole model's result.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split and of the training.")] = 0,
    cluster: Annotated[
        Path | None, typer.Option(help="Run on the workers of this file (TOML) instead of in this process.")
    ] = None,
    window: Window = 8,
    deadline: Deadline = 30.0,
    retry: Annotated[
        bool, typer.Option("--retry", help="Send again what a lost worker or link took along.")
    ] = False,
    patience: Annotated[
        float, typer.Option(help="--retry: seconds to wait for what was lost.", min=1, max=DAY)
    ] = 60.0,
    sent: Annotated[
        Path | None, typer.Option(help="Write what was sent and answered to this folder, for audit --pairs.")
    ] = None,
    auxiliary: Annotated[
        str | None, typer.Option(help="Send these first: the attacker's own images.", metavar="SPEC")
    ] = None,
    queries: Annotated[int, typer.Option(help="--auxiliary: how many of them.", min=2)] = 1000,
    limit: Annotated[int | None, typer.Option(help="At most so many images of --data or --input.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Run a plan on pictures or a data set; a CNN of the zoo without weights is trained first, or cached."""
    if problems := useless(context, ON_WORKERS):
        raise ClovenError(problems)
    if cluster is not None:
        from cloven.runtime.cluster.coordinator import SendOptions

        run = _checked(plan_file, cluster, SendOptions(window, deadline, patience if retry else 0.0), sent)
        if verify and picture is not None and run.plan.model.weights is None:
            log.warning("the plan names no weights: the whole model is that of `cloven bundle` without --data")
        given = to_send(plan_file, data, picture, verify, seed, limit, auxiliary, queries)
        _on_workers(given, run, sent, as_json=as_json)
        return
    from cloven.partition import plan as plans
    from cloven.runtime.check import compare

    made, graph = planned(plan_file)
    ready, graph = ready_for(made, graph, data, picture, seed)
    images = ready.images if limit is None else ready.images.take(range(min(limit, len(ready.images))))
    result = compare(plans.compile(graph, made), graph, images.tensor(), images.labels)
    shown = {"weights": ready.weights, **result.row()}
    if as_json:
        print_json({"plan": made.title(), **shown})
    else:
        printing.comparison(made.title(), shown)
    if verify:
        _verified(result)


ON_WORKERS = {
    "window": ["cluster"], "deadline": ["cluster"], "retry": ["cluster"], "patience": ["cluster", "retry"],
    "sent": ["cluster"], "auxiliary": ["cluster", "sent"], "queries": ["cluster", "sent", "auxiliary"],
}  # fmt: skip
"""What options of `cloven run` say nothing without."""


def _verified(result: Comparison) -> None:
    if not result.equal:
        log.warning(result.verdict())
        raise typer.Exit(MISSED)
    log.info(result.verdict())


def _checked(plan_file: Path, cluster: Path, options: SendOptions, sent: Path | None) -> Coordinator:
    """Return the coordinator of a run: its files are checked before a model is made, or even trained.

    Raises:
        ClovenError: with all that is wrong with them.
    """
    from cloven.runtime.cluster.sending import coordinator

    problems: list[str] = []
    plan = tried(lambda: plan_of(plan_file), problems)
    found = None if plan is None else tried(lambda: coordinator(plan, cluster, options), problems)
    if sent is not None and sent.exists() and not sent.is_dir():
        problems.append(f"--sent {sent} is no folder; name a new one, or one that is there")
    if problems or found is None:
        raise ClovenError(problems)
    return found


def _on_workers(given: ToSend, run: Coordinator, sent: Path | None, *, as_json: bool) -> None:
    """Send images through workers and print the outcome; exit 1 if an image failed or an output is wrong."""
    from cloven.runtime.cluster.sending import send, write_sent

    pixels = given.pixels
    with report_progress() as progress:
        outcome = send(run, pixels, progress)
    # What was sent again was counted again, and what a lost worker had counted is lost.
    numbers = [answer.number for answer in outcome.predictions]
    silent = [name for name in given.plan.devices if name not in outcome.reports]
    counted = outcome.sent() if numbers == list(range(len(pixels))) and not silent else None
    for name in silent:
        log.warning("%s did not report its times and bytes", name)
    shown = {"plan": given.plan.title(), **outcome.summary().model_dump()}
    outputs = outcome.outputs if outcome.answered else None
    name_links(given.plan, shown, tls=run.pool.tls is not None)
    equal = told(given, shown, outputs, counted)
    if as_json:
        print_json(shown)
    else:
        printing.cluster_run(shown)
    if sent is not None and outcome.answered:
        log.info("what was sent and answered: %s", write_sent(sent, outcome, pixels, given.queries))
    warn(shown["failed"])
    if shown["failed"] or not equal:
        raise typer.Exit(MISSED)
