"""The parts of ``cloven reproduce s2`` for TON_IoT's telemetry: the classifiers, and Fig. 8."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloven.cli.audit_tables import BETTER, reading
from cloven.cli.options import device_of
from cloven.cli.printing import by, interval, print_text, resumable, table
from cloven.errors import ClovenError, tried

if TYPE_CHECKING:
    from cloven.attacks.trainer import Machine
    from cloven.cli.reproduce_s2 import S2Options
    from cloven.papers.s2.classifiers import ClassifierTable
    from cloven.papers.s2.figure8 import TelemetryFigure, TelemetryScore
    from cloven.papers.s2.victims import TelemetryScale

log = logging.getLogger("cloven")


@dataclass(frozen=True)
class TelemetryOptions:
    """The options of a study of telemetry, checked: the sizes, the models, and the processor."""

    scale: TelemetryScale
    models: tuple[str, ...]
    machine: Machine


def _checked(options: S2Options, models: tuple[str, ...]) -> TelemetryOptions:
    """Return the options that both studies have; ``models`` are those of the paper.

    Raises:
        ClovenError: with all that is wrong with them.
    """
    from cloven.attacks.trainer import Machine
    from cloven.papers.s2.victims import scale_of

    problems: list[str] = []
    scale = tried(lambda: scale_of(options.scale), problems)
    machine = tried(lambda: Machine(device_of(options.device)), problems)
    if not options.data:
        problems.append("--data is missing; give the telemetry, ton-iot:DIR")
    if problems or scale is None or machine is None:
        raise ClovenError(problems)
    return TelemetryOptions(scale, (options.model,) if options.model else models, machine)


# --- figure 8 -----------------------------------------------------------------------------------------------------


def attack(options: S2Options, folder: Path, jobs: int) -> TelemetryFigure:
    """Train the models on telemetry, attack them at every point, and write the figure."""
    from cloven.files import write_text
    from cloven.papers.s2.figure8 import TelemetryStudy, attack_telemetry
    from cloven.papers.s2.privacy import cuts
    from cloven.papers.s2.victims import VICTIMS
    from cloven.reporting.report_file import write
    from cloven.reporting.telemetry_figure import draw_telemetry

    checked = _checked(options, VICTIMS)
    for model in checked.models:
        cuts(model)
    study = TelemetryStudy(
        options.data,
        checked.scale,
        options.photographs,
        checked.models,
        options.attacks,
        options.seeds,
        checked.machine,
    )
    with resumable(folder) as progress:
        document = attack_telemetry(study, folder, jobs, progress)
    write_text(folder / "figure.json", document.text())
    draw_telemetry(document, folder / "figure.png")
    for audited in study.audits:
        log.info("report: %s", write(folder / audited.name))
    log.info("figure: %s   numbers: %s", folder / "figure.png", folder / "figure.json")
    return document


def print_figure(found: TelemetryFigure) -> None:
    """Print the scores of each model at every point, the recovered readings, and the move of the cut."""
    print_text(
        f"Images of {by(found.shape)}: windows of {found.windows.window} rows of "
        f"{' and '.join(found.windows.sensors)}; models trained for {found.epochs} epochs with class weights, "
        f"c-GAN for {found.gan_epochs}"
    )
    for model in found.models:
        score = "no labels" if model.accuracy is None else f"accuracy {model.accuracy:.2f}, kappa {model.kappa:.2f}"
        title = f"{model.model} on {model.data} ({score})"
        rows = [[row.label, row.path, row.attack, *_scores(row)] for row in model.rows]
        columns = ["name", "cut after", "attack", "SSIM", "baseline", "agreement", "baseline"]
        table(f"{title}: mean [95 %]", columns, rows)
        readings = [
            [row.label, row.attack, *(reading(one) for one in row.readings)] for row in model.rows if row.readings
        ]
        if readings:
            names = [f"{one.column}, {one.measure}" for one in model.rows[0].readings]
            guesses = [f"{one.baseline.mean:.3g}" for one in model.rows[0].readings]
            table(
                f"{title}: recovered readings [95 %]; {BETTER}",
                ["name", "attack", *names],
                [*readings, ["", "constant guess", *guesses]],
            )
        if model.no_verdict is not None:
            print_text(f"No cut is chosen: {model.no_verdict}")
    moves = [
        [one.model, one.source, one.attack, one.rule, _cut(one.telemetry), _cut(one.photographs), one.move]
        for one in found.moves
    ]
    table(
        "Cut on telemetry beside that on photographs",
        ["model", "source", "by", "rule", "telemetry", "photographs", "move"],
        moves,
    )


def _scores(row: TelemetryScore) -> list[str]:
    scores = ((row.ssim, row.baseline), (row.agreement, row.agreement_baseline))
    return [text for score, baseline in scores for text in (interval(score), f"{baseline:.2f}")]


def _cut(point: int | None) -> str:
    return "none" if point is None else str(point)


# --- classifiers --------------------------------------------------------------------------------------------------


def classify(options: S2Options, folder: Path, jobs: int) -> ClassifierTable:
    """Train the models and the trees under each split of the telemetry, and write their scores."""
    from cloven.files import write_text
    from cloven.papers.s2.classifiers import ClassifierStudy, compared
    from cloven.papers.s2.victims import CLASSIFIERS

    checked = _checked(options, CLASSIFIERS)
    study = ClassifierStudy(options.data, checked.scale, checked.models, checked.machine.device)
    with resumable(folder) as progress:
        document = compared(study, jobs, progress)
    write_text(folder / "table.json", document.text())
    log.info("numbers: %s", folder / "table.json")
    return document


def print_classifiers(found: ClassifierTable) -> None:
    """Print the scores of each classifier under each split, and the recall of each class under the first."""
    ways = list(dict.fromkeys(row.split for row in found.rows))
    names = list(dict.fromkeys(row.classifier for row in found.rows))
    scores = {(row.classifier, row.split): row for row in found.rows}
    title = (
        f"Windows of {found.window} rows of {' and '.join(found.sensors)} as images of {by(found.shape)}; "
        f"CNNs trained for {found.epochs} epochs with class weights"
    )
    print_text(title)
    for word, score in (("Macro-F1", "macro_f1"), ("Accuracy", "accuracy")):
        rows = [[name, *(interval(getattr(scores[name, way], score)) for way in ways)] for name in names]
        table(f"{word} [95 %], by split", ["classifier", *ways], rows)
    first = [scores[name, ways[0]] for name in names]
    recalls = [
        [one.name, one.windows, *(interval(row.classes[i].recall) for row in first)]
        for i, one in enumerate(first[0].classes)
    ]
    table(f"Recall [95 %] of each class, split by {ways[0]}", ["class", "windows", *names], recalls)
    print_text("Each model was trained once; intervals cover the windows of the test part.")
