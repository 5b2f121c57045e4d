"""The paper's Fig. 8: reconstructions of windows of telemetry, and whether the data set moves the cut.

The paper finds that ResNet-50 may be cut earlier on TON_IoT than on photographs, and EfficientNet-B0 at the same
point (Sect. V-D3). Here, the same models are attacked on telemetry and, if photographs are given, on these, with
images of the same size and the same attacks. Since a window holds measurements, it is also counted how well the
readings themselves are recovered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Literal, get_args

from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.executor import LocalExecutor, run_audits
from cloven.auditing.finding import Finding, RecoveredReadings, SeedsRange
from cloven.auditing.paper import NO_PAPER
from cloven.auditing.pipeline import audit_steps, loaded
from cloven.auditing.settings import Study
from cloven.auditing.subject import NOBODY, SAME, Subject, cnn, load_images
from cloven.auditing.suite import AttackSuite
from cloven.auditing.summary import Summary
from cloven.documents import Document
from cloven.papers.s2.privacy import (
    ATTACKS,
    STRONGEST,
    TOLERANCE,
    ChosenPoints,
    PointScore,
    Rule,
    cut_at_every_point,
    point_by,
    points_by_attack,
    scores_by_attack,
)
from cloven.papers.s2.published import TABLE_3, THRESHOLD
from cloven.papers.s2.victims import VICTIMS, TelemetryScale, telemetry, training_of
from cloven.parallel import side_by_side
from cloven.progress import Progress, no_progress
from cloven.zoo.telemetry import WindowSettings

Kind = Literal["telemetry", "photographs"]
Move = Literal["earlier", "later", "same", "undecided", "no verdict"]


@dataclass(frozen=True)
class Audited:
    """A model and the data on which it is attacked."""

    model: str
    kind: Kind
    data: str

    @property
    def name(self) -> str:
        """The name of the folder of its audit."""
        return f"{self.model.rpartition(':')[2]}-{self.data.partition(':')[0]}"


@dataclass(frozen=True)
class TelemetryStudy:
    """The attacks of Fig. 8.

    Attributes:
        data: the spec of the telemetry.
        photographs: the spec of photographs to compare with; empty for none.
        scale: the sizes.
        models: the models.
        attacks: the attacks.
        seeds: the number of seeds of each attack.
        machine: the processor and precision of the training.
        seed: the seed of the split and of the training of the models.
    """

    data: str
    scale: TelemetryScale
    photographs: str = ""
    models: tuple[str, ...] = VICTIMS
    attacks: tuple[str, ...] = ATTACKS
    seeds: int = 1
    machine: Machine = CPU
    seed: int = 0

    @property
    def audits(self) -> tuple[Audited, ...]:
        """Return each model on each data set."""
        sets: dict[Kind, str] = {"telemetry": self.data, "photographs": self.photographs}
        return tuple(
            Audited(model, kind, data) for (kind, data), model in product(sets.items(), self.models) if data
        )

    def settings(self, audited: Audited) -> Study:
        """Return the audit of a model."""
        scale = self.scale
        training = training_of(scale, self.machine.device)
        subject = Subject(
            model=audited.model,
            data=audited.data,
            auxiliary=SAME,
            queries=scale.queries,
            victims=scale.victims,
            shape=scale.shape,
            training=replace(training, images=None if audited.kind == "telemetry" else scale.photographs),
            judge=NOBODY,
            seed=self.seed,
        )
        suite = AttackSuite(self.attacks, scale.epochs, scale.gan_epochs)
        return cut_at_every_point(subject, suite, self.seeds, self.machine)


class TelemetryScore(PointScore):
    """The scores of an attack at a point: SSIM, agreement, and the recovered readings, of telemetry only."""

    agreement: SeedsRange
    agreement_baseline: float
    readings: tuple[RecoveredReadings, ...]


class AttackedModel(Document):
    """A model that was trained on a data set and attacked at every point.

    ``training_images`` is the number of images that it was trained on, ``test_images`` that of the images of its
    accuracy. ``optimal`` has the points chosen by each attack's scores, and by those of the strongest attack; none,
    if there is no verdict.
    """

    model: str
    kind: Kind
    data: str
    training_images: int
    test_images: int
    accuracy: float | None
    kappa: float | None
    queries: int
    rows: tuple[TelemetryScore, ...]
    optimal: dict[str, ChosenPoints]
    no_verdict: str | None
    attack_seconds: float


class CutMove(Document):
    """The cut of a model on telemetry beside that on photographs; None if SSIM does not stay low after any point.

    Attributes:
        model: the model.
        attack: the attack by whose scores the cut is chosen.
        rule: the rule that chooses it.
        source: the paper's two cuts, or those that were measured here.
        telemetry: the cut on telemetry.
        photographs: the cut on photographs.
        telemetry_ends: the cuts by the lower and by the upper ends of the intervals of SSIM.
        photographs_ends: the same on photographs.
        move: whether the cut on telemetry is at an earlier or a later point. It is so only if all cuts from one end
            of the intervals to the other are; ``same`` if all are equal, else ``undecided``.
    """

    model: str
    attack: str
    rule: Rule
    source: Literal["paper", "measured"]
    telemetry: int | None
    photographs: int | None
    telemetry_ends: tuple[int | None, int | None]
    photographs_ends: tuple[int | None, int | None]
    move: Move


class TelemetryFigure(Document):
    """The paper's Fig. 8, reproduced: scores at each point on telemetry, and the move of the cut.

    ``shape`` is that of an image; ``epochs`` are those of training the models.
    """

    schema_version: Literal[1] = 1
    paper: Literal["s2"] = "s2"
    figure: Literal["8"] = "8"
    scale: str
    windows: WindowSettings
    shape: tuple[int, int, int]
    epochs: int
    gan_epochs: int
    victims: int
    threshold: float
    tolerance: float
    models: tuple[AttackedModel, ...]
    moves: tuple[CutMove, ...]


def attack_telemetry(study: TelemetryStudy, folder: Path, jobs: int, progress: Progress) -> TelemetryFigure:
    """Train the models, attack them at every point, and return the figure; finished cells are not computed again.

    Raises:
        ClovenError: for data that cannot be used, and if an attack fails.
    """
    windows = telemetry(study.data).report.settings
    for audited in study.audits:
        loaded(study.settings(audited))  # report problems before any training
    progress(TRAINING, 0, len(study.audits))
    for trained, _ in enumerate(side_by_side(train, study, len(study.audits), jobs=jobs), 1):
        progress(TRAINING, trained, len(study.audits))
    steps = {
        audited.name: audit_steps(study.settings(audited), NO_PAPER, folder / audited.name, no_progress)
        for audited in study.audits
    }
    summaries: dict[str, Summary] = {}
    for name, ended in run_audits(steps, LocalExecutor(jobs), progress):
        if isinstance(ended, Exception):
            raise ended
        summaries[name] = ended
    return figure(study, windows, {audited: summaries[audited.name] for audited in study.audits})


TRAINING = "training models"


def train(study: TelemetryStudy, index: int) -> None:
    """Train one of the models and keep it in the cache, where its audit finds it."""
    subject = study.settings(study.audits[index]).subject
    cnn(subject, load_images(subject), no_progress)


def figure(study: TelemetryStudy, windows: WindowSettings, summaries: Mapping[Audited, Summary]) -> TelemetryFigure:
    """Return the figure from the audits of all models."""
    models = tuple(_attacked(audited, summary) for audited, summary in summaries.items())
    return TelemetryFigure(
        scale=study.scale.name,
        windows=windows,
        shape=study.scale.shape,
        epochs=study.scale.training,
        gan_epochs=study.scale.gan_epochs,
        victims=study.scale.victims,
        threshold=THRESHOLD,
        tolerance=TOLERANCE,
        models=models,
        moves=(*published_moves(study.models), *measured_moves(summaries)),
    )


def _attacked(audited: Audited, summary: Summary) -> AttackedModel:
    findings = {(finding.key, finding.attack): finding for finding in summary.findings}
    series = scores_by_attack(audited.model, summary)
    every = [row for name, each in series.items() if name != STRONGEST for row in each]
    queries, images = summary.settings["queries"], summary.settings["training images"]
    assert isinstance(queries, int)
    assert isinstance(images, int)
    return AttackedModel(
        model=audited.model,
        kind=audited.kind,
        data=summary.data,
        training_images=images,
        test_images=summary.test_images,
        accuracy=summary.model_accuracy,
        kappa=summary.model_kappa,
        queries=queries,
        rows=tuple(_score(row, findings[row.key, row.attack]) for row in every),
        optimal=points_by_attack(series, summary),
        no_verdict=summary.verdict.reason,
        attack_seconds=round(sum(finding.wall_seconds for finding in summary.findings), 1),
    )


def _score(row: PointScore, finding: Finding) -> TelemetryScore:
    guessed = finding.baseline("agreement")
    return TelemetryScore(
        **dict(row),
        agreement=finding.agreement,
        agreement_baseline=0.0 if guessed is None else guessed[1],
        readings=finding.readings,
    )


# --- the move of the cut ----------------------------------------------------------------------------------------


def published_moves(models: Sequence[str]) -> list[CutMove]:
    """Return the paper's cuts of these models on TON_IoT beside those on ImageNet; it prints no intervals."""
    points = {(row.model, row.data): row.point for row in TABLE_3}
    return [
        _move(model, "cgan", "strict", "paper", *([points[model, data]] * 3 for data in ("TON_IoT", "ImageNet")))
        for model in models
        if (model, "TON_IoT") in points
    ]


def measured_moves(summaries: Mapping[Audited, Summary]) -> list[CutMove]:
    """Return the cuts of each model that was attacked on both kinds of data, by each attack and rule."""
    by_kind = {(audited.model, audited.kind): summary for audited, summary in summaries.items()}
    found = []
    for model in dict.fromkeys(audited.model for audited in summaries):
        if (model, "photographs") not in by_kind:
            continue
        pair = [by_kind[model, kind] for kind in get_args(Kind)]
        each = [scores_by_attack(model, summary) for summary in pair]
        given = all(summary.verdict.given for summary in pair)
        for attack, rule in product(each[0], get_args(Rule)):
            cuts_by = [[point_by(rule, series[attack], end) for end in ENDS] for series in each]
            found.append(_move(model, attack, rule, "measured", *cuts_by, given=given))
    return found


ENDS: tuple[Literal["mean", "low", "high"], ...] = ("mean", "low", "high")
"""The numbers of an interval by which a cut is chosen."""


def _move(
    model: str,
    attack: str,
    rule: Rule,
    source: Literal["paper", "measured"],
    telemetry: Sequence[int | None],
    photographs: Sequence[int | None],
    *,
    given: bool = True,
) -> CutMove:
    """Return the move between two cuts, each by the numbers `ENDS`."""
    return CutMove(
        model=model,
        attack=attack,
        rule=rule,
        source=source,
        telemetry=telemetry[0],
        photographs=photographs[0],
        telemetry_ends=(telemetry[1], telemetry[2]),
        photographs_ends=(photographs[1], photographs[2]),
        move=_compared(telemetry, photographs) if given else "no verdict",
    )


def _compared(telemetry: Sequence[int | None], photographs: Sequence[int | None]) -> Move:
    """Return how the cuts on telemetry lie to those on photographs; no cut is later than any."""
    one, other = ([inf if cut is None else cut for cut in each] for each in (telemetry, photographs))
    if max(one) < min(other):
        return "earlier"
    if min(one) > max(other):
        return "later"
    return "same" if len({*one, *other}) == 1 else "undecided"
