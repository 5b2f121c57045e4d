"""The document ``subject.json``: the names of an audit's model and images, from which they can be loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cloven.auditing.subject import NOBODY, Subject
from cloven.documents import Document


class SubjectRecord(Document):
    """The names of an audit's model and images, ``subject.json``; the attributes are those of `Subject`.

    Paths are relative to the folder in which the audit ran.
    """

    schema_version: Literal[1] = 1
    model: str
    data: str
    auxiliary: str
    queries: int | None
    victims: int | None
    weights: str | None
    shape: tuple[int, int, int] | None
    classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    seed: int
    mirror: bool

    @classmethod
    def of(cls, subject: Subject) -> SubjectRecord:
        """Return the record of a subject."""
        return cls(
            model=subject.model,
            data=subject.data,
            auxiliary=subject.auxiliary,
            queries=subject.queries,
            victims=subject.victims,
            weights=None if subject.weights is None else str(subject.weights),
            shape=subject.shape,
            classes=subject.classes,
            mean=subject.mean,
            std=subject.std,
            seed=subject.seed,
            mirror=subject.mirror,
        )

    @property
    def subject(self) -> Subject:
        """The subject, without a second classifier."""
        entries = self.model_dump(exclude={"schema_version"})
        entries["weights"] = None if self.weights is None else Path(self.weights)
        return Subject(**entries, judge=NOBODY)
