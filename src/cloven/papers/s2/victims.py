"""The models that the paper attacks on TON_IoT (Sect. V-B2 and V-D3), and how they are trained here.

The paper takes trained models from Kodys et al., "Intrusion Detection in Internet of Things using Convolutional
Neural Networks" (PST 2021), which states neither the size of an image nor how rows become one. Everything but the
names of the models is therefore a choice of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloven.auditing.subject import ModelTraining
from cloven.errors import ClovenError
from cloven.papers.s2.published import EFFICIENTNET, RESNET
from cloven.zoo.datasets import windows_of
from cloven.zoo.telemetry import Windows

VICTIMS = (RESNET, EFFICIENTNET)
"""The paper's two models for TON_IoT."""
CLASSIFIERS = ("torchvision:resnet18", *VICTIMS)
"""The models that are compared as classifiers."""


@dataclass(frozen=True)
class TelemetryScale:
    """The sizes of a study of telemetry.

    Attributes:
        name: the scale's name.
        side: the side of an image in pixels (paper: 224).
        training: epochs of the models (not stated in the paper).
        queries: the maximum number of auxiliary images (paper: 1,000).
        victims: the maximum number of scored images (not stated in the paper).
        gan_epochs: epochs of the c-GAN (paper: 200).
        epochs: epochs of the other attacks; None for their defaults.
        photographs: the number of photographs that a model is trained on to compare it with one of telemetry; None
            for all.
    """

    name: str
    side: int
    training: int
    queries: int
    victims: int
    gan_epochs: int
    epochs: int | None
    photographs: int | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of an image."""
        return 3, self.side, self.side


SCALES: Mapping[str, TelemetryScale] = {
    "desk": TelemetryScale("desk", 32, 10, 500, 200, 100, 6, 5_000),
    "full": TelemetryScale("full", 224, 20, 1000, 500, 200, None, None),
}
"""The scale for two cores, and the paper's."""


def scale_of(name: str) -> TelemetryScale:
    """Return the scale with a name.

    Raises:
        ClovenError: for any other name.
    """
    if name not in SCALES:
        raise ClovenError(f"--scale is {name!r}; choose from {', '.join(SCALES)}")
    return SCALES[name]


def training_of(scale: TelemetryScale, device: str) -> ModelTraining:
    """Return how a model is trained at a scale: with class weights, on the whole training part."""
    return ModelTraining(scale.training, device=device, balanced=True)


def telemetry(data: str) -> Windows:
    """Return the windows of a data set of telemetry.

    Raises:
        ClovenError: as `windows_of`, and for a data set of pictures.
    """
    windows = windows_of(data)
    if windows is None:
        raise ClovenError(f"--data is {data!r}, which has pictures; expected telemetry: ton-iot:DIR")
    return windows
