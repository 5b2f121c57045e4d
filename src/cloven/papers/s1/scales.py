"""Scales at which S1's figures are made again: the paper's own, or one that two cores manage in half an hour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cloven.zoo.training import EPOCHS

Name = Literal["full", "desk"]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class StudyScale:
    """The sizes of a figure's studies.

    Attributes:
        name: of the scale.
        model: the model in the place of S1's.
        side: of square images, in pixels; None for the data set's own.
        queries: auxiliary images, at most (S1: 40,000).
        victims: images that are scored; None for the whole test split, as in S1.
        epochs: of the decoders (S1: 10).
        strong: epochs of the strong decoder, which S1 does not have.
        training: epochs of the CNN (S1: 10).
        images: that the CNN is trained on; None for the whole training split.
        seeds: how often each decoder is trained (S1 says nothing).
    """

    name: Name
    model: str
    side: int | None
    queries: int = 40_000
    victims: int | None = None
    epochs: int = 10
    strong: int = 5
    training: int = EPOCHS
    images: int | None = None
    seeds: int = 1

    def smaller(self, paper: StudyScale) -> tuple[str, ...]:
        """Return the differences from the paper's scale in words; most of them are smaller numbers."""
        rows = (
            ("model", self.model, paper.model),
            ("image side", self.side, paper.side),
            ("auxiliary images at most", self.queries, paper.queries),
            ("victim images at most", self.victims, paper.victims),
            ("epochs of the decoders", self.epochs, paper.epochs),
            ("epochs of the CNN", self.training, paper.training),
            ("training images of the CNN at most", self.images, paper.images),
        )
        return tuple(f"{what}: {own}, S1 {said or 'all'}" for what, own, said in rows if own != said)


LENET, MOBILENET, RESNET = "lenet5", "mobilenet_v1", "torchvision:resnet50"

FULL: Mapping[str, StudyScale] = {
    "5a": StudyScale("full", MOBILENET, 224),
    "5b": StudyScale("full", RESNET, 224),
    "5c": StudyScale("full", LENET, None, strong=2),
    "6": StudyScale("full", MOBILENET, 224),
}
"""The paper's, by figure (S1, Sect. 5.1, 5.2)."""

DESK: Mapping[str, StudyScale] = {
    "5a": StudyScale("desk", f"{MOBILENET}_0.5", 32, 1000, 500, strong=3, training=8, images=8000),
    "5b": StudyScale("desk", RESNET, 32, 600, 400, strong=3, training=3, images=2000),
    "5c": StudyScale("desk", LENET, None, 2000, 1000, strong=3, images=20_000),
    "6": StudyScale("desk", f"{MOBILENET}_0.5", 32, 1000, 500, strong=3, images=16_000),
}
"""Small enough for two cores, by figure."""

SCALES: Mapping[str, Mapping[str, StudyScale]] = {"full": FULL, "desk": DESK}
