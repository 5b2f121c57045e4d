"""A data set in numbers, and samples of each of its classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloven.documents import Document
from cloven.zoo.datasets import windows_of
from cloven.zoo.images import PARTS, Images, spread
from cloven.zoo.telemetry import TelemetryReport, pixel_meaning

MEANINGS = {
    1: "A pixel is a level of grey from 0 (black) to 255 (white).",
    3: "A pixel is three levels from 0 to 255: red, green and blue.",
}
"""The meaning of a pixel, by the number of channels."""


class PartImages(Document):
    """The number of images in a part."""

    part: str
    images: int


class ClassImages(Document):
    """The images of a class; ``parts`` is empty if the set has no parts of its own."""

    name: str
    images: int
    parts: tuple[PartImages, ...]


class DataSetDescription(Document):
    """A data set: ``cloven data --json``.

    Attributes:
        spec: the name with which it was loaded.
        name: its kind.
        images: the number of images.
        channels: the number of channels of an image.
        height: the height of an image in pixels.
        width: the width.
        classes: the images of each class; empty if the set has no labels.
        pixel: what a pixel means.
        telemetry: for measurements of sensors, the files and the windows; else None.
    """

    spec: str
    name: str
    images: int
    channels: int
    height: int
    width: int
    classes: tuple[ClassImages, ...]
    pixel: str
    telemetry: TelemetryReport | None


def described(spec: str, images: Images) -> DataSetDescription:
    """Return the description of a data set, given its images.

    Raises:
        ClovenError: as `cloven.zoo.datasets.load`.
    """
    windows = windows_of(spec)
    telemetry = None if windows is None else windows.report
    return DataSetDescription(
        spec=spec,
        name=images.name,
        images=len(images),
        channels=images.shape[0],
        height=images.shape[1],
        width=images.shape[2],
        classes=tuple(_class(images, label) for label in range(len(images.classes))),
        pixel=MEANINGS[images.shape[0]] if telemetry is None else pixel_meaning(telemetry, images.shape),
        telemetry=telemetry,
    )


def class_samples(images: Images, most: int) -> dict[str, NDArray[np.uint8]]:
    """Return at most ``most`` images of each class, spread evenly, of the training part if the set has parts.

    Of a set without labels, they are samples of all images, under the name "images".
    """
    possible = np.ones(len(images), np.bool_) if images.part is None else images.part == PARTS.index("training")
    groups = {"images": possible}
    if images.labels is not None:
        groups = {name: possible & (images.labels == label) for label, name in enumerate(images.classes)}
    found = {}
    for name, chosen in groups.items():
        places = np.flatnonzero(chosen)
        found[name] = images.take(places[spread(None, len(places), most)]).pixels
    return found


def _class(images: Images, label: int) -> ClassImages:
    assert images.labels is not None
    own = images.labels == label
    counts = () if images.part is None else np.bincount(images.part[own], minlength=len(PARTS)).tolist()
    parts = zip(PARTS, counts, strict=False)
    return ClassImages(
        name=images.classes[label],
        images=int(own.sum()),
        parts=tuple(PartImages(part=part, images=count) for part, count in parts),
    )
