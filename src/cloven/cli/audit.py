"""``cloven audit``: what was options for, as settings of an audit; and how one is run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.cli.audit_tables import print_observations, print_summary
from cloven.cli.models import PlanOptions, plan_of
from cloven.cli.options import (
    ATTACKS,
    COMPUTING,
    DATA,
    IMAGES,
    OBSERVATIONS,
    AsJson,
    Budget,
    Device,
    Jobs,
    Seed,
    Seeds,
    Weights,
    cores,
    device_of,
    given,
    names_in,
)
from cloven.cli.printing import print_json, resumable
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.auditing.cases import Where
    from cloven.auditing.ladder import Ladder
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link
    from cloven.partition.transform import Transform

log = logging.getLogger("cloven")

SIMULATED = (
    "auxiliary",
    "strategies",
    "layers",
    "devices",
    "view",
    "links",
    "colluding",
    "defences",
    "curve",
    "features",
    "budget",
    "mirror",
)
"""Options that say what to simulate: a capture is what it is."""

PLANNED = ("strategies", "devices", "weights")
"""Options that say how to divide a model, and what with: a plan says it."""

ENCLAVE, S2 = ("enclave",), ("s2",)
"""A strategy, and cuts, that stand for others."""

VIEWS: Mapping[str, tuple[str, ...]] = {"both": ("paper", "full"), "paper": ("paper",), "full": ("full",)}
LINKS = {"first": False, "all": True}


def audit(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A plan file that `cloven plan` wrote, or a model, which is divided in all ways.",
            metavar="MODEL|PLAN",
        ),
    ] = "lenet5",
    data: Annotated[str, DATA] = "digits",
    auxiliary: Annotated[
        str,
        typer.Option(
            help="The attacker's own images: photos, folder:DIR, ... or same (of --data, none of them scored).",
            metavar="SPEC",
            rich_help_panel=IMAGES,
        ),
    ] = "photos",
    queries: Annotated[
        int | None,
        typer.Option(
            help="Number of --auxiliary images; default: 1000 photos, 5000 others, or all captured.",
            metavar="N",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror", help="Send each --auxiliary image mirrored too: twice the queries.", rich_help_panel=IMAGES
        ),
    ] = False,
    victims: Annotated[
        int | None,
        typer.Option(
            help="Number of victim images; default: all held-out images.", metavar="N", rich_help_panel=IMAGES
        ),
    ] = None,
    weights: Weights = None,
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            "--strategy",
            help="Divisions of a model: vertical, horizontal, data; or enclave, cut after each of --cuts.",
            metavar="NAME,...",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = "vertical,horizontal,data",
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            "--cuts",
            help="Layers to listen behind, e.g. conv2,pool2; default: S1's; s2: those of S2.",
            metavar="LAYER,...",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = "",
    devices: Annotated[
        int,
        typer.Option(
            help="Number of devices of horizontal and data: 2, 4 or 8.",
            min=2,
            metavar="N",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = 4,
    view: Annotated[
        str | None,
        typer.Option(
            help="paper (the share that S1 counts), full (all on a link; default for a plan) or both.",
            metavar="NAME",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(
            help="Full view: first (between the first two devices) or all (default for a plan).",
            metavar="NAME",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = None,
    colluding: Annotated[
        list[str] | None,
        typer.Option(help="Links whose taps are put together.", metavar="A-B,B-C", rich_help_panel=OBSERVATIONS),
    ] = None,
    defences: Annotated[
        str,
        typer.Option(
            help="Compare transforms on all links: none, float16, int8, topk:0.1, noise:0.5, dropout:0.5.",
            metavar="NAME,...",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = "",
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Attack what a tap captured: a folder that `cloven tap --read` wrote.",
            metavar="FOLDER",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="nearest, probe, screen, decoder, residual, cgan, cgan-l1, refine, refine-residual, paste, "
            "enlarge, inpaint.",
            metavar="NAME,...",
            rich_help_panel=ATTACKS,
        ),
    ] = "decoder,probe",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="What the attacker knows of shapes: given, places or inferred; with --pairs, e.g. 0=6x14x14.",
            metavar="HOW",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of each attack; default: its own (mostly 10).", min=1, metavar="N", rich_help_panel=ATTACKS
        ),
    ] = None,
    gan_epochs: Annotated[
        int,
        typer.Option(help="Epochs of the conditional GAN.", min=1, metavar="N", rich_help_panel=ATTACKS),
    ] = 200,
    seeds: Seeds = 1,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve", help="Train with fewer pairs too, to see whether scores still rise.", rich_help_panel=ATTACKS
        ),
    ] = False,
    judge: Annotated[
        str,
        typer.Option(
            help="Second classifier of reconstructions: auto (trained here), none, MODEL or MODEL=WEIGHTS.",
            metavar="NAME",
            rich_help_panel=ATTACKS,
        ),
    ] = "auto",
    threshold: Annotated[
        float,
        typer.Option(
            help="SSIM above which an image counts as recognisable.", metavar="SSIM", rich_help_panel=ATTACKS
        ),
    ] = 0.2,
    device: Device = "auto",
    autocast: Annotated[
        bool, typer.Option("--bfloat16", help="Train in bfloat16 autocast.", rich_help_panel=COMPUTING)
    ] = False,
    features: Annotated[
        str,
        typer.Option(
            help="Keep captured numbers as float32 or float16.", metavar="NAME", rich_help_panel=COMPUTING
        ),
    ] = "float32",
    budget: Budget = 4.0,
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; default: runs/MODEL-DATA.", metavar="FOLDER")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be attacked; train and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Attack what crosses the links, and write a report.

    An audit that was stopped continues with the same command. With --pairs, it attacks what a tap captured from the
    wire instead of what a simulation says that a tap would capture.
    """
    if pairs is not None:
        _refuse(context, SIMULATED, "--pairs")
    elif is_plan(model):
        _refuse(context, PLANNED, "a plan")
    options = AuditOptions(
        model=model,
        data=data,
        auxiliary=auxiliary,
        attacks=names_in(attacks),
        strategies=names_in(strategies),
        layers=names_in(layers),
        devices=devices,
        view=view,
        links=links,
        colluding=tuple(colluding or ()),
        defences=names_in(defences),
        pairs=pairs,
        shape=tuple(shape or ()),
        weights=weights,
        judge=judge,
        mirror=mirror,
        queries=queries,
        victims=victims,
        epochs=epochs,
        gan_epochs=gan_epochs,
        seeds=seeds,
        curve=curve,
        threshold=threshold,
        device=device,
        precision="bfloat16" if autocast else "float32",
        features=features,
        budget=budget,
        seed=seed,
        jobs=jobs or cores(),
    )
    work = _captures(options) if pairs is not None else _simulated(options)
    _run(work, out, dry_run=dry_run, as_json=as_json)


def _refuse(context: typer.Context, names: Sequence[str], source: str) -> None:
    """Refuse options that the source of the observations settles."""
    present = given(context)
    if problems := [f"--{name} cannot be used with {source}" for name in names if name in present]:
        raise ClovenError(problems)


@dataclass(frozen=True)
class AuditOptions:
    """The options of ``cloven audit``."""

    model: str
    data: str
    auxiliary: str
    attacks: tuple[str, ...]
    strategies: tuple[str, ...]
    layers: tuple[str, ...]
    devices: int
    view: str | None
    links: str | None
    colluding: tuple[str, ...]
    defences: tuple[str, ...]
    pairs: Path | None
    shape: tuple[str, ...]
    weights: Path | None
    judge: str
    mirror: bool
    queries: int | None
    victims: int | None
    epochs: int | None
    gan_epochs: int
    seeds: int
    curve: bool
    threshold: float
    device: str
    precision: str
    features: str
    budget: float
    seed: int
    jobs: int

    @property
    def ladder(self) -> Ladder:
        """The attacks."""
        from cloven.auditing.ladder import Ladder

        return Ladder(self.attacks, self.epochs, self.gan_epochs)


@dataclass(frozen=True, eq=False)
class Work:
    """An audit ready to be run: where its results go by default, its observations, and what does it all."""

    folder: Path
    rows: Callable[[], list[dict[str, Any]]]
    execute: Callable[..., dict[str, Any]]


def _run(work: Work, out: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Run an audit, or list what it would attack; print and report."""
    from cloven.reporting.writer import write

    if dry_run:
        rows = work.rows()
        if as_json:
            print_json({"cells": rows})
        else:
            print_observations(rows)
        return
    folder = out or work.folder
    with resumable(folder) as progress:
        summary = work.execute(out=folder, progress=progress)
    page = write(folder)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
    for note in summary.get("capture", {}).get("notes", ()):
        log.warning("%s", note)
    log.info("report: %s   summary: %s", page, folder / "summary.json")


# --- simulated --------------------------------------------------------------------------------------------------


def _simulated(options: AuditOptions) -> Work:
    """The audit of a model divided in all ways, or of one plan.

    Raises:
        ClovenError: with all that is wrong with the options.
    """
    from cloven.attacks.trainer import Machine
    from cloven.auditing import study
    from cloven.papers.s1 import setup

    problems: list[str] = []
    options = tried(lambda: _cut_everywhere(options), problems) or options
    plan = tried(lambda: plan_of(PlanOptions(Path(options.model))), problems) if is_plan(options.model) else None
    model = plan.named_model.name if plan else options.model
    where = tried(lambda: _where(options, model, plan), problems)
    defences = tried(lambda: _transforms(options.defences), problems)
    machine = tried(lambda: Machine(device_of(options.device), options.precision), problems)
    knows = _knows(options.shape, problems)
    if options.features not in ("float32", "float16"):
        problems.append(f"--features is {options.features!r}; choose from float32, float16")
    if problems or where is None or defences is None or machine is None:
        raise ClovenError(problems)
    settings = study.Settings(
        who=_who(options, model, plan),
        where=where,
        plan=plan,
        strategies=options.strategies,
        devices=options.devices,
        defences=defences,
        ladder=options.ladder,
        knows=knows,  # type: ignore[arg-type]
        seeds=options.seeds,
        curve=options.curve,
        threshold=options.threshold,
        machine=machine,
        precision=options.features,  # type: ignore[arg-type]
        budget=int(options.budget * 10**9),
    )
    name = Path(options.model).stem if plan else model.replace(":", "-")
    folder = Path("runs") / f"{name}-{options.data.partition(':')[0]}"
    paper = setup.paper(model)
    execute = partial(study.execute, settings, paper, jobs=options.jobs)
    return Work(folder, partial(study.listed, settings, paper), execute)


def _cut_everywhere(options: AuditOptions) -> AuditOptions:
    """An enclave cut after a layer hands over what a pipeline cut there sends: one pipeline stands for all cuts."""
    if options.layers == S2:
        from cloven.papers.s2.privacy import cuts

        options = replace(options, layers=tuple(cuts(options.model)))
    if options.strategies != ENCLAVE:
        return options
    if not options.layers:
        raise ClovenError("--strategy enclave needs --cuts: layers, or s2 for the paper's")
    return replace(
        options,
        strategies=("vertical",),
        devices=len(options.layers) + 1,
        view=options.view or "full",
        links=options.links or "all",
    )


def is_plan(name: str) -> bool:
    """Whether a file is named, and no model."""
    return name.endswith(".toml") or Path(name).is_file()


def _who(options: AuditOptions, model: str, plan: Plan | None) -> Any:
    from cloven.auditing.subject import Who

    spec = plan.model if plan else None
    weights = options.weights if spec is None else Path(spec.weights) if spec.weights else None
    shape, classes = _size(model, weights, spec)
    return Who(
        model=model,
        data=options.data,
        auxiliary=options.auxiliary,
        victims=options.victims,
        weights=weights,
        shape=shape,
        classes=classes,
        judge=options.judge,
        mirror=options.mirror,
        seed=options.seed,
        queries=(1000 if options.auxiliary == "photos" else 5000) if options.queries is None else options.queries,
    )


def _size(model: str, weights: Path | None, spec: Any) -> tuple[Any, Any]:
    """The shape of images and the number of classes: a plan's, a finished model's, or None: the data set's."""
    from cloven.zoo.models import MODELS
    from cloven.zoo.named import usual

    if spec is not None:
        return spec.input, spec.classes
    if weights is None and model in MODELS:
        return None, None
    shape, known = usual(model)
    return shape, known


def _where(options: AuditOptions, model: str, plan: Plan | None) -> Where:
    from cloven.auditing.cases import Where
    from cloven.papers.points import resolve
    from cloven.papers.s1.setup import layers_of

    problems: list[str] = []
    usual = layers_of(model)
    paths = [
        found for name in options.layers if (found := tried(partial(resolve, model, name), problems)) is not None
    ]
    layers = {path: usual.get(path, path) for path in paths} if options.layers else usual
    view = options.view or ("full" if plan else "both")
    links = options.links or ("all" if plan else "first")
    for option, value, known in (("--view", view, VIEWS), ("--links", links, LINKS)):
        if value not in known:
            problems.append(f"{option} is {value!r}; choose from {', '.join(known)}")
    if options.colluding and plan is None:
        problems.append("--colluding names links of a plan; give one instead of a model")
    groups = [tried(partial(_group, text, plan), problems) for text in options.colluding] if plan else []
    if problems:
        raise ClovenError(problems)
    colluding = tuple(group for group in groups if group is not None)
    return Where(layers, VIEWS[view], LINKS[links], colluding)  # type: ignore[arg-type]


def _group(text: str, plan: Plan) -> tuple[Link, ...]:
    """``edge0-edge1,edge1-edge2``: links whose taps are put together."""
    from cloven.partition.protection import pair

    found = []
    for name in names_in(text):
        try:
            found.append(pair(name, plan.devices))
        except ValueError as error:
            raise ClovenError(f"--colluding: {error}") from error
    if len(found) < 2:
        raise ClovenError(f"--colluding is {text!r}; expected two links or more, such as edge0-edge1,edge1-edge2")
    return tuple(found)


def _transforms(names: tuple[str, ...]) -> tuple[Transform, ...]:
    from cloven.partition.transform import Transform

    problems: list[str] = []
    found = [tried(partial(Transform.parse, name), problems) for name in names]
    if problems:
        raise ClovenError(problems)
    return tuple(transform for transform in found if transform is not None)


def _knows(shape: tuple[str, ...], problems: list[str]) -> str:
    """What the attacker knows of what he sees."""
    known = {"given": "shapes", "places": "places", "inferred": "inferred"}
    if not shape:
        return "shapes"
    if len(shape) > 1 or shape[0] not in known:
        problems.append(f"--shape is {' '.join(shape)!r}; choose from {', '.join(known)} (others are for --pairs)")
        return "shapes"
    return known[shape[0]]


# --- captured ---------------------------------------------------------------------------------------------------


def _captures(options: AuditOptions) -> Work:
    """The audit of what a tap captured.

    Raises:
        ClovenError: with all that is wrong with the options.
    """
    from cloven.attacks.trainer import Machine
    from cloven.auditing import wire
    from cloven.papers.s1 import setup

    assert options.pairs is not None
    inferred = options.shape == ("inferred",)
    settings = wire.Settings(
        model=options.model,
        data=options.data,
        pairs=options.pairs,
        shapes={} if inferred else _shapes(options.shape),
        weights=options.weights,
        layers=tuple(setup.layers_of(options.model)),
        queries=options.queries,
        victims=options.victims,
        ladder=options.ladder,
        inferred=inferred,
        judge=options.judge,
        seeds=options.seeds,
        threshold=options.threshold,
        machine=Machine(device_of(options.device), options.precision),
        seed=options.seed,
    )
    name = f"{options.model}-{options.data.partition(':')[0]}".replace(":", "-")
    execute = partial(wire.execute, settings, setup.paper(options.model))
    return Work(Path("runs") / f"{name}-captured", partial(wire.listed, settings), execute)


def _shapes(texts: tuple[str, ...]) -> dict[int, list[tuple[int, ...]]]:
    """``0=6x14x14`` and ``1=16x5x5+84`` as the shapes of what lies in each message."""
    wrong = [text for text in texts if not re.fullmatch(r"\d+=\d+(x\d+x\d+)?(\+\d+(x\d+x\d+)?)*", text)]
    if wrong:
        raise ClovenError(
            [
                f"--shape is {text!r}; expected MESSAGE=SHAPE such as 0=6x14x14 or 1=84, or inferred"
                for text in wrong
            ]
        )
    pairs = (text.split("=") for text in texts)
    return {int(k): [tuple(map(int, shape.split("x"))) for shape in shapes.split("+")] for k, shapes in pairs}
