"""``cloven audit``: what was asked for, as settings of an audit; and how one is run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.cli import printing
from cloven.cli.models import plan_of
from cloven.cli.options import DATA, AsJson, cores, device_of, given, named
from cloven.cli.printing import print_json, resumable
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.auditing.cases import Where
    from cloven.auditing.ladder import Ladder
    from cloven.partition.plan import Plan
    from cloven.partition.program import Link
    from cloven.partition.transform import Transform

log = logging.getLogger("cloven")

SIMULATED = ("auxiliary", "strategies", "layers", "devices", "view", "links", "colluding", "defences", "curve",
             "features", "budget", "mirror")  # fmt: skip
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
            help="A plan written by `cloven plan`, or a model to divide in all ways.", metavar="MODEL|PLAN"
        ),
    ] = "lenet5",
    data: Annotated[str, DATA] = "digits",
    auxiliary: Annotated[
        str,
        typer.Option(help="The attacker's images: photos, folder:DIR, ... or same (as --data).", metavar="SPEC"),
    ] = "photos",
    out: Annotated[Path | None, typer.Option(help="The results' folder; left out, runs/MODEL-DATA.")] = None,
    attacks: Annotated[
        str,
        typer.Option(
            help="nearest, probe, screen, decoder, residual, cgan, cgan-l1, refine, refine-residual, "
            "paste, enlarge, inpaint."
        ),
    ] = "decoder,probe",
    strategies: Annotated[
        str, typer.Option("--strategies", "--strategy", help="Which strategies; or enclave, cut after each layer.")
    ] = "vertical,horizontal,data",
    layers: Annotated[
        str,
        typer.Option("--layers", "--cuts", help="Where to listen; left out, S1's layers: 2,3,5; s2: that paper's."),
    ] = "",
    devices: Annotated[int, typer.Option(help="Devices of horizontal and data: 2, 4 or 8.", min=2)] = 4,
    view: Annotated[
        str | None, typer.Option(help="paper (what S1 counts), full (all on a link: usual for a plan) or both.")
    ] = None,
    links: Annotated[
        str | None, typer.Option(help="Full view: first (between the first two devices) or all (usual for a plan).")
    ] = None,
    colluding: Annotated[
        list[str] | None, typer.Option(help="Links whose taps are put together.", metavar="A-B,B-C")
    ] = None,
    defences: Annotated[
        str, typer.Option(help="Compare transforms on all links: none,float16,int8,topk:0.1,noise:0.5,dropout:0.5.")
    ] = "",
    pairs: Annotated[
        Path | None, typer.Option(help="Attack what was captured: a folder that `cloven tap --read` wrote.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="What the attacker knows of shapes: given, places, inferred; with --pairs, 0=6x14x14.",
            metavar="HOW",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights, if it is not trained here.")] = None,
    judge: Annotated[
        str, typer.Option(help="A second classifier: auto (trained here), none, MODEL or MODEL=WEIGHTS.")
    ] = "auto",
    queries: Annotated[
        int | None, typer.Option(help="How many auxiliary images; left out, 1000 or 5000, or all captured.")
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="The attacker sends each image mirrored too: twice the queries.")
    ] = False,
    victims: Annotated[int | None, typer.Option(help="How many victim images; left out, all held out.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of each attack; left out, its own (10 mostly).", min=1)
    ] = None,
    gan_epochs: Annotated[int, typer.Option(help="Epochs of the conditional GAN.", min=1)] = 200,
    seeds: Annotated[int, typer.Option(help="How often each attack is trained.", min=1)] = 1,
    curve: Annotated[
        bool, typer.Option("--curve", help="Attack with fewer pairs too: does the score still rise?")
    ] = False,
    threshold: Annotated[
        float, typer.Option("--threshold", "--threshold-ssim", help="Count images with an SSIM above this.")
    ] = 0.2,
    device: Annotated[
        str, typer.Option(help="Train attacks on cpu, cuda, or auto: cuda if there is one.")
    ] = "auto",
    autocast: Annotated[bool, typer.Option("--bfloat16", help="Train attacks in bfloat16 autocast.")] = False,
    features: Annotated[str, typer.Option(help="Keep captured numbers as float32 or float16.")] = "float32",
    budget: Annotated[
        float,
        typer.Option(help="Gigabytes of captured numbers to keep; with more, they are computed again.", min=0),
    ] = 4.0,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; left out, one a core.", min=1)] = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop; write nothing.")] = False,
) -> None:
    """Attack what crosses the links and write a report. Started again, it goes on where it stopped.

    With --pairs, attack what a tap captured from the wire instead of what a simulation says that it would.
    """
    if pairs is not None:
        _misplaced(context, SIMULATED, "what was captured")
    elif is_plan(model):
        _misplaced(context, PLANNED, "a plan")
    asked = Asked(
        model=model, data=data, auxiliary=auxiliary, attacks=named(attacks),
        strategies=named(strategies), layers=named(layers), devices=devices, view=view,
        links=links, colluding=tuple(colluding or ()), defences=named(defences), pairs=pairs,
        shape=tuple(shape or ()),
        weights=weights, judge=judge, mirror=mirror, queries=queries, victims=victims, epochs=epochs,
        gan_epochs=gan_epochs,        seeds=seeds, curve=curve, threshold=threshold, device=device,
        precision="bfloat16" if autocast else "float32", features=features, budget=budget, seed=seed,
        jobs=jobs or cores(),
    )  # fmt: skip
    work = _captures(asked) if pairs is not None else _simulated(asked)
    _run(work, out, dry_run=dry_run, as_json=as_json)


def _misplaced(context: typer.Context, names: Sequence[str], about: str) -> None:
    """Refuse options that say nothing about what is audited."""
    said = given(context)
    if problems := [f"--{name} says nothing about {about}: leave it out" for name in names if name in said]:
        raise ClovenError(problems)


@dataclass(frozen=True)
class Asked:
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
            printing.observations(rows)
        return
    folder = out or work.folder
    with resumable(folder) as progress:
        summary = work.execute(out=folder, progress=progress)
    page = write(folder)
    if as_json:
        print_json(summary)
    else:
        printing.summary(summary)
    for note in summary.get("capture", {}).get("notes", ()):
        log.warning("%s", note)
    log.info("report: %s   summary: %s", page, folder / "summary.json")


# --- simulated --------------------------------------------------------------------------------------------------


def _simulated(asked: Asked) -> Work:
    """The audit of a model divided in all ways, or of one plan.

    Raises:
        ClovenError: with all that is wrong with the options.
    """
    from cloven.attacks.trainer import Machine
    from cloven.auditing import study
    from cloven.papers.s1 import setup

    problems: list[str] = []
    asked = tried(lambda: _cut_everywhere(asked), problems) or asked
    plan = tried(lambda: plan_of(Path(asked.model)), problems) if is_plan(asked.model) else None
    model = plan.model.name if plan else asked.model
    where = tried(lambda: _where(asked, model, plan), problems)
    defences = tried(lambda: _transforms(asked.defences), problems)
    machine = tried(lambda: Machine(device_of(asked.device), asked.precision), problems)
    knows = _knows(asked.shape, problems)
    if asked.features not in ("float32", "float16"):
        problems.append(f"--features is {asked.features!r}; choose from float32, float16")
    if problems or where is None or defences is None or machine is None:
        raise ClovenError(problems)
    settings = study.Settings(
        who=_who(asked, model, plan), where=where, plan=plan, strategies=asked.strategies, devices=asked.devices,
        defences=defences, ladder=asked.ladder, knows=knows, seeds=asked.seeds, curve=asked.curve,  # type: ignore[arg-type]
        threshold=asked.threshold, machine=machine, precision=asked.features,  # type: ignore[arg-type]
        budget=int(asked.budget * 10**9),
    )  # fmt: skip
    name = Path(asked.model).stem if plan else model.replace(":", "-")
    folder = Path("runs") / f"{name}-{asked.data.partition(':')[0]}"
    paper = setup.paper(model)
    execute = partial(study.execute, settings, paper, jobs=asked.jobs)
    return Work(folder, partial(study.listed, settings, paper), execute)


def _cut_everywhere(asked: Asked) -> Asked:
    """An enclave cut after a layer hands over what a pipeline cut there sends: one pipeline stands for all cuts."""
    if asked.layers == S2:
        from cloven.papers.s2.privacy import cuts

        asked = replace(asked, layers=tuple(cuts(asked.model)))
    if asked.strategies != ENCLAVE:
        return asked
    if not asked.layers:
        raise ClovenError("--strategy enclave needs --cuts: layers, or s2 for the paper's")
    return replace(
        asked, strategies=("vertical",), devices=len(asked.layers) + 1, view=asked.view or "full",
        links=asked.links or "all",
    )  # fmt: skip


def is_plan(name: str) -> bool:
    """Whether a file is named, and no model."""
    return name.endswith(".toml") or Path(name).is_file()


def _who(asked: Asked, model: str, plan: Plan | None) -> Any:
    from cloven.auditing.subject import Who

    spec = plan.model if plan else None
    weights = asked.weights if spec is None else Path(spec.weights) if spec.weights else None
    shape, classes = _size(model, weights, spec)
    return Who(
        model=model, data=asked.data, auxiliary=asked.auxiliary, victims=asked.victims, weights=weights,
        shape=shape, classes=classes, judge=asked.judge, mirror=asked.mirror, seed=asked.seed,
        queries=(1000 if asked.auxiliary == "photos" else 5000) if asked.queries is None else asked.queries,
    )  # fmt: skip


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


def _where(asked: Asked, model: str, plan: Plan | None) -> Where:
    from cloven.auditing.cases import Where
    from cloven.papers.points import resolve
    from cloven.papers.s1.setup import layers_of

    problems: list[str] = []
    usual = layers_of(model)
    paths = [
        found for name in asked.layers if (found := tried(partial(resolve, model, name), problems)) is not None
    ]
    layers = {path: usual.get(path, path) for path in paths} if asked.layers else usual
    view = asked.view or ("full" if plan else "both")
    links = asked.links or ("all" if plan else "first")
    for option, value, known in (("--view", view, VIEWS), ("--links", links, LINKS)):
        if value not in known:
            problems.append(f"{option} is {value!r}; choose from {', '.join(known)}")
    if asked.colluding and plan is None:
        problems.append("--colluding names links of a plan; give one instead of a model")
    groups = [tried(partial(_group, text, plan), problems) for text in asked.colluding] if plan else []
    if problems:
        raise ClovenError(problems)
    colluding = tuple(group for group in groups if group is not None)
    return Where(layers, VIEWS[view], LINKS[links], colluding)  # type: ignore[arg-type]


def _group(text: str, plan: Plan) -> tuple[Link, ...]:
    """``edge0-edge1,edge1-edge2``: links whose taps are put together."""
    from cloven.partition.protection import pair

    found = []
    for name in named(text):
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


def _captures(asked: Asked) -> Work:
    """The audit of what a tap captured.

    Raises:
        ClovenError: with all that is wrong with the options.
    """
    from cloven.attacks.trainer import Machine
    from cloven.auditing import wire
    from cloven.papers.s1 import setup

    assert asked.pairs is not None
    inferred = asked.shape == ("inferred",)
    settings = wire.Settings(
        model=asked.model, data=asked.data, pairs=asked.pairs, shapes={} if inferred else _shapes(asked.shape),
        weights=asked.weights, layers=tuple(setup.layers_of(asked.model)), queries=asked.queries,
        victims=asked.victims, ladder=asked.ladder, inferred=inferred, judge=asked.judge, seeds=asked.seeds,
        threshold=asked.threshold,
        machine=Machine(device_of(asked.device), asked.precision), seed=asked.seed,
    )  # fmt: skip
    name = f"{asked.model}-{asked.data.partition(':')[0]}".replace(":", "-")
    execute = partial(wire.execute, settings, setup.paper(asked.model))
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
