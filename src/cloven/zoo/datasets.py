"""Data sets by name: ``load("digits")``, or ``load("folder:photos", shape=(3, 64, 64), limit=500)``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cloven.errors import ClovenError, require
from cloven.zoo.cifar import read_cifar10
from cloven.zoo.flowers import read_flowers
from cloven.zoo.folder_errors import reading
from cloven.zoo.folders import read_folder
from cloven.zoo.idx import read_mnist
from cloven.zoo.images import Images, spread
from cloven.zoo.photos import read_photos
from cloven.zoo.pixels import Shape, checked, reshaped
from cloven.zoo.telemetry import Windows, read_telemetry, read_windows, window_settings


def load(spec: str, *, shape: Shape | None = None, limit: int | None = None) -> Images:
    """Return the images that a spec names.

    Args:
        spec: ``digits``, ``photos``, ``mnist:DIR``, ``cifar10:DIR``, ``flowers102:DIR``, ``ton-iot:DIR`` or
            ``folder:DIR``.
        shape: Channels (1 or 3), height and width to convert to (default: that of the data set).
        limit: The largest number of images; they are spread evenly over the set and its classes, and are the same
            on every call.

    """
    named = parsed(spec)
    if limit is not None and limit < 1:
        raise ClovenError(f"limit: got {limit}, expected at least 1")
    with reading(spec):
        return KINDS[named.kind].read(named, checked(shape), limit)


def windows_of(spec: str) -> Windows | None:
    """Return the windows of readings that are the images of a data set; None if it has pictures.

    Raises:
        ClovenError: as `load`.
    """
    named = parsed(spec)
    read = KINDS[named.kind].windows
    with reading(spec):
        return None if read is None else read(named)


def has_windows(spec: str) -> bool:
    """Return whether a data set has windows of readings of sensors, and not pictures."""
    kind = KINDS.get(spec.partition(":")[0])
    return kind is not None and kind.windows is not None


class DataSetSpec(NamedTuple):
    """The parts of a spec: the kind, the folder (the working one for a kind without), and names with values."""

    kind: str
    folder: Path
    options: tuple[tuple[str, str], ...] = ()


OPTION = re.compile(r"(.*):([a-z]+)=([^:]*)", re.DOTALL)
"""A spec that ends with an option."""


def parsed(spec: str) -> DataSetSpec:
    """Return the parts of a spec.

    Raises:
        ClovenError: if the kind is unknown, or the spec has no folder or an unexpected one.
    """
    kind, _, folder = spec.partition(":")
    if kind not in KINDS:
        close = get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        known = ", ".join(f"{name}:DIR" if KINDS[name].of_folder else name for name in sorted(KINDS))
        raise ClovenError(f"unknown data set {kind!r}; {hint}choose from {known}")
    options: list[tuple[str, str]] = []
    while KINDS[kind].has_options and (found := OPTION.fullmatch(folder)):
        folder, name, value = found.groups()
        options.insert(0, (name, value))
    if bool(folder) != KINDS[kind].of_folder:
        need = f"needs a folder, e.g. {kind}:data/{kind}" if not folder else f"takes no folder; write {kind}"
        raise ClovenError(f"{spec}: {kind} {need}")
    return DataSetSpec(kind, Path(folder).expanduser(), tuple(options))


def _mnist(spec: DataSetSpec, shape: Shape | None, limit: int | None) -> Images:
    return _fitted(read_mnist(spec.folder), shape, limit)


def _cifar10(spec: DataSetSpec, shape: Shape | None, limit: int | None) -> Images:
    return _fitted(read_cifar10(spec.folder), shape, limit)


def _flowers(spec: DataSetSpec, shape: Shape | None, limit: int | None) -> Images:
    return read_flowers(spec.folder, shape, limit)


def _folder(spec: DataSetSpec, shape: Shape | None, limit: int | None) -> Images:
    return read_folder(spec.folder, shape, limit)


def _ton_iot(spec: DataSetSpec, shape: Shape | None, limit: int | None) -> Images:
    return read_telemetry(spec.folder, window_settings(spec.options), shape, limit)


def _windows(spec: DataSetSpec) -> Windows:
    return read_windows(spec.folder, window_settings(spec.options))


def _digits(_: DataSetSpec, shape: Shape | None, limit: int | None) -> Images:
    """Return scikit-learn's 1,797 digits, which have 8 x 8 pixels from 0 to 16, enlarged to the size of MNIST."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise require("audit", error) from error
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    sources = tuple(f"digits[{i}]" for i in range(len(pixels)))
    images = Images("digits", pixels, bunch.target.astype(np.int64), tuple("0123456789"), sources)
    return _fitted(images, shape or (1, 28, 28), limit)


def _fitted(images: Images, shape: Shape | None, limit: int | None) -> Images:
    if limit is not None and limit < len(images):
        images = images.take(spread(images.labels, len(images), limit))
    return reshaped(images, shape)


@dataclass(frozen=True)
class DataSetKind:
    """A kind of data set.

    Attributes:
        read: the reader.
        of_folder: whether a spec names a folder.
        has_options: whether options may follow the folder, such as ``:window=32``.
        windows: for measurements of sensors, returns the windows of readings that are the images.
    """

    read: Callable[[DataSetSpec, Shape | None, int | None], Images]
    of_folder: bool
    has_options: bool = False
    windows: Callable[[DataSetSpec], Windows] | None = None


KINDS = {
    "cifar10": DataSetKind(_cifar10, of_folder=True),
    "digits": DataSetKind(_digits, of_folder=False),
    "flowers102": DataSetKind(_flowers, of_folder=True),
    "folder": DataSetKind(_folder, of_folder=True),
    "mnist": DataSetKind(_mnist, of_folder=True),
    "photos": DataSetKind(lambda _, shape, limit: read_photos(shape, limit), of_folder=False),
    "ton-iot": DataSetKind(_ton_iot, of_folder=True, has_options=True, windows=_windows),
}
