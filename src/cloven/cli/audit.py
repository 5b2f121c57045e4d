"""The command ``cloven audit``, which attacks the observations of a plan, a model or a capture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cloven.cli.audit_tables import print_audit, print_observations
from cloven.cli.exits import MISSED
from cloven.cli.models import ModelOptions, PlanOptions, plan_of
from cloven.cli.options import (
    ATTACKS,
    COMPUTING,
    DATA,
    GATE,
    IMAGES,
    OBSERVATIONS,
    AsJson,
    AttackSeconds,
    Classes,
    Device,
    Disk,
    Epochs,
    InputSize,
    Jobs,
    Mean,
    MemoryLimit,
    ModelOption,
    Seed,
    Seeds,
    Std,
    VictimCount,
    Weights,
    cores,
    device_of,
    given,
    image_size,
    memory_size,
    names_in,
    numbers,
    unmet,
)
from cloven.cli.printing import print_json, resumable
from cloven.errors import ClovenError, tried

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
    "disk",
    "mirror",
)
"""Options of a simulation, which do not apply to a capture."""

REQUIRED = {
    "accepted": ["fail_above"],
    "accept": ["fail_above", "accepted"],
    "junit": ["fail_above"],
    "sarif": ["fail_above"],
}
"""The options that an option requires."""

PLANNED = ("strategies", "devices")
"""Options for the division of a model, which a plan determines."""

S2 = ("s2",)
"""The name that stands for the cuts of Rajasekar et al. (2024)."""


def audit(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A plan file that `cloven plan` wrote, or a model, which is divided by each of --strategies.",
            metavar="MODEL|PLAN",
        ),
    ] = "lenet5",
    data: Annotated[str, DATA] = "digits",
    auxiliary: Annotated[
        str,
        typer.Option(
            help="The attacker's own images: photos, folder:DIR, ... or same (the rest of --data).",
            metavar="SPEC",
            rich_help_panel=IMAGES,
        ),
    ] = "photos",
    queries: Annotated[
        int | None,
        typer.Option(
            help="Number of --auxiliary images; default: 1000 photos, 5000 others, or all captured. To choose "
            "between several attacks, a tenth more is used: further images, or the last of these.",
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
    victims: VictimCount = None,
    model_option: ModelOption = "",
    weights: Weights = None,
    input_size: InputSize = "",
    classes: Classes = None,
    mean: Mean = "",
    std: Std = "",
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
            help="Layers to observe the outputs of, e.g. conv2,pool2; default: those of Mehrafrooz et al. (2025); "
            "s2: those of Rajasekar et al. (2024).",
            metavar="LAYER,...",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = "",
    devices: Annotated[
        int,
        typer.Option(
            help="Number of devices for horizontal and data: 2, 4 or 8.",
            min=2,
            metavar="N",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = 4,
    view: Annotated[
        str | None,
        typer.Option(
            help="full (everything on a link; default for a plan), paper (the share that Mehrafrooz et al. count) "
            "or both.",
            metavar="NAME",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(
            help="Links in the full view: first (between the first two devices) or all (default for a plan).",
            metavar="NAME",
            rich_help_panel=OBSERVATIONS,
        ),
    ] = None,
    colluding: Annotated[
        list[str] | None,
        typer.Option(help="Links whose listeners collude.", metavar="A-B,B-C", rich_help_panel=OBSERVATIONS),
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
            help="nearest, screen, decoder, residual, residual-ensemble, cgan, cgan-l1, paste, enlarge, inpaint; "
            "with the weights: residual-augmented, refine (or refine-pixels, refine-labels), rmle; for labels: "
            "knn, probe, mlp-probe, conv-probe, rear; or your own: package.module:Class.",
            metavar="NAME,...",
            rich_help_panel=ATTACKS,
        ),
    ] = "decoder,probe",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="The attacker's knowledge of shapes: given, places or inferred; with --pairs, e.g. 0=6x14x14.",
            metavar="HOW",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    epochs: Epochs = None,
    gan_epochs: Annotated[
        int,
        typer.Option(help="Epochs of the conditional GAN.", min=1, metavar="N", rich_help_panel=ATTACKS),
    ] = 200,
    seeds: Seeds = 1,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve",
            help="Train each attack also with 1/4 and 1/2 of the pairs and of its epochs, to see whether its score "
            "still rises: about 2.5 times the work.",
            rich_help_panel=ATTACKS,
        ),
    ] = False,
    attack_seconds: AttackSeconds = None,
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
            help="Precision of kept numbers: float32 or float16.", metavar="NAME", rich_help_panel=COMPUTING
        ),
    ] = "float32",
    disk: Disk = 4.0,
    memory: MemoryLimit = "",
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; default: runs/MODEL-DATA.", metavar="FOLDER")
    ] = None,
    fail_above: Annotated[
        str,
        typer.Option(
            help="Exit with 1 if a place leaks more, e.g. pixels=0.2,labels=0.3 (upper 95 % limits, 0 to 1).",
            metavar="AXIS=SHARE,...",
            rich_help_panel=GATE,
        ),
    ] = "",
    accepted: Annotated[
        Path | None,
        typer.Option(
            help="With --fail-above: leaks that are accepted as long as they do not grow (JSON).",
            metavar="FILE",
            rich_help_panel=GATE,
        ),
    ] = None,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept", help="Write what is above the limits to --accepted, and pass.", rich_help_panel=GATE
        ),
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(
            help="With --fail-above: write the checks as JUnit XML.", metavar="FILE", rich_help_panel=GATE
        ),
    ] = None,
    sarif: Annotated[
        Path | None,
        typer.Option(help="With --fail-above: write the leaks as SARIF.", metavar="FILE", rich_help_panel=GATE),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be attacked; train and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Attack the links of a divided model, and write a report.

    The links are simulated; with --pairs, the audit attacks what a tap captured on a real link. To resume an audit,
    run the same command again.
    """
    if pairs is not None:
        _refuse(context, SIMULATED, "--pairs")
    elif is_plan(model):
        _refuse(context, PLANNED, "a plan")
    if missing := unmet(context, REQUIRED):
        raise ClovenError(missing)
    from cloven.auditing import gate, request
    from cloven.auditing.pipeline import Execution, execute, listed
    from cloven.documents import read_document
    from cloven.files import write_text
    from cloven.papers.s1 import setup
    from cloven.reporting import gate_reports

    problems: list[str] = []
    leak_limits = tried(lambda: gate.limits_of(fail_above), problems) if fail_above else None
    known = None
    if accepted is not None and not accept:
        known = tried(lambda: read_document(gate.AcceptedLeaks, accepted), problems)
    plan = None
    if pairs is None and is_plan(model):
        options = ModelOptions(model_option, input_size, classes, weights, mean, std)
        plan = tried(lambda: plan_of(PlanOptions(Path(model), options)), problems)
    elif model_option:
        problems.append(f"--model requires a plan without a [model] table, got the model {model}; leave it out")
    name = model if plan is None else plan.named_model.name
    paths = tried(lambda: layer_paths(name, names_in(layers)), problems) or ()
    memory_limit = tried(lambda: memory_size(memory), problems)
    shape_of_image = tried(lambda: image_size(input_size), problems) if input_size else None
    means, deviations = (
        tried(partial(numbers, text, option, "0.5,0.5,0.5"), problems) if text else None
        for option, text in (("--mean", mean), ("--std", std))
    )
    if problems:
        raise ClovenError(problems)
    asked = request.AuditRequest(
        model=model,
        data=data,
        auxiliary=auxiliary,
        attacks=names_in(attacks),
        strategies=names_in(strategies),
        layers=paths,
        devices=devices,
        view=view,
        links=links,
        colluding=tuple(colluding or ()),
        defences=names_in(defences),
        pairs=pairs,
        shape=tuple(shape or ()),
        weights=weights,
        input_size=shape_of_image,
        classes=classes,
        mean=means,
        std=deviations,
        judge=judge,
        mirror=mirror,
        queries=queries,
        victims=victims,
        epochs=epochs,
        gan_epochs=gan_epochs,
        seeds=seeds,
        curve=curve,
        attack_seconds=attack_seconds,
        threshold=threshold,
        device=device_of(device),
        autocast="bfloat16" if autocast else "float32",
        features=features,
        disk=disk,
        seed=seed,
    )
    paper = setup.paper(name)
    study = request.study(asked, plan, paper)
    if dry_run:
        found = listed(study, paper)
        if as_json:
            rows = [case.context.model_dump(mode="json") | {"attacks": list(names)} for case, names in found]
            print_json({"cells": rows})
        else:
            print_observations(found)
        return
    stem = Path(model).stem if plan is not None else model.replace(":", "-")
    folder = out or Path("runs") / f"{stem}-{data.partition(':')[0]}{'-captured' if pairs is not None else ''}"
    with resumable(folder) as progress:
        summary = execute(study, paper, Execution(folder, jobs or cores(), progress, memory_limit))
    print_audit(summary, folder, as_json=as_json)
    if leak_limits is None:
        return
    results = gate.checks(summary, leak_limits, known)
    if junit is not None:
        write_text(junit, gate_reports.junit(results, model))
    if sarif is not None:
        write_text(sarif, gate_reports.sarif(results, model))
    if accept and accepted is not None:
        write_text(accepted, gate.accept(results).text())
        results = gate.checks(summary, leak_limits, gate.accept(results))
    failed = [check for check in results if check.failure]
    for check in failed:
        log.error("%s: %s", check.place, check.failure)
    log.info("%d of %d checks passed", len(results) - len(failed), len(results))
    if failed:
        raise typer.Exit(MISSED)


def _refuse(context: typer.Context, names: Sequence[str], source: str) -> None:
    """Refuse options that do not apply to the source of the observations."""
    present = given(context)
    if problems := [f"--{name} cannot be used with {source}" for name in names if name in present]:
        raise ClovenError(problems)


def layer_paths(model: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths of layers from paths, from names such as ``s1:2``, or from ``s2``, for all of its cuts.

    The prefix ``s1:`` stands for Mehrafrooz et al. (2025), and ``s2:`` for Rajasekar et al. (2024).

    Raises:
        ClovenError: with each name that the model does not have.
    """
    from cloven.papers.points import resolve
    from cloven.papers.s2.privacy import cuts

    if names == S2:
        return tuple(cuts(model))
    problems: list[str] = []
    paths = [tried(partial(resolve, model, name), problems) for name in names]
    if problems:
        raise ClovenError(problems)
    return tuple(path for path in paths if path is not None)


def is_plan(name: str) -> bool:
    """Return whether a name is that of a plan file, and not of a model."""
    return name.endswith(".toml") or Path(name).is_file()
