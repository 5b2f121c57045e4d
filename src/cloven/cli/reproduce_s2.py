"""``cloven reproduce s2``: the figures of Rajasekar et al. (2024), measured here or as printed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cloven.cli import reproduce_s2_telemetry as telemetry
from cloven.cli.options import (
    ATTACKS,
    IMAGES,
    MODEL,
    Accelerator,
    AsJson,
    Backend,
    Device,
    Handover,
    Jobs,
    Seeds,
    Threads,
    Weights,
    cores,
    device_of,
    names_in,
)
from cloven.cli.printing import print_json, print_text, resumable, table
from cloven.errors import ClovenError, tried
from cloven.papers.points import PAPERS

if TYPE_CHECKING:
    from cloven.documents import Document
    from cloven.papers.s2.enclave_fit import PublishedTable
    from cloven.papers.s2.enclave_times import SavedTable, TimesFigure, TimesRequest
    from cloven.papers.s2.partitions import Layers, PartitionTable, PartitionTableName
    from cloven.papers.s2.privacy import PrivacyStudy, Rule, ScoresFigure

log = logging.getLogger("cloven")

PICTURED = {"4": "torchvision:vgg16", "5": "torchvision:resnet50", "6": "torchvision:efficientnet_b0"}
"""The models whose reconstructions the paper's Figs. 4 to 6 show."""

Kind = TypeVar("Kind", bound="Document")


@dataclass(frozen=True)
class S2Options:
    """The options of a figure: the model, the images, the training of the attacks, and the enclave."""

    scale: str
    data: str
    auxiliary: str
    photographs: str
    model: str
    weights: Path | None
    attacks: tuple[str, ...]
    seeds: int
    device: str
    backend: str
    accelerator: str
    handover: str
    threads: int

    @property
    def kind(self) -> str:
        """Return the data set without its folder."""
        return self.data.partition(":")[0]


def s2(
    figure: Annotated[
        str,
        typer.Option(
            help="3: times of each cut; 4, 5, 6: pictures of reconstructions; 7: their SSIM at each cut; "
            "8: figure 7 of telemetry.",
            metavar="NUMBER",
        ),
    ] = "",
    number: Annotated[
        str,
        typer.Option(
            "--table",
            help="1, 2: layers on both sides of each cut; 3: the cut that each attack chooses, and its time; "
            "classifiers: how well models classify telemetry.",
            metavar="NAME",
        ),
    ] = "",
    published: Annotated[
        bool,
        typer.Option("--published", help="With --table 3: the paper's own times; nothing is measured."),
    ] = False,
    scale: Annotated[
        str, typer.Option(help="full (as in the paper) or desk (two cores).", metavar="NAME")
    ] = "desk",
    model: Annotated[
        str,
        typer.Option(
            help="The model; required by figure 7 and table 3; default of the others: the paper's.",
            metavar="MODEL",
            rich_help_panel=MODEL,
        ),
    ] = "",
    weights: Weights = None,
    data: Annotated[
        str,
        typer.Option(
            help="The images; required for reconstructions (figure 8: ton-iot:DIR); default of figure 3: noise, "
            "which takes as long.",
            metavar="SPEC",
            rich_help_panel=IMAGES,
        ),
    ] = "",
    auxiliary: Annotated[
        str,
        typer.Option(
            help="The attacker's own images; same: images of --data that are not scored.",
            metavar="SPEC",
            rich_help_panel=IMAGES,
        ),
    ] = "same",
    photographs: Annotated[
        str,
        typer.Option(
            help="With --figure 8: photographs to attack too, to see whether the data set moves the cut.",
            metavar="SPEC",
            rich_help_panel=IMAGES,
        ),
    ] = "",
    attacks: Annotated[
        str, typer.Option(help="Attacks that reconstruct.", metavar="NAME,...", rich_help_panel=ATTACKS)
    ] = "cgan,residual",
    seeds: Seeds = 1,
    backend: Backend = "simulated",
    accelerator: Accelerator = "cpu",
    handover: Handover = "file",
    threads: Threads = 1,
    device: Device = "auto",
    jobs: Jobs = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; default: runs/s2-FIGURE-...", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Reproduce a figure of Rajasekar et al. (2024): times of an enclave, and reconstructions at each cut.

    The paper is "Privacy preserving layer partitioning for Deep Neural Network models" (arXiv 2404.07437). To
    continue a figure that was stopped, give the same command again.
    """
    options = S2Options(
        scale,
        data,
        auxiliary,
        photographs,
        model or PICTURED.get(figure, ""),
        weights,
        names_in(attacks),
        seeds,
        device,
        backend,
        accelerator,
        handover,
        threads,
    )
    match figure, number, published:
        case "3", "", False:
            _show(_time(options, out or _folder("3", model, scale)), _print_times, as_json=as_json)
        case "4" | "5" | "6" | "7", "", False:
            _show(_attack(options, out, jobs or cores()), _print_points, as_json=as_json)
        case "8", "", False:
            folder = out or _folder("8", model, scale)
            _show(telemetry.attack(options, folder, jobs or cores()), telemetry.print_figure, as_json=as_json)
        case "", "classifiers", False:
            folder = out or _folder("classifiers", model, scale)
            _show(
                telemetry.classify(options, folder, jobs or cores()), telemetry.print_classifiers, as_json=as_json
            )
        case "", "1" | "2", False:
            _show(_layers(number), _print_layers, as_json=as_json)
        case "", "3", True:
            _show(_printed(), _print_printed_table, as_json=as_json)
        case "", "3", False:
            _show(_time_and_attack(options, out, jobs or cores()), _print_own_table, as_json=as_json)
        case _:
            raise ClovenError(
                "give --figure 3, 4, 5, 6, 7 or 8, or --table 1, 2, 3 or classifiers, or --table 3 --published for "
                "the paper's own times"
            )


def _show(document: Kind, show: Callable[[Kind], None], *, as_json: bool) -> None:
    if as_json:
        print_json(document.model_dump(mode="json"))
    else:
        show(document)


def _folder(figure: str, *parts: str) -> Path:
    return Path("runs") / "-".join(["s2", figure, *(part.replace(":", "-") for part in parts if part)])


def _printed() -> PublishedTable:
    from cloven.papers.s2.enclave_fit import document, programs

    return document(programs())


def _layers(number: str) -> PartitionTable:
    from cloven.papers.s2.enclave_fit import bare_graph
    from cloven.papers.s2.partitions import MODELS, partition_table

    name: PartitionTableName = "I" if number == "1" else "II"
    return partition_table(name, bare_graph(MODELS[name]))


def _problems(options: S2Options) -> list[str]:
    """Return the errors in the options that all figures have."""
    from cloven.papers.s2.enclave_times import SAMPLES
    from cloven.papers.s2.privacy import cuts

    found = []
    if options.scale not in SAMPLES:
        found.append(f"--scale is {options.scale!r}; choose from {', '.join(SAMPLES)}")
    if options.model:
        tried(lambda: cuts(options.model), found)
    return found


# --- figure 3 -----------------------------------------------------------------------------------------------------


def _times_request(options: S2Options) -> TimesRequest:
    from cloven.enclave.backends import named
    from cloven.enclave.handover import WAYS
    from cloven.enclave.timing import ExecutionOptions
    from cloven.papers.s2.enclave_times import TimesRequest

    problems = _problems(options)
    if options.handover not in WAYS:
        problems.append(f"--handover is {options.handover!r}; choose from {', '.join(WAYS)}")
    backend = tried(lambda: named(options.backend), problems)
    if problems or backend is None:
        raise ClovenError(problems)
    way = options.handover
    how = ExecutionOptions(backend, options.accelerator, way, options.threads)  # type: ignore[arg-type]
    return TimesRequest(options.scale, options.data, options.model, how)


def _time(options: S2Options, folder: Path) -> TimesFigure:
    from cloven.papers.s2.enclave_times import timed
    from cloven.reporting.enclave_figures import draw

    request = _times_request(options)
    document = timed(request, folder, lambda what: log.info("timing %s", what))
    draw(document, folder / "figure.png")
    log.info("figure: %s   numbers: %s", folder / "figure.png", folder / "figure.json")
    return document


# --- figures 4 to 7 -------------------------------------------------------------------------------------------


def _study(options: S2Options) -> PrivacyStudy:
    from cloven.attacks.trainer import Machine
    from cloven.papers.s2 import privacy

    problems: list[str] = []
    if not options.model:
        problems.append("--model is missing; give the model, e.g. resnet20")
    if not options.data:
        problems.append("--data is missing; give the images that are scored, e.g. cifar10:DIR")
    if options.weights is None:
        problems.append("--weights is missing; give trained weights: scores of an untrained model mean nothing")
    machine = tried(lambda: Machine(device_of(options.device)), problems)
    problems += _problems(options)
    if problems or options.weights is None or machine is None:
        raise ClovenError(problems)
    return privacy.PrivacyStudy(
        options.model,
        options.data,
        options.auxiliary,
        options.weights,
        privacy.AMOUNTS[options.scale],
        options.attacks,
        options.seeds,
        machine,
    )


def _attack(options: S2Options, out: Path | None, jobs: int) -> ScoresFigure:
    """Attack every partition point of a model, choose the cut by the paper's rule, and write its plan."""
    from cloven.auditing.paper import NO_PAPER
    from cloven.auditing.pipeline import Execution, execute
    from cloven.auditing.store import Store
    from cloven.enclave.sweep import SweepModel
    from cloven.files import write_text
    from cloven.papers.s2 import privacy
    from cloven.reporting.enclave_figures import draw_reconstructions, draw_scores
    from cloven.reporting.report_file import all_samples, write
    from cloven.zoo.named import usual

    study = _study(options)
    folder = out or _folder("7", options.model, options.kind, options.scale)
    with resumable(folder) as progress:
        summary = execute(privacy.settings(study), NO_PAPER, Execution(folder, jobs, progress))
    document, pictures = privacy.document(study, summary), folder / "reconstructions.png"
    write_text(folder / "figure.json", document.text())
    draw_scores(document, folder / "figure.png")
    draw_reconstructions(document, all_samples(Store(folder), summary), pictures)
    page = write(folder)
    chosen = document.plan
    if chosen is not None:
        classes = usual(options.model).classes
        cut = SweepModel(options.model, study.shape, classes, {}, study.weights).plan(chosen.path)
        write_text(folder / "plan.toml", cut.toml())
    log.info("figure: %s   pictures: %s   report: %s", folder / "figure.png", pictures, page)
    if document.rule == "baseline":
        log.warning("the no-information baseline exceeds the paper's threshold: the baseline is the threshold")
    if chosen is None:
        why = document.no_verdict or "no point stays low enough for the strongest attack"
        log.warning("no plan is written: %s", why)
    else:
        log.info("plan, cut after %s: %s", chosen.path, folder / "plan.toml")
    return document


# --- Table III ----------------------------------------------------------------------------------------------------


def _time_and_attack(options: S2Options, out: Path | None, jobs: int) -> SavedTable:
    """Time and attack a model, and write the time that each attack's choice of a cut saves."""
    from cloven.files import write_text
    from cloven.papers.s2.enclave_times import table_3

    _study(options)  # report all problems before anything is timed
    folder = out or _folder("table3", options.model, options.kind, options.scale)
    times, scores = _time(options, folder / "times"), _attack(options, folder / "scores", jobs)
    document = table_3(times, scores)
    write_text(folder / "table.json", document.text())
    log.info("numbers: %s", folder / "table.json")
    return document


# --- tables -------------------------------------------------------------------------------------------------------


def _print_times(document: TimesFigure) -> None:
    """Print the times of each cut of each model, beside those of the whole model in the enclave."""
    print_text(document.trust)
    columns = ["layer", "cut after", "load, s", "first", "mean", "median", "sd"]
    columns += ["front", "hand-over, ms", "rear", "bytes", "time saved, %", "ratio"]
    for model in dict.fromkeys(row.model for row in document.rows):
        rows = []
        for row in document.rows:
            if row.model != model:
                continue
            parts = row.parts
            whole = [f"{row.first:.3f}", f"{row.mean:.3f}", f"{row.median:.3f}", f"{row.spread:.3f}"]
            steps = [f"{parts['front']:.3f}", f"{1e3 * parts['hand-over']:.1f}", f"{parts['rear']:.3f}"]
            saved = [row.handed_bytes, f"{row.reduction_percent:.1f}", f"{row.ratio:.2f}"]
            rows.append([row.point, row.cut or "whole model", f"{row.load:.2f}", *whole, *steps, *saved])
        table(f"{model}: seconds per image", columns, rows)
    said = "; ".join(
        f"{row.model.split(':')[-1]} {row.data}, layer {row.point}: {row.full_seconds} -> "
        f"{row.partitioned_seconds} s, {row.printed_percent} %"
        for row in document.published
    )
    print_text(f"Published by {PAPERS['s2']} (Core i7-9700K, SGX): {said}")


def _print_points(document: ScoresFigure) -> None:
    """Print the SSIM at every partition point, and the cut that each attack's scores choose."""
    rows = []
    for row in document.rows:
        ssim = row.ssim
        scores = [f"{ssim.mean:.3f}", f"{ssim.low:.3f} - {ssim.high:.3f}", f"{row.baseline:.3f}"]
        rows.append([row.point, row.label, row.path, row.attack, *scores, row.bytes])
    columns = ["point", "name", "cut after", "attack", "SSIM", "95 % interval", "baseline", "bytes"]
    table(f"{document.model} on {document.data}: SSIM of reconstructions", columns, rows)
    shown = []
    for name, found in document.optimal.items():
        points = (found.strict, found.tolerant, found.baseline)
        shown.append([name, *(point.path if point else "none" for point in points)])
    rules = [_rule("strict", document), _rule("tolerant", document), _rule("baseline", document)]
    table("Cut after the first point from which SSIM stays", ["by", *rules], shown)


def _print_layers(found: PartitionTable) -> None:
    """Print the layers on both sides of each partition point: as printed, and as counted in the model."""
    from cloven.papers.s2.partitions import in_words

    def counted(side: Layers) -> str:
        return in_words(side) + (f", {side.shortcuts} on shortcuts" if side.shortcuts else "")

    rows = []
    for row in found.rows:
        sides = [in_words(row.enclave), in_words(row.gpu), counted(row.counted_enclave), counted(row.counted_gpu)]
        rows.append([row.point, row.path, *sides, "yes" if row.agrees else "no"])
    columns = ["layer", "cut after", "enclave", "GPU", "enclave, counted", "GPU, counted", "agree"]
    table(f"{PAPERS['s2']}, Table {found.table}: layers of {found.model}", columns, rows)


def _print_printed_table(found: PublishedTable) -> None:
    """Print the paper's Table III with derived numbers, and the cost of an enclave that was fitted to its times."""
    rows = []
    for row in found.rows:
        times = [f"{row.full_seconds} s", f"{row.partitioned_seconds} s", f"{row.printed_percent} %"]
        derived = [f"{row.derived_percent} % ({row.reduction_percent:.2f})", f"{row.ratio:.2f}"]
        rows.append([row.model, row.data, row.partition_points, row.point, *times, *derived])
    columns = ["model", "data", "points", "cut at", "whole", "divided", "time saved, printed", "derived"]
    table(f"{PAPERS['s2']}, Table III and Sect. V-D3, as printed", [*columns, "times as fast"], rows)
    fit = found.fit
    fitted = []
    for time in fit.rows:
        sizes = [f"{time.weight_bytes / 1e6:.1f}", f"{time.macs / 1e6:,.0f}"]
        seconds = [f"{time.published_seconds:.2f}", f"{time.fitted_seconds:.2f}"]
        difference = f"{time.residual_seconds:+.2f}"
        fitted.append([time.model, time.point or "the end", time.ops, *sizes, *seconds, difference])
    columns = ["model", "up to", "ops", "weights MB", "MMAC", "published", "fitted", "difference"]
    table("Seconds inside the enclave, fitted to the seven published times", columns, fitted)
    print_text(
        f"fit: {fit.fixed:.2f} s, {1e3 * fit.op:.1f} ms per op, {1e9 * fit.byte:.2f} ms per MB of weights "
        f"beyond {fit.epc / 1e6:.0f} MB, {1e12 * fit.mac:.2f} ms per GMAC"
    )
    for line in found.notes:
        print_text(line)


def _print_own_table(found: SavedTable) -> None:
    """Print the cut that each attack's scores choose, and the time that it saves."""
    print_text(found.trust)
    rows = []
    for row in found.rows:
        whole = f"{row.full_seconds:.3f} s"
        chosen: list[object] = ["none", "", whole, "", "", ""]
        if row.point is not None:
            divided, less = f"{row.partitioned_seconds:.3f} s", f"{row.reduction_percent:.1f} %"
            chosen = [row.point, row.path, whole, divided, less, f"{row.ratio:.2f}"]
        rows.append([row.attack, _rule(row.rule, found), *chosen])
    columns = ["by", "SSIM stays", "point", "cut after", "whole", "divided", "time saved", "times as fast"]
    table(f"{found.model} on {found.data}: cut after the first point from which SSIM stays low", columns, rows)


def _rule(name: Rule, found: ScoresFigure | SavedTable) -> str:
    """Return a rule of `cloven.papers.s2.privacy.Rule` as text."""
    limit, later = found.threshold, found.threshold + found.tolerance
    words = {
        "strict": f"below {limit}",
        "tolerant": f"below {limit}, later points below {later:.2f}",
        "baseline": "below its baseline",
    }
    return words[name]
