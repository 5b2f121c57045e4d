"""S2's Fig. 3 and a Table III of our own: the times of cuts measured here, and what each choice of a cut saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cloven.documents import Document
from cloven.enclave.sweep import ComparedTimes, SweepModel, measured, summarised
from cloven.enclave.timing import ExecutionOptions, MeasuredMachine, this_machine
from cloven.files import write_text
from cloven.papers.s2.privacy import Rule, ScoresFigure, cuts
from cloven.papers.s2.published import EFFICIENTNET, RESNET, TABLE_3, VGG, PublishedRow
from cloven.zoo.named import usual
from cloven.zoo.picture_files import as_files

SAMPLES: Mapping[str, int] = {"full": 100, "desk": 6}
"""The number of images that are timed at each scale, besides the one that warms up; S2's is 100 (Sect. V-C1)."""


@dataclass(frozen=True)
class TimesRequest:
    """The times to measure: of ``model``, or of S2's three, on images of ``data``, or of noise."""

    scale: str
    data: str
    model: str
    how: ExecutionOptions


class TimesFigure(Document):
    """S2's Fig. 3, made again: the times of every cut, under the same conditions."""

    schema_version: Literal[1] = 1
    paper: Literal["S2"] = "S2"
    figure: Literal["3"] = "3"
    scale: str
    images: str
    weights: str = "random: times do not depend on them"
    backend: str
    accelerator: str
    handover: str
    trust: str
    machine: MeasuredMachine
    rows: tuple[ComparedTimes, ...]
    published: tuple[PublishedRow, ...]


def timed(request: TimesRequest, folder: Path, report: Callable[[str], None]) -> TimesFigure:
    """Return the document of the figure, and keep it as ``figure.json``; what is finished in the folder is reused.

    Raises:
        ClovenError: for a model that S2 does not cut, images that cannot be read, and an enclave that fails.
    """
    models = []
    for name in [request.model] if request.model else [VGG, RESNET, EFFICIENTNET]:
        labelled = {label.removeprefix("Layer "): path for path, label in cuts(name).items()}
        models.append(SweepModel(name, usual(name).shape, usual(name).classes, labelled))
    count = 1 + SAMPLES[request.scale]
    rows = measured(models, lambda m: as_files(request.data, m.shape, count), request.how, folder, report)
    document = TimesFigure(
        scale=request.scale,
        images=request.data or "noise",
        backend=request.how.backend.name,
        accelerator=request.how.device,
        handover=request.how.way,
        trust=request.how.backend.words,
        machine=this_machine(request.how.threads),
        rows=tuple(summarised(rows)),
        published=tuple(row.row() for row in TABLE_3),
    )
    write_text(folder / "figure.json", document.text())
    return document


class SavedTime(Document):
    """The cut that an attacker's scores choose by a rule, and what it saves of the time of the model all inside.

    All but the time of the model all inside are None where no point stays low enough.
    """

    attack: str
    rule: Rule
    point: int | None
    path: str | None
    full_seconds: float
    partitioned_seconds: float | None
    reduction_percent: float | None
    ratio: float | None


class SavedTable(Document):
    """S2's Table III for a model, measured here."""

    schema_version: Literal[1] = 1
    paper: Literal["S2"] = "S2"
    table: Literal["III"] = "III"
    model: str
    data: str
    scale: str
    backend: str
    trust: str
    machine: MeasuredMachine
    threshold: float
    tolerance: float
    rows: tuple[SavedTime, ...]
    published: tuple[PublishedRow, ...]


def table_3(times: TimesFigure, scores: ScoresFigure) -> SavedTable:
    """Return S2's Table III of our own: for each attacker's choice, what it saves of the time all inside.

    Args:
        times: Fig. 3, which has this model.
        scores: Fig. 7 of the model.
    """
    timed = {row.cut: row for row in times.rows if row.model == scores.model}
    rules: tuple[Rule, ...] = ("strict", "tolerant", "baseline")
    rows = []
    for attack, points in scores.optimal.items():
        for rule in rules:
            chosen = points.by(rule)
            at = timed[chosen.path if chosen else None]
            row = SavedTime(
                attack=attack,
                rule=rule,
                point=chosen.point if chosen else None,
                path=chosen.path if chosen else None,
                full_seconds=at.beside,
                partitioned_seconds=at.median if chosen else None,
                reduction_percent=at.reduction_percent if chosen else None,
                ratio=at.ratio if chosen else None,
            )
            rows.append(row)
    return SavedTable(
        model=scores.model,
        data=scores.data,
        scale=scores.scale,
        backend=times.backend,
        trust=times.trust,
        machine=times.machine,
        threshold=scores.threshold,
        tolerance=scores.tolerance,
        rows=tuple(rows),
        published=tuple(row.row() for row in TABLE_3),
    )
