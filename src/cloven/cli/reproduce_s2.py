"""What ``cloven reproduce s2`` was asked for, as a figure of the second paper. Parsing and printing only."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.cli import printing
from cloven.cli.options import AsJson, cores, device_of, named
from cloven.cli.printing import print_json, resumable
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.papers.s2.privacy import Study

log = logging.getLogger("cloven")

SAMPLES: Mapping[str, int] = {"full": 100, "desk": 6}
"""Images that are timed, besides the one that warms up; S2's is 100 (Sect. V-C1)."""


def s2(
    figure_: Annotated[
        str,
        typer.Option("--figure", help="3: times of each cut; 7: what is rebuilt behind each; table3: both."),
    ] = "",
    published: Annotated[
        bool, typer.Option("--published", help="table3: S2's own times and what they imply; nothing is measured.")
    ] = False,
    scale: Annotated[str, typer.Option(help="full: the paper's; desk: for two cores.")] = "desk",
    data: Annotated[str, typer.Option(help="7: what is scored. 3: may be left out: noise takes as long.")] = "",
    auxiliary: Annotated[
        str, typer.Option(help="7: the attacker's own images; same: the data set's, none of them scored.")
    ] = "same",
    model: Annotated[str, typer.Option(help="Which; resnet20, say. 3: left out, S2's three.")] = "",
    weights: Annotated[Path | None, typer.Option(help="7: the model's own, as of `cloven plan`.")] = None,
    attacks: Annotated[str, typer.Option(help="7: which attacks.")] = "cgan,residual",
    seeds: Annotated[int, typer.Option(help="7: how often each attack is trained.", min=1)] = 1,
    jobs: Annotated[int | None, typer.Option(help="7: worker processes; left out, one a core.", min=1)] = None,
    device: Annotated[str, typer.Option(help="7: what attacks are trained on: cpu, cuda or auto.")] = "auto",
    backend: Annotated[str, typer.Option(help="3: simulated, gramine-direct or gramine-sgx.")] = "simulated",
    accelerator: Annotated[str, typer.Option(help="3: what runs the rear, cpu or cuda.")] = "cpu",
    handover: Annotated[str, typer.Option(help="3: memory, file (S2's) or pipe.")] = "file",
    threads: Annotated[int, typer.Option(help="3: of each half.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="The figure's folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """S2's enclave: its times and what is rebuilt behind each cut, measured here; or as it printed them."""
    times = Times(scale, data, model, backend, accelerator, handover, threads)
    privacy = Privacy(scale, data, auxiliary, model, weights, named(attacks), seeds, device)
    show: Callable[[Mapping[str, Any]], None]
    match figure_, published:
        case "table3", True:
            found, show = _printed(), printing.table_3
        case "3", False:
            found, show = _times(times, out or _folder("3", model, scale)), printing.enclave_times
        case "7", False:
            found, show = _scores(privacy, out, jobs or cores()), printing.partition_points
        case "table3", False:
            found, show = _table_3(times, privacy, out, jobs or cores()), printing.own_table_3
        case _:
            raise ClovenError("give --figure 3, 7 or table3, or --figure table3 --published: S2's own times")
    if as_json:
        print_json(found)
    else:
        show(found)


def _folder(figure: str, *parts: str) -> Path:
    return Path("runs") / "-".join(["s2", figure, *(part.replace(":", "-") for part in parts if part)])


def _check(asked: Times | Privacy, more: Sequence[str] = ()) -> None:
    """Refuse what cannot be meant, all at once."""
    from cloven.papers.s2.privacy import cuts

    problems = list(more)
    if asked.scale not in SAMPLES:
        problems.append(f"--scale is {asked.scale!r}; choose from {', '.join(SAMPLES)}")
    if asked.model:
        tried(lambda: cuts(asked.model), problems)
    if problems:
        raise ClovenError(problems)


def _printed() -> dict[str, Any]:
    from cloven.papers.s2.enclave_fit import document, loads

    return document(loads())


# --- Figure 3 -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """What times are asked for."""

    scale: str
    data: str
    model: str
    backend: str
    accelerator: str
    handover: str
    threads: int


def _times(asked: Times, folder: Path) -> dict[str, Any]:
    """Time every cut of the models, or go on with it, and draw it."""
    from cloven.enclave.backends import named
    from cloven.enclave.handover import WAYS
    from cloven.enclave.sweep import SweepModel, measured, summarised
    from cloven.enclave.timing import ExecutionOptions, this_machine
    from cloven.files import write_text
    from cloven.papers.s2.privacy import cuts
    from cloven.papers.s2.published import EFFICIENTNET, RESNET, TABLE_3, VGG
    from cloven.reporting.enclave_figures import draw
    from cloven.zoo.named import usual
    from cloven.zoo.picture_files import as_files

    ways = f"--handover is {asked.handover!r}; choose from {', '.join(WAYS)}"
    _check(asked, [] if asked.handover in WAYS else [ways])
    models = []
    for name in [asked.model] if asked.model else [VGG, RESNET, EFFICIENTNET]:
        labelled = {label.removeprefix("Layer "): path for path, label in cuts(name).items()}
        models.append(SweepModel(name, usual(name).shape, usual(name).classes, labelled))
    how = ExecutionOptions(named(asked.backend), asked.accelerator, asked.handover, asked.threads)  # type: ignore[arg-type]
    count = 1 + SAMPLES[asked.scale]
    rows = measured(
        models,
        lambda m: as_files(asked.data, m.shape, count),
        how,
        folder,
        lambda what: log.info("timing %s", what),
    )
    document = {
        "paper": "S2",
        "figure": "3",
        "scale": asked.scale,
        "images": asked.data or "noise",
        "weights": "random: times do not depend on them",
        "backend": how.backend.name,
        "accelerator": how.device,
        "handover": how.way,
        "trust": how.backend.words,
        "machine": this_machine(asked.threads).model_dump(),
        "rows": [row.model_dump(mode="json") for row in summarised(rows)],
        "published": [row.row() for row in TABLE_3],
    }
    write_text(folder / "figure.json", json.dumps(document, indent=2) + "\n")
    draw(document, folder / "figure.png")
    log.info("figure: %s   numbers: %s", folder / "figure.png", folder / "figure.json")
    return document


# --- Figure 7 -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Privacy:
    """What attacks are asked for."""

    scale: str
    data: str
    auxiliary: str
    model: str
    weights: Path | None
    attacks: tuple[str, ...]
    seeds: int
    device: str


def _scores(asked: Privacy, out: Path | None, jobs: int) -> dict[str, Any]:
    """Attack every partition point of a model, say where S2's rule cuts, and write the plan that is cut there."""
    from cloven.auditing.paper import NO_PAPER
    from cloven.auditing.study import execute
    from cloven.enclave.sweep import SweepModel
    from cloven.files import write_text
    from cloven.papers.s2 import privacy
    from cloven.reporting.enclave_figures import draw_scores
    from cloven.reporting.writer import write
    from cloven.zoo.named import usual

    study = _study(asked)
    settings = privacy.settings(study)
    kind = asked.data.partition(":")[0]
    folder = out or _folder("7", asked.model, kind, asked.scale)
    with resumable(folder) as progress:
        summary = execute(settings, NO_PAPER, out=folder, jobs=jobs, progress=progress)
    document = privacy.document(study, summary) | {"scale": asked.scale}
    write_text(folder / "figure.json", json.dumps(document, indent=2) + "\n")
    draw_scores(document, folder / "figure.png")
    page = write(folder)
    chosen = document["plan"]
    if chosen is not None:
        cut = SweepModel(asked.model, study.shape, usual(asked.model).classes, {}, study.weights).plan(
            chosen["path"]
        )
        write_text(folder / "plan.toml", cut.toml())
    log.info("figure: %s   report: %s", folder / "figure.png", page)
    if document["rule"] == "floor":
        log.warning("knowing nothing scores more than S2's threshold: what counts is the floor")
    if chosen is None:
        why = document["no_verdict"] or "no point stays low enough for the strongest attack"
        log.warning("no plan is written: %s", why)
    else:
        log.info("plan, cut after %s: %s", chosen["path"], folder / "plan.toml")
    return document


def _study(asked: Privacy) -> Study:
    from cloven.attacks.trainer import Machine
    from cloven.papers.s2 import privacy

    problems: list[str] = []
    if not asked.model:
        problems.append("--model is left out; give one such as resnet20")
    if not asked.data:
        problems.append("--data is left out; give the images that are scored, such as cifar10:DIR")
    if asked.weights is None:
        problems.append("--weights is left out: of a model that has learned nothing no privacy could be told")
    machine = tried(lambda: Machine(device_of(asked.device)), problems)
    _check(asked, problems)
    assert asked.weights is not None
    assert machine is not None
    return privacy.Study(
        asked.model, asked.data, asked.auxiliary, asked.weights, privacy.AMOUNTS[asked.scale], asked.attacks,
        asked.seeds, machine,
    )  # fmt: skip


# --- Table III ------------------------------------------------------------------------------------------------


def _table_3(times: Times, attacked: Privacy, out: Path | None, jobs: int) -> dict[str, Any]:
    """Time and attack a model, or go on with it: what each attacker's choice of a point saves."""
    from cloven.files import write_text
    from cloven.papers.s2.privacy import table_3
    from cloven.papers.s2.published import TABLE_3

    _study(attacked)  # what is wrong is said before anything is timed
    kind = attacked.data.partition(":")[0]
    folder = out or _folder("table3", attacked.model, kind, attacked.scale)
    timed, scores = _times(times, folder / "times"), _scores(attacked, folder / "scores", jobs)
    document = {
        "paper": "S2",
        "table": "III",
        "model": attacked.model,
        "data": kind,
        "scale": attacked.scale,
        "backend": timed["backend"],
        "trust": timed["trust"],
        "machine": timed["machine"],
        "threshold": scores["threshold"],
        "tolerance": scores["tolerance"],
        "rows": table_3(timed, scores),
        "published": [row.row() for row in TABLE_3],
    }
    write_text(folder / "table.json", json.dumps(document, indent=2) + "\n")
    log.info("numbers: %s", folder / "table.json")
    return document
