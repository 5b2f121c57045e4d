"""``cloven reproduce s1``: the figures of Mehrafrooz et al. (2025), the cost of encryption, and the claims."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloven.cli.exits import MISSED
from cloven.cli.options import (
    ATTACKS,
    COMPUTING,
    COST,
    IMAGES,
    MODEL,
    AsJson,
    Device,
    Disk,
    Jobs,
    Seed,
    cores,
    device_of,
    names_in,
    quantity,
)
from cloven.cli.printing import NARROW, interval, print_json, print_text, resumable, table
from cloven.errors import ClovenError, tried
from cloven.papers.points import PAPERS

if TYPE_CHECKING:
    from cloven.papers.s1.bars import StrategyBar
    from cloven.papers.s1.experiments import Request
    from cloven.papers.s1.figure3 import Preset
    from cloven.papers.s1.figure3_document import CostFigure
    from cloven.papers.s1.figure3_presets import Board
    from cloven.papers.s1.figure_document import JudgedClaim, StrategyFigure

log = logging.getLogger("cloven")

MOST = 1e12
"""The largest clock in Hz and power in W that the cost of encryption is computed for."""


@dataclass(frozen=True)
class FigureOptions:
    """The options of a figure; empty ones and None take the value of the scale."""

    figure: str
    data: str
    auxiliary: str
    scale: str
    controls: str
    model: str
    initial_weights: Path | None
    seeds: int | None
    cnn_epochs: int | None
    device: str
    disk: float
    seed: int


def s1(
    figure: Annotated[
        str, typer.Option(help="The figure: 5a, 5b, 5c, 6, or 3 (cost of encryption).", metavar="NUMBER")
    ] = "",
    judge: Annotated[
        bool, typer.Option("--claims", help="Judge the paper's claims by the figures of --scale in runs/s1-*.")
    ] = False,
    scale: Annotated[
        str,
        typer.Option(
            help="full (as in the paper), bench (two cores, a night) or desk (two cores, half an hour).",
            metavar="NAME",
        ),
    ] = "desk",
    controls: Annotated[
        str,
        typer.Option(help="Variations beyond the paper: all, none, or some by name.", metavar="NAME,..."),
    ] = "all",
    data: Annotated[
        str,
        typer.Option(help="Data sets, e.g. mnist:DIR,cifar10:DIR.", metavar="SPEC,...", rich_help_panel=IMAGES),
    ] = "",
    auxiliary: Annotated[
        str,
        typer.Option(
            help="The attacker's own images: folder:DIR, or photos.", metavar="SPEC", rich_help_panel=IMAGES
        ),
    ] = "photos",
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Download data sets that are missing: mnist, cifar10, flowers102.",
            rich_help_panel=IMAGES,
        ),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            help="The model in another width; default: that of the scale.", metavar="MODEL", rich_help_panel=MODEL
        ),
    ] = "",
    initial_weights: Annotated[
        Path | None,
        typer.Option(
            help="Initial weights for training the CNN; its last layer is replaced.",
            metavar="FILE",
            rich_help_panel=MODEL,
        ),
    ] = None,
    cnn_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of training the CNN; default: those of the scale.",
            min=1,
            metavar="N",
            rich_help_panel=MODEL,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train each attack with N seeds; default: those of the scale.",
            min=1,
            metavar="N",
            rich_help_panel=ATTACKS,
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            help="Start no attack after N hours, and draw the bars that are finished, of the first seed first; "
            "default: no limit.",
            min=0,
            metavar="N",
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    clock: Annotated[
        str,
        typer.Option(
            help="Clock of the processors, e.g. 1.2GHz or cortex-a7=900MHz,cortex-a17=1.8GHz; default: 1 GHz.",
            metavar="CLOCK",
            rich_help_panel=COST,
        ),
    ] = "",
    power: Annotated[
        str,
        typer.Option(
            help="Power of the processors, e.g. 0.5W or cortex-a7=0.4W,this-host=15W; default: 1 W.",
            metavar="POWER",
            rich_help_panel=COST,
        ),
    ] = "",
    device: Device = "auto",
    disk: Disk = 4.0,
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; default: runs/s1-FIGURE-SCALE.", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reproduce a figure of Mehrafrooz et al. (2025), or judge the paper's claims.

    The paper is "A Security Analysis of CNN Partitioning Strategies for Distributed Inference at the Edge". To
    continue a figure that was stopped, give the same command again. The exit code is 1 if --hours ended before the
    figure was finished.
    """
    if judge == bool(figure):
        raise ClovenError("give either --figure (3, 5a, 5b, 5c or 6) or --claims")
    if figure != "3" and (clock or power):
        raise ClovenError("--clock and --power require --figure 3")
    if judge:
        _judge_claims(out, scale, as_json=as_json)
        return
    if figure == "3":
        _reproduce_costs(*_processors(clock, power), out or Path("runs") / "s1-3", as_json=as_json)
        return
    for spec in names_in(data) if download else ():
        from cloven.zoo.download import download as fetch

        fetch(spec)
    options = FigureOptions(
        figure,
        data,
        auxiliary,
        scale,
        controls,
        model,
        initial_weights,
        seeds,
        cnn_epochs,
        device,
        disk,
        seed,
    )
    _reproduce_figure(options, out, jobs=jobs or cores(), hours=hours, as_json=as_json)


def _reproduce_figure(
    options: FigureOptions, out: Path | None, *, jobs: int, hours: float | None, as_json: bool
) -> None:
    from cloven.papers.s1.experiments import folder_of
    from cloven.papers.s1.reproduce import reproduce
    from cloven.reporting.strategy_bars import write

    request = _request(options)
    folder = out or folder_of(options.figure, options.scale)
    with resumable(folder) as progress:
        document = reproduce(request, out=folder, jobs=jobs, progress=progress, hours=hours)
    picture = write(folder, document) if document.bars else "none"
    if as_json:
        print_json(document.model_dump(mode="json"))
    else:
        _print_claims(document.claims)
        _print_bars(document)
    log.info("figure: %s   numbers: %s", picture, folder / "figure.json")
    if not document.progress.complete:
        log.warning(
            "%s are finished in %s after %g hours: run the same command again to continue",
            document.progress,
            folder,
            hours,
        )
        raise typer.Exit(MISSED)


def _request(options: FigureOptions) -> Request:
    from cloven.attacks.trainer import Machine
    from cloven.papers.s1 import setup
    from cloven.papers.s1.experiments import CONTROLS, FIGURES, Request
    from cloven.papers.s1.scales import SCALES

    problems = []
    several = {"all": tuple(CONTROLS), "none": ()}
    controls = several[options.controls] if options.controls in several else names_in(options.controls)
    for option, value, known in (("figure", options.figure, [*FIGURES, "3"]), ("scale", options.scale, SCALES)):
        if value not in known:
            problems.append(f"--{option} is {value!r}; choose from {', '.join(known)}")
    problems += [
        f"--controls has {name!r}; choose from all, none, {', '.join(CONTROLS)}"
        for name in controls
        if name not in CONTROLS
    ]
    figures = SCALES.get(options.scale, {})
    usual = figures.get(options.figure)
    if figures and usual is None and options.figure in FIGURES:
        problems.append(f"--scale {options.scale} has no figure {options.figure}; choose from {', '.join(figures)}")
    if usual and options.model and setup.layers_of(options.model) != setup.layers_of(usual.model):
        problems.append(
            f"--model is {options.model!r}; figure {options.figure} expects {usual.model}, in any width"
        )
    if not options.data:
        problems.append("--data is missing; give the figure's data sets, e.g. mnist:DIR,cifar10:DIR")
    if problems or usual is None:
        raise ClovenError(problems)
    scale = replace(
        usual,
        model=options.model or usual.model,
        seeds=options.seeds or usual.seeds,
        training=options.cnn_epochs or usual.training,
    )
    return Request(
        options.figure,
        names_in(options.data),
        options.auxiliary,
        scale,
        controls,
        Machine(device_of(options.device)),
        int(options.disk * 10**9),
        options.seed,
        options.initial_weights,
    )


def _processors(clock: str, power: str) -> tuple[tuple[Board, ...], float]:
    """Return the paper's processors with the given clocks and powers, and the power of this machine."""
    from cloven.papers.s1.figure3_presets import BOARDS

    problems: list[str] = []
    names = [board.name.lower() for board in BOARDS]
    clocks = _by_name(clock, "--clock", {"GHz": 1e9, "MHz": 1e6}, names, problems)
    powers = _by_name(power, "--power", {"W": 1.0, "mW": 1e-3}, [*names, "this-host"], problems)
    if problems:
        raise ClovenError(problems)
    boards = (
        board.model_copy(update={"clock": clocks.get(name, board.clock), "power": powers.get(name, board.power)})
        for name, board in zip(names, BOARDS, strict=True)
    )
    return tuple(boards), powers.get("this-host", 1.0)


def _by_name(
    text: str, option: str, units: Mapping[str, float], names: Sequence[str], problems: list[str]
) -> dict[str, float]:
    """Return the quantity of each name in ``2W,a=1W``, where one without a name applies to all others."""
    given: dict[str, float] = {}
    for part in names_in(text):
        name, equals, amount = (piece.strip() for piece in part.rpartition("="))
        value = tried(partial(quantity, amount, option, units), problems)
        if equals and name not in names:
            problems.append(f"{option} names {name!r}; choose from {', '.join(names)}")
        if name in given:
            problems.append(f"{option} has two values for {name or 'all processors'}; expected one")
        if value is not None and not 0 < value <= MOST:
            problems.append(f"{option} is {amount!r}; expected more than 0, and at most 10^12 in Hz or W")
        given[name] = value or 0.0
    others = given.pop("", None)
    return given if others is None else dict.fromkeys(names, others) | given


def _reproduce_costs(boards: Sequence[Board], power: float, folder: Path, *, as_json: bool) -> None:
    """Reproduce Fig. 3, the cost of encryption: by the paper's numbers, by published ones, and measured here."""
    from cloven.files import replacing, write_text
    from cloven.papers.s1.figure3_document import document
    from cloven.papers.s1.measured_costs import measured, scenarios
    from cloven.reporting.cost_bars import draw

    divided = scenarios()
    here: dict[str, Preset] = {scenario.reading: measured(scenario, power=power) for scenario in divided}
    found = document(divided, boards, here)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "figure.json", found.text())
    for reading in here:
        with replacing(folder / f"figure-{reading}.png") as part:
            draw(found, reading).savefig(part, format="png", dpi=130)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _print_costs(found)
    log.info("figures and numbers: %s", folder)


def _judge_claims(folder: Path | None, scale: str, *, as_json: bool) -> None:
    from cloven.papers.s1.claims import all_judged
    from cloven.papers.s1.figure_document import JudgedClaims
    from cloven.papers.s1.reproduce import made_at
    from cloven.papers.s1.scales import SCALES

    if scale not in SCALES:
        raise ClovenError(f"--scale is {scale!r}; choose from {', '.join(SCALES)}")
    folders = [folder] if folder else sorted(Path("runs").glob("s1-*"))
    read = made_at(folders, scale)
    bars: list[StrategyBar] = []
    for found in read.values():
        bars += found
    judged = JudgedClaims(figures=tuple(map(str, read)), scale=scale, claims=all_judged(bars))
    if as_json:
        print_json(judged.model_dump(mode="json"))
    else:
        _print_claims(judged.claims)


# --- tables -------------------------------------------------------------------------------------------------------


def _print_claims(claims: Sequence[JudgedClaim]) -> None:
    """Print the paper's claims and the verdict on each."""
    shown = []
    for claim in claims:
        controls = "\n".join(f"{control}: {word}" for control, word in claim.controls.items())
        verdict = f"{claim.verdict}\n{claim.basis}".rstrip()
        shown.append([claim.claim, claim.sentence, verdict, controls])
    columns = ["claim", "statement", "verdict", "by control"]
    table(f"Claims of {PAPERS['s1']}, judged by the numbers", columns, shown, width=NARROW)


def _print_bars(figure: StrategyFigure) -> None:
    """Print the data sets of a figure, its bars, and the differences from the paper."""
    sets = []
    for data in figure.data:
        differs = "; ".join(data.differs) or ("none" if data.agrees else "not in the paper")
        split = "/".join(f"{n:,}" for n in data.split)
        sets.append([data.name, data.images, data.size, data.classes, data.colours, split, differs])
    columns = ["data", "images", "size", "classes", "colours", "80/10/10 %", "differences from the paper"]
    table("Data sets (Table 1 of the paper)", columns, sets)
    bars = []
    for bar in figure.bars:
        where = f", {bar.where}" if bar.where else ""
        name = f"{bar.strategy}, {bar.layer}, {bar.devices}{where}"
        shares = f"{min(bar.shares):.2f} to {max(bar.shares):.2f}"
        scores = [f"{bar.baselines.agreement:.2f}", f"{bar.ssim.mean:.2f}"]
        sent = "yes" if bar.crosses else "never"
        bars.append([bar.control, bar.data, name, interval(bar.agreement), shares, *scores, sent])
    columns = ["control", "data", "bar", "agreement [95 %]", "shares", "baseline", "SSIM", "sent"]
    table(f"{PAPERS['s1']}, {figure.title}, scale {figure.scale.name}", columns, bars)
    for line in figure.smaller:
        print_text(f"difference from the paper: {line}")


def _print_costs(figure: CostFigure) -> None:
    """Print the cost of encryption for each device under each reading of the cuts, and the arithmetic behind it."""
    from cloven.papers.s1.figure3_document import table as cost_rows

    rows = cost_rows(figure)
    for reading in figure.readings:
        mine = [row for row in rows if row["reading"] == reading.reading]
        columns = [name for name in mine[0] if name != "reading"]
        title = f"{PAPERS['s1']}, Fig. 3, layers counted as {reading.reading}: cut after {', '.join(reading.cuts)}"
        table(title, columns, [[row[name] for name in columns] for row in mine])
        for sentence in reading.arithmetic.sentences:
            print_text(sentence)
    for sentence in figure.assumptions:
        print_text(f"assumed: {sentence}")
