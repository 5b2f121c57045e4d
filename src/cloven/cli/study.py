"""``cloven study``: audits of every combination of models, data, divisions and attackers."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.audit import layer_paths
from cloven.cli.exits import MISSED
from cloven.cli.help import PanelCommand, PanelGroup
from cloven.cli.options import COMPUTING, AsJson, Disk, Jobs, MemoryLimit, cores, memory_size
from cloven.cli.printing import print_json, print_text, resumable, table
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.auditing.executor import Executor
    from cloven.auditing.study_file import StudyFile
    from cloven.auditing.study_run import StudyStatus

log = logging.getLogger("cloven")

study = typer.Typer(
    cls=PanelGroup, help="Audit every combination of models, divisions and attackers.", no_args_is_help=True
)

StudyPath = Annotated[Path, typer.Argument(help="A study file.", metavar="STUDY")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for results; default: runs/ and the name of the file.", metavar="FOLDER")
]

MOST_ROWS = 40
"""The largest number of audits that a table lists."""

TEMPLATE = """\
# A study: every combination of the entries below is audited. Run it with
#   cloven study run study.toml
# This one takes about a minute. Paths of data and weights are relative to the working folder.
version = 1
title = "LeNet-5 on digits: two divisions, two attacks"

[[models]]                    # repeat this table for more models
name = "lenet5"               # or resnet20, torchvision:NAME, timm:NAME, package.module:factory
# label = "mine"              # its name in this study and in [[exclude]]; default: name
# weights = "weights.pth"     # or "pretrained"; without, models of cloven are trained
# input = [1, 28, 28]
# classes = 10
# layers = ["conv1", "conv2"] # whose outputs are observed; default: those of Mehrafrooz et al. (2025)

[axes]
data = ["digits"]             # mnist:DIR, cifar10:DIR, flowers102:DIR, ton-iot:DIR, folder:DIR
auxiliary = ["photos"]        # the attacker's own images; "same": the rest of the data
queries = [60, 120]           # their number; may be left out
devices = [4]                 # 2, 4 or 8, for horizontal and data
strategies = ["vertical", "data"] # vertical, horizontal, data, enclave
transforms = ["none"]         # of all links: none, float16, int8, topk:0.1, noise:0.5, dropout:0.5
attacks = ["decoder", "probe"]
seeds = 1                     # with 2 or more, intervals cover images and seeds

# Combinations to leave out: those with one of the values on every axis that is named.
# [[exclude]]
# strategies = ["data"]
# queries = [60]

# Settings of all audits, named as the options of cloven audit.
[audit]
victims = 40
epochs = 2
judge = "none"
view = "paper"                # the share that Mehrafrooz et al. count; full: everything on a link; both
shape = "given"               # the attacker's knowledge of the layout: given, places or inferred
# attack_seconds = 60         # limit on the CPU seconds of each training
seed = 0

# Largest accepted leakage (upper 95 % limits, 0 to 1), fixed before the study starts. `run` exits with 1 above it.
[limits]
# pixels = 0.2
# labels = 0.3

# SHA-256 of data sets in folders, which `cloven study digests study.toml` prints.
[digests]
# "folder:photos" = "..."
"""


@study.command("new", cls=PanelCommand)
def new(path: Annotated[Path, typer.Argument(help="The file to write.", metavar="STUDY")]) -> None:
    """Write a template of a study, with comments. It can be run as it is."""
    from cloven.files import write_text

    if path.exists():
        raise ClovenError(f"{path} exists; give another name, or remove it")
    write_text(path, TEMPLATE)
    log.info("wrote %s; run it with: cloven study run %s", path, path)


@study.command("run", cls=PanelCommand)
def run(
    path: StudyPath,
    jobs: Jobs = None,
    out: Out = None,
    retries: Annotated[
        int,
        typer.Option(
            help="Number of times that an audit that failed is tried again, after the others.", min=0, metavar="N"
        ),
    ] = 0,
    shard: Annotated[
        str,
        typer.Option(
            help="Run only every N-th audit, from the I-th on, such as 1/4: one part for each machine.",
            metavar="I/N",
            rich_help_panel=COMPUTING,
        ),
    ] = "1/1",
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Continue although the file has changed since the first run; keep finished cells.",
        ),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            help="Compute on a Ray cluster, not in processes: ray (the one that runs here, or else a new one) or "
            "ray://HOST:PORT.",
            metavar="CLUSTER",
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    gpus_per_cell: Annotated[
        float,
        typer.Option(
            help="Part of a GPU that each cell takes on the cluster.",
            min=0,
            metavar="PART",
            rich_help_panel=COMPUTING,
        ),
    ] = 0.0,
    disk: Disk = 4.0,
    memory: MemoryLimit = "",
    as_json: AsJson = False,
) -> None:
    """Run what is left of a study, and write a report for each audit.

    To resume a study, run the same command again. An audit that fails does not stop the others; the command then
    exits with 1.
    """
    from cloven.auditing.study_run import StudyExecution, missed, run_study, status, without_report
    from cloven.papers.s1 import setup
    from cloven.reporting.report_file import write

    asked, folder = _read(path), _folder(path, out)
    executor = _executor(asked, jobs, memory, on, gpus_per_cell)
    with resumable(folder) as progress:
        execution = StudyExecution(
            folder=folder,
            executor=executor,
            disk=disk,
            retries=retries,
            shard=_shard(shard),
            accept_changes=accept_changes,
            paper=setup.paper,
            progress=progress,
            finished=write,
        )
        failed = run_study(asked, execution)
        for place in without_report(asked, folder):
            write(place)
    _print(status(asked, folder), as_json=as_json)
    above = list(missed(asked, folder))
    for name, check in above:
        log.error("%s: %s: %s", name, check.place, check.failure)
    if above:
        log.error("%d checks failed against the limits with SHA-256 %s", len(above), asked.limits.hash())
    if above or failed:
        raise typer.Exit(MISSED)


@study.command("status", cls=PanelCommand)
def show_status(path: StudyPath, out: Out = None, as_json: AsJson = False) -> None:
    """Show which audits and cells are done, failed, skipped and left, and estimate the time that is left."""
    from cloven.auditing.study_run import status

    _print(status(_read(path), _folder(path, out)), as_json=as_json)


@study.command("diff", cls=PanelCommand)
def diff(
    before: Annotated[Path, typer.Argument(help="A study file.", metavar="BEFORE")],
    after: Annotated[Path, typer.Argument(help="Another study file.", metavar="AFTER")],
) -> None:
    """Show the audits and combinations that differ between two studies; exit with 1 if there are any."""
    from cloven.auditing.study_file import difference

    problems: list[str] = []
    both = [tried(partial(_read, path), problems) for path in (before, after)]
    if problems or both[0] is None or both[1] is None:
        raise ClovenError(problems)
    found = difference(both[0], both[1])
    for sentence in found.sentences():
        print_text(sentence)
    if found:
        raise typer.Exit(MISSED)


@study.command("merge", cls=PanelCommand)
def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that `cloven study run` wrote.", metavar="FOLDER...")
    ],
    out: Annotated[Path, typer.Option(help="A new folder.", metavar="FOLDER")],
) -> None:
    """Merge the folders of a study from several machines, after verifying every file.

    Damaged and foreign files are left out and named; the command then exits with 1. Nothing is written if two
    folders have different numbers for the same cell.
    """
    from cloven.auditing.study_merge import merge as merge_folders

    merged = merge_folders(folders, out)
    for sentence in merged.not_counted:
        log.info("not counted: %s", sentence)
    for sentence in merged.left_out:
        log.error("left out: %s", sentence)
    log.info(
        "%s: %d cells of %d audits, of which %d have ended; to continue: cloven study run STUDY --out %s",
        out,
        merged.cells,
        merged.audits,
        merged.complete,
        out,
    )
    if merged.left_out:
        raise typer.Exit(MISSED)


@study.command("digests", cls=PanelCommand)
def digests(path: StudyPath) -> None:
    """Print the SHA-256 of the data sets of a study that lie in folders, as a table for the study file."""
    from cloven.auditing.study_file import folder_digest, folders_of

    problems: list[str] = []
    found = {spec: tried(partial(folder_digest, spec), problems) for spec in folders_of(_read(path))}
    if problems:
        raise ClovenError(problems)
    typer.echo("[digests]")
    for spec, digest in found.items():
        typer.echo(f'"{spec}" = "{digest}"')


def _read(path: Path) -> StudyFile:
    """Return a study whose layers are paths of modules."""
    from cloven.auditing.study_file import read_study

    asked = read_study(path)
    problems: list[str] = []
    layers = [tried(partial(layer_paths, model.name, model.layers), problems) for model in asked.models]
    if problems:
        raise ClovenError([f"{path}: {problem}" for problem in problems])
    models = (one.model_copy(update={"layers": paths}) for one, paths in zip(asked.models, layers, strict=True))
    return asked.model_copy(update={"models": tuple(models)})


def _folder(path: Path, out: Path | None) -> Path:
    return out or Path("runs") / path.stem


def _executor(
    asked: StudyFile, jobs: int | None, memory: str, on: str | None, gpus: float
) -> AbstractContextManager[Executor]:
    """Return the executor that the options name.

    Raises:
        ClovenError: for options that exclude each other or do not fit the study.
    """
    problems: list[str] = []
    limit = tried(partial(memory_size, memory), problems)
    if on is None:
        if gpus:
            problems.append("--gpus-per-cell requires --on")
    elif jobs is not None:
        problems.append("--on excludes --jobs: a cluster runs one cell on each of its cores")
    if on is not None and memory:
        problems.append("--on excludes --memory: give each node of the cluster as few cores as its memory allows")
    if on is not None and on != "ray" and not on.startswith("ray://"):
        problems.append(f"--on is {on!r}; expected ray, or ray://HOST:PORT such as ray://head:10001")
    if on is not None and bool(gpus) != asked.audit.device.startswith("cuda"):
        problems.append(
            f"--gpus-per-cell is {gpus:g} and the study's device is {asked.audit.device!r}; give both for cells on "
            'GPUs (device = "cuda" in [audit]), or none'
        )
    if problems:
        raise ClovenError(problems)
    if on is None:
        from cloven.auditing.executor import LocalExecutor

        return nullcontext(LocalExecutor(jobs or cores(), limit))
    from cloven.auditing.ray_executor import ray_cluster

    return ray_cluster(on, gpus)


def _shard(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal()):
        raise ClovenError(f"--shard is {text!r}; expected I/N with I from 1 to N, such as 1/4")
    return int(first), int(count)


def _print(found: StudyStatus, *, as_json: bool) -> None:
    from cloven.progress import duration

    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    shown = [audit for audit in found.audits if audit.state != "done"] or found.audits
    rows = [
        [
            audit.audit,
            audit.state,
            *("?" if n is None else n for n in (audit.planned, audit.done)),
            len(audit.failed),
        ]
        for audit in shown[:MOST_ROWS]
    ]
    table("Audits", ["audit", "state", "cells", "done", "failed"], rows)
    if len(shown) > MOST_ROWS:
        print_text(f"... and {len(shown) - MOST_ROWS} more audits.")
    cells, states = found.cells, ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    about = "about " if cells.left_is_estimated else ""
    print_text(f"{len(found.audits)} audits: {states}.")
    ended = f"{cells.done:,} done, {cells.failed:,} failed, {cells.skipped:,} skipped"
    print_text(f"Cells: {ended}, {about}{cells.left:,} left.")
    if cells.left and found.seconds_left is not None and found.seconds_per_cell is not None:
        each = f"{found.seconds_per_cell:.3g} s per cell, as measured"
        print_text(f"Time left: about {duration(found.seconds_left)} in one process, at {each}.")
    for audit in found.audits:
        for problem in audit.problems:
            print_text(f"{audit.audit}: {problem}")
        for one in audit.skipped:
            print_text(f"{audit.audit}: {one.cell} is skipped: {one.reason}")
    for change in found.changes:
        print_text(f"The study was changed at {change.when}: {'; '.join(change.differences)}.")
    for sentence in found.differences:
        print_text(f"The file has changed since the study started: {sentence}.")
    for name in found.not_in_the_study:
        print_text(f"{name} is in the folder, but not in the study.")
