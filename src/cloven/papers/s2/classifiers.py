"""Classifiers of telemetry: the attacked models, beside the most frequent class and trees on raw rows.

Under each of the three splits of the data set: nearly every type of row is one session, so that a high score can
measure the session and not the attack. Under a random split, test windows lie between training windows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cloven.auditing.classifier import WholeModel
from cloven.auditing.finding import ScoreRange
from cloven.auditing.subject import trained_model
from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.papers.s2.victims import CLASSIFIERS, TelemetryScale, telemetry, training_of
from cloven.parallel import side_by_side
from cloven.progress import Progress, no_progress
from cloven.runtime.capture import capture
from cloven.score.agreement import kappa
from cloven.score.classification import classification
from cloven.zoo.images import split
from cloven.zoo.row_trees import tree_classes
from cloven.zoo.telemetry import TEST, TRAINING, Windows

Split = Literal["blocks", "time", "random"]
STAGE = "training classifiers"
MAJORITY, TREES = "majority class", "trees on rows"
"""The classifiers that are not CNNs: always the most frequent class of the training part, and `tree_classes`."""


@dataclass(frozen=True)
class ClassifierStudy:
    """A comparison of classifiers of telemetry; ``data`` is a spec without a split."""

    data: str
    scale: TelemetryScale
    models: tuple[str, ...] = CLASSIFIERS
    device: str = "cpu"
    seed: int = 0

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Return the names of all classifiers."""
        return MAJORITY, TREES, *self.models

    @property
    def units(self) -> tuple[tuple[Split, str], ...]:
        """Return each split with each classifier."""
        return tuple((way, name) for way in get_args(Split) for name in self.classifiers)


class ClassRecall(Document):
    """The recall of a class: the share of its ``windows`` in the test part that were recognised."""

    name: str
    windows: int
    recall: ScoreRange


class ClassifierScores(Document):
    """The scores of a classifier under a split of the data set.

    Attributes:
        classifier: its name.
        split: the split.
        training_windows: the number of windows for training.
        test_windows: the number of windows for tests.
        macro_f1: the mean F1 of the classes.
        accuracy: the share of windows that got their own class.
        kappa: Cohen's kappa.
        classes: the recall of each class.
        left_out: the types that have too few windows.
        confusion: a row for each class, with the number of its windows that got each class.
    """

    classifier: str
    split: Split
    training_windows: int
    test_windows: int
    macro_f1: ScoreRange
    accuracy: ScoreRange
    kappa: float
    classes: tuple[ClassRecall, ...]
    left_out: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


class ClassifierTable(Document):
    """The classifiers of telemetry, each under each split.

    The intervals are those of `cloven.score.classification`, over the windows of the test part and stretches of
    neighbouring windows; each model is trained once. ``epochs`` are those of the CNNs.
    """

    schema_version: Literal[1] = 1
    paper: Literal["s2"] = "s2"
    table: Literal["classifiers"] = "classifiers"
    scale: str
    data: str
    sensors: tuple[str, ...]
    window: int
    stride: int | None
    shape: tuple[int, int, int]
    epochs: int
    seed: int
    rows: tuple[ClassifierScores, ...]


def compared(study: ClassifierStudy, jobs: int, progress: Progress) -> ClassifierTable:
    """Train each classifier under each split, and score it on the test part.

    Trained CNNs are kept in the cache, so that a comparison that was stopped continues where it was.

    Raises:
        ClovenError: for data that cannot be used.
    """
    settings = telemetry(study.data).report.settings
    if "split" in settings.model_fields_set:
        raise ClovenError(f"--data is {study.data!r}; leave out split: all splits are compared")
    found: dict[tuple[str, str], ClassifierScores] = {}
    progress(STAGE, 0, len(study.units))
    for scores in side_by_side(unit_scores, study, len(study.units), jobs=jobs):
        found[scores.split, scores.classifier] = scores
        progress(STAGE, len(found), len(study.units))
    return ClassifierTable(
        scale=study.scale.name,
        data=study.data.partition(":")[0],
        sensors=settings.sensors,
        window=settings.window,
        stride=settings.stride,
        shape=study.scale.shape,
        epochs=study.scale.training,
        seed=study.seed,
        rows=tuple(found[unit] for unit in study.units),
    )


def unit_scores(study: ClassifierStudy, index: int) -> ClassifierScores:
    """Return the scores of one classifier under one split: one of the study's units."""
    way, name = study.units[index]
    windows = telemetry(f"{study.data}:split={way}")
    tests = np.flatnonzero(windows.part == TEST)
    labels, classes = torch.tensor(windows.labels[tests]), len(windows.classes)
    predicted = torch.tensor(_classes(study, name, windows, tests))
    found = classification(predicted, labels, torch.tensor(windows.stretches[tests]), classes, seed=study.seed)
    sizes = labels.bincount(minlength=classes).tolist()
    each = zip(windows.classes, sizes, found.recalls, strict=True)
    return ClassifierScores(
        classifier=name,
        split=way,
        training_windows=int((windows.part == TRAINING).sum()),
        test_windows=len(tests),
        macro_f1=ScoreRange(**asdict(found.macro_f1)),
        accuracy=ScoreRange(**asdict(found.accuracy)),
        kappa=kappa(predicted, labels, classes),
        classes=tuple(
            ClassRecall(name=one, windows=size, recall=ScoreRange(**asdict(recall))) for one, size, recall in each
        ),
        left_out=tuple(one.type for one in windows.report.left_out),
        confusion=tuple(tuple(row) for row in found.counts.tolist()),
    )


def _classes(study: ClassifierStudy, name: str, windows: Windows, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the classes that a classifier gives to the windows at some places, after training."""
    if name == MAJORITY:
        counts = np.bincount(windows.labels[windows.part == TRAINING])
        return np.full(len(places), counts.argmax())
    if name == TREES:
        return tree_classes(windows, places, study.seed)
    images = windows.images(study.scale.shape)
    training, how = split(images, seed=study.seed)[0], training_of(study.scale, study.device)
    model = trained_model(name, training, study.seed, how, STAGE, no_progress)
    graph = capture(model, torch.zeros(1, *images.shape))
    return WholeModel(graph, study.device).classify(images.take(places).rows()).numpy()
