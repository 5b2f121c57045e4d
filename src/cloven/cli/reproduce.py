"""What ``cloven reproduce`` was asked for, as a figure of a paper. Parsing and printing only."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloven.cli import printing
from cloven.cli.options import AsJson, cores, device_of, named
from cloven.cli.printing import print_json, resumable
from cloven.cli.reproduce_s2 import s2
from cloven.errors import ClovenError

if TYPE_CHECKING:
    from cloven.papers.s1.experiments import Request
    from cloven.papers.s1.figure3 import Preset

log = logging.getLogger("cloven")


@dataclass(frozen=True)
class Asked:
    """The options of ``cloven reproduce s1``."""

    figure: str
    data: str
    auxiliary: str
    scale: str
    controls: str
    seeds: int | None
    cnn_epochs: int | None
    model: str
    weights: Path | None
    device: str
    budget: float
    seed: int


def figure(asked: Asked, out: Path | None, *, jobs: int, as_json: bool) -> None:
    """Make a figure again, or go on with it; print and draw it."""
    from cloven.papers.s1.experiments import folder_of
    from cloven.papers.s1.reproduce import reproduce
    from cloven.reporting.strategy_bars import write

    request = _request(asked)
    folder = out or folder_of(asked.figure, asked.scale)
    with resumable(folder) as progress:
        document = reproduce(request, out=folder, jobs=jobs, progress=progress)
    picture = write(folder, document)
    if as_json:
        print_json(document)
    else:
        printing.bars(document)
        printing.claims(document["claims"])
    log.info("figure: %s   numbers: %s", picture, folder / "figure.json")


def _request(asked: Asked) -> Request:
    from cloven.attacks.trainer import Machine
    from cloven.papers.s1 import setup
    from cloven.papers.s1.experiments import CONTROLS, FIGURES, Request
    from cloven.papers.s1.scales import SCALES

    problems = []
    several = {"all": tuple(CONTROLS), "none": ()}
    controls = several[asked.controls] if asked.controls in several else named(asked.controls)
    for option, value, known in (("--figure", asked.figure, [*FIGURES, "3"]), ("--scale", asked.scale, SCALES)):
        if value not in known:
            problems.append(f"{option} is {value!r}; choose from {', '.join(known)}")
    problems += [
        f"--controls names {name!r}; choose from all, none, {', '.join(CONTROLS)}"
        for name in controls
        if name not in CONTROLS
    ]
    usual = SCALES.get(asked.scale, {}).get(asked.figure)
    if usual and asked.model and setup.layers_of(asked.model) != setup.layers_of(usual.model):
        problems.append(f"--model is {asked.model!r}; figure {asked.figure} is of {usual.model}, of any width")
    if not asked.data:
        problems.append("--data is left out; give the figure's data sets, such as mnist:DIR,cifar10:DIR")
    if problems or usual is None:
        raise ClovenError(problems)
    scale = replace(
        usual,
        model=asked.model or usual.model,
        seeds=asked.seeds or usual.seeds,
        training=asked.cnn_epochs or usual.training,
    )
    return Request(
        asked.figure, named(asked.data), asked.auxiliary, scale, controls,
        Machine(device_of(asked.device)), int(asked.budget * 10**9), asked.seed, asked.weights,
    )  # fmt: skip


def _download(spec: str) -> None:
    from cloven.zoo.download import download

    download(spec)


def cost(folder: Path, *, as_json: bool) -> None:
    """S1's Fig. 3: what encryption costs, by S1's implied numbers, by published ones, and measured here."""
    from cloven.auditing.store import to_text
    from cloven.files import replacing, write_text
    from cloven.papers.s1.figure3_document import document, table
    from cloven.papers.s1.measured_costs import compiled, measured
    from cloven.reporting.cost_bars import draw

    parts = compiled()
    here: dict[str, Preset] = {one.scenario.reading: measured(one) for one in parts}
    found = document([one.scenario for one in parts], measured=here)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "figure.json", to_text(found))
    for reading in here:
        with replacing(folder / f"figure-{reading}.png") as part:
            draw(found, reading).savefig(part, format="png", dpi=130)
    if as_json:
        print_json(found)
    else:
        printing.costs(table(found), found)
    log.info("figures and numbers: %s", folder)


def claims(folder: Path | None, scale: str, *, as_json: bool) -> None:
    """Judge S1's claims by all the figures of one scale that were made."""
    from cloven.papers.s1.claims import all_judged
    from cloven.papers.s1.reproduce import made_at

    folders = [folder] if folder else sorted(Path("runs").glob("s1-*"))
    read = made_at(folders, scale)
    rows: list[dict[str, Any]] = all_judged([bar for found in read.values() for bar in found])
    if as_json:
        print_json({"figures": [str(path) for path in read], "scale": scale, "claims": rows})
    else:
        printing.claims(rows)


# --- the command --------------------------------------------------------------------------------------------------

papers = typer.Typer(help="Make a paper's figures again, with what it says beside what is measured.")


@papers.command()
def s1(
    figure_: Annotated[str, typer.Option("--figure", help="5a, 5b, 5c or 6; 3 is the cost of encryption.")] = "",
    judge: Annotated[
        bool,
        typer.Option("--claims", help="Judge S1's claims by the figures of --scale that were made (runs/s1-*)."),
    ] = False,
    data: Annotated[
        str, typer.Option(help="The data sets, such as mnist:DIR,cifar10:DIR.", metavar="SPEC,...")
    ] = "",
    auxiliary: Annotated[str, typer.Option(help="The attacker's images: folder:DIR, or photos.")] = "photos",
    scale: Annotated[str, typer.Option(help="full (the paper's) or desk (two cores, half an hour).")] = "desk",
    controls: Annotated[
        str, typer.Option(help="all, none, or some by name: what the paper did not vary.", metavar="NAME,...")
    ] = "all",
    out: Annotated[Path | None, typer.Option(help="The results' folder; left out, runs/s1-FIGURE-SCALE.")] = None,
    seeds: Annotated[int | None, typer.Option(help="How often each decoder is trained.", min=1)] = None,
    cnn_epochs: Annotated[
        int | None, typer.Option(help="How long a CNN is trained; left out, as --scale says.", min=1)
    ] = None,
    model: Annotated[str, typer.Option(help="The model, of another width; left out, as --scale says.")] = "",
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights that training the CNN starts from; its classifying layer is new."),
    ] = None,
    device: Annotated[str, typer.Option(help="Train on cpu, cuda, or auto: cuda if there is one.")] = "auto",
    budget: Annotated[float, typer.Option(help="Gigabytes of captured numbers to keep.", min=0)] = 4.0,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Worker processes; left out, one a core.", min=1)] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download data sets that are not there: mnist, cifar10, flowers102.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a figure of S1 again, or judge its claims by those that were made. Started again, it goes on."""
    if judge == bool(figure_):
        raise ClovenError("give either --figure (3, 5a, 5b, 5c or 6) or --claims")
    if judge:
        claims(out, scale, as_json=as_json)
        return
    if figure_ == "3":
        cost(out or Path("runs") / "s1-3", as_json=as_json)
        return
    for spec in named(data) if download else ():
        _download(spec)
    asked = Asked(
        figure_, data, auxiliary, scale, controls, seeds, cnn_epochs, model, weights, device, budget, seed
    )
    figure(asked, out, jobs=jobs or cores(), as_json=as_json)


papers.command()(s2)
