"""Scales at which the figures are reproduced: the paper's own, and two for the two cores of a small machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from cloven.zoo.training import EPOCHS

Name = Literal["full", "bench", "desk"]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class StudyScale:
    """The sizes of a figure's studies.

    Attributes:
        name: the scale's name.
        model: the model that takes the place of the paper's.
        side: the side of square images in pixels; None for the data set's own size.
        queries: the maximum number of auxiliary images (paper: 40,000).
        victims: the maximum number of scored images; None for the whole test split, as in the paper.
        epochs: of the decoders (paper: 10).
        strong: epochs of the strong decoder, which the paper does not have.
        training: epochs of the CNN (paper: 10).
        images: the maximum number of training images of the CNN; None for the whole training split.
        seeds: the number of seeds for each decoder (not stated in the paper).
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

    @property
    def attacker(self) -> tuple[str, int, int, int, int]:
        """Return the sizes of the attacks, which two figures must share before their bars are compared."""
        return self.name, self.queries, self.epochs, self.strong, self.seeds

    def smaller(self, paper: StudyScale) -> tuple[str, ...]:
        """Return the differences from the paper's scale as text; most of them are smaller numbers."""
        rows = (
            ("model", self.model, paper.model),
            ("image side", self.side, paper.side),
            ("auxiliary images at most", self.queries, paper.queries),
            ("victim images at most", self.victims, paper.victims),
            ("epochs of the decoders", self.epochs, paper.epochs),
            ("epochs of the CNN", self.training, paper.training),
            ("training images of the CNN at most", self.images, paper.images),
        )
        return tuple(f"{what}: {own} (paper: {said or 'all'})" for what, own, said in rows if own != said)


LENET, MOBILENET, RESNET = "lenet5", "mobilenet_v1", "torchvision:resnet50"

FULL: Mapping[str, StudyScale] = {
    "5a": StudyScale("full", MOBILENET, 224),
    "5b": StudyScale("full", RESNET, 224),
    "5c": StudyScale("full", LENET, None, strong=2),
    "6": StudyScale("full", MOBILENET, 224),
}
"""The paper's scale, by figure (Sect. 5.1, 5.2)."""

DESK: Mapping[str, StudyScale] = {
    "5a": StudyScale("desk", f"{MOBILENET}_0.5", 32, 1000, 500, strong=3, training=8, images=8000),
    "5b": StudyScale("desk", RESNET, 32, 600, 400, strong=3, training=3, images=2000),
    "5c": StudyScale("desk", LENET, None, 1000, 500, strong=3, images=20_000),
    "6": StudyScale("desk", f"{MOBILENET}_0.5", 32, 1000, 500, strong=3, images=16_000),
}
"""The scale for two cores, by figure; the attacks on LeNet-5 and MobileNet have the same sizes."""

BENCH: Mapping[str, StudyScale] = {
    "5a": StudyScale("bench", f"{MOBILENET}_0.75", 96, 5000, 1000, 4, 2, training=3, images=10_000, seeds=3),
    "5c": StudyScale("bench", LENET, None, 5000, 1000, 4, 2, seeds=3),
    "6": StudyScale("bench", f"{MOBILENET}_0.75", 96, 5000, 1000, 4, 2, training=3, images=10_000, seeds=3),
}
"""The scale for a night on two cores, by figure: three seeds, and the same attacks and CNNs in all figures."""

SCALES: Mapping[str, Mapping[str, StudyScale]] = {"full": FULL, "bench": BENCH, "desk": DESK}
