"""Fig. 3 and Table III from our own measurements: the time of each cut, and the time that each choice saves."""

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
"""The number of timed images at each scale, besides one warm-up image; 100 in the paper (Sect. V-C1)."""


@dataclass(frozen=True)
class TimesRequest:
    """The times to measure.

    Attributes:
        scale: the name of the scale.
        data: the images; noise if empty.
        model: the model; the paper's three if empty.
        how: the enclave, the accelerator, and the hand-over between them.
    """

    scale: str
    data: str
    model: str
    how: ExecutionOptions


class TimesFigure(Document):
    """The paper's Fig. 3, reproduced: the times of every cut, under the same conditions."""

    schema_version: Literal[2] = 2
    paper: Literal["s2"] = "s2"
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
    """Measure the times of the figure, write them to ``figure.json`` and return them.

    Finished measurements in the folder are reused.

    Raises:
        ClovenError: for a model without partition points, images that cannot be read, or an enclave that fails.
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
    """The cut that a rule chooses by an attack's scores, and the time that it saves.

    ``full_seconds`` is the time of the whole model in the enclave. The other numbers are None if no point stays
    low enough.
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
    """The paper's Table III for one model, from our own measurements."""

    schema_version: Literal[2] = 2
    paper: Literal["s2"] = "s2"
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
    """Return Table III from our own measurements: the time that each attack's choice of a cut saves.

    Args:
        times: Fig. 3, which includes this model.
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
