"""A finished audit with its model and images, which are loaded again from the names that it recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloven.auditing.pipeline import load_subject
from cloven.auditing.results import Results
from cloven.auditing.store import SUBJECT, SUMMARY, read_model
from cloven.auditing.subject import Subject, fitted, unscored
from cloven.auditing.subject_record import SubjectRecord
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.progress import Progress
from cloven.zoo.images import Images


@dataclass(frozen=True, eq=False)
class AuditedRun:
    """A finished audit, its model and its images.

    Attributes:
        results: the results.
        subject: the names of the model and the images.
        graph: the model.
        auxiliary: the attacker's own images.
        unscored: images of the data set that were neither scored nor used for training.
    """

    results: Results
    subject: Subject
    graph: Graph
    auxiliary: Images
    unscored: Images


def audited_run(folder: Path, progress: Progress = lambda *_: None) -> AuditedRun:
    """Return a run of ``cloven audit`` with its model and images; a model without weights is trained again.

    Raises:
        ClovenError: if the folder holds no finished audit of a model or plan, or its images or weights cannot be
            read.
    """
    if (folder / SUMMARY).is_file() and not (folder / SUBJECT).is_file():
        raise ClovenError(
            f"{folder} does not say which model and images were audited: {SUBJECT} is missing, because it holds an "
            "audit of a capture, one made in Python, or one of an earlier version; give the folder of a "
            "`cloven audit` of a model or plan"
        )
    results = Results.load(folder)
    subject = read_model(folder / SUBJECT, SubjectRecord, "run the same audit again").subject
    loaded = load_subject(subject, progress, several=True)
    images = fitted(subject, loaded.images, loaded.graph)
    spare = unscored(subject, images)
    return AuditedRun(results, subject, loaded.graph, images.auxiliary, spare)
