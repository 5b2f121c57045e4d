"""Read Oxford Flowers 102 as it is distributed and as torchvision unpacks it: ``jpg`` and ``imagelabels.mat``.

Nilsback, Zisserman, "Automated Flower Classification over a Large Number of Classes", ICVGIP 2008: 8,189 images.
Its own split (``setid.mat``) is not read, because Mehrafrooz et al. (2025) pool all images and split them again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError, tried
from cloven.files import read_bytes, read_json
from cloven.zoo.folder_errors import missing
from cloven.zoo.folders import decoded, first_problems
from cloven.zoo.images import Images, spread
from cloven.zoo.pixels import Shape

CLASSES = 102
JPG, LABELS, NAMES = "jpg", "imagelabels.mat", "cat_to_name.json"
LABELS_MD5 = "e0620be6f572b9609742df49c70aed4d"
"""The MD5 sum of the only label file that is read, because a damaged one can crash scipy and the interpreter."""
BELOW = "flowers-102"
"""torchvision's folder."""
MOST = 2**20
"""The largest label file in bytes; Oxford's has 502."""


class ListedFlowers(NamedTuple):
    """The images' names, relative to the place, with their labels from 0."""

    place: Path
    names: list[str]
    labels: NDArray[np.int64]


def read_flowers(folder: Path, shape: Shape | None, limit: int | None) -> Images:
    """Return the flowers in the order of their numbers, from the folder with ``jpg`` or the one above it.

    They are converted like the pictures of a folder, and only those within the limit are opened. Because they have
    many sizes, ``shape`` is required. Classes are "1" to "102", or the names in ``cat_to_name.json``.

    Raises:
        ClovenError: for all images that are missing or have no label, and all labels out of range; then for all
            images that cannot be decoded.
    """
    problems: list[str] = []
    found = tried(lambda: listed(folder), problems)
    classes = tried(lambda: _classes(place_of(folder) or folder, folder), problems)
    if found is None or classes is None:
        raise ClovenError(problems)
    kept = spread(found.labels, len(found.names), limit)
    names = [found.names[i] for i in kept]
    pixels = decoded(found.place, names, shape)
    return Images("flowers102", pixels, found.labels[kept], classes, tuple(names))


def listed(folder: Path) -> ListedFlowers:
    """Return the images' names and labels without opening an image.

    Raises:
        ClovenError: if images and labels do not match; it lists all mismatches.
    """
    if (place := place_of(folder)) is None:
        raise missing(folder, f"{JPG} (102flowers.tgz, unpacked) and {LABELS} (here or in {BELOW})")
    for name, there in ((JPG, (place / JPG).is_dir()), (LABELS, (place / LABELS).is_file())):
        if not there:
            raise missing(place, name)
    labels = _labels(place / LABELS)
    names = [f"image_{number:05}.jpg" for number in range(1, len(labels) + 1)]
    if problems := list(_mismatches(place, names, labels)):
        raise ClovenError(first_problems(problems))
    return ListedFlowers(place, [f"{JPG}/{name}" for name in names], labels - 1)


def place_of(folder: Path) -> Path | None:
    """Return the folder with the images or their labels: this one, or torchvision's folder in it."""
    places = (folder, folder / BELOW)
    return next((place for place in places if (place / JPG).is_dir() or (place / LABELS).is_file()), None)


def _mismatches(place: Path, names: list[str], labels: NDArray[np.int64]) -> Iterator[str]:
    with os.scandir(place / JPG) as entries:
        there = {entry.name for entry in entries if entry.name.endswith(".jpg") and entry.is_file()}
    if len(there) != len(labels):
        yield f"{place}: {LABELS} has {len(labels)} labels, but {JPG} has {len(there)} images; fetch both again"
    for i in np.flatnonzero((labels < 1) | (labels > CLASSES)):
        yield f"{place / LABELS}: the label of {names[i]} is {labels[i]}, expected 1 to {CLASSES}"
    for name in (name for name in names if name not in there):
        yield f"{place / JPG / name}: is missing, but has a label; fetch it again"
    for name in sorted(there.difference(names)):
        yield f"{place / JPG / name}: has no label; remove it"


def _labels(file: Path) -> NDArray[np.int64]:
    """Return the labels ``(n,)`` as stored, starting at 1."""
    content = read_bytes(file, MOST)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != LABELS_MD5:
        raise ClovenError(
            f"{file}: is not the file that Oxford distributes (its MD5 differs); fetch it again, or give your "
            "own pictures as folder:DIR with one folder per class"
        )
    from scipy.io import loadmat

    labels: NDArray[np.int64] = loadmat(BytesIO(content))["labels"].reshape(-1).astype(np.int64)
    return labels


def _classes(*places: Path) -> tuple[str, ...]:
    """Return the names of the classes from the first file that has them, or else their numbers."""
    numbers = tuple(str(number) for number in range(1, CLASSES + 1))
    file = next((file for place in places if (file := place / NAMES).is_file()), None)
    if file is None:
        return numbers
    named = {number: name for number, name in read_json(file).items() if isinstance(name, str)}
    if lacking := [number for number in numbers if number not in named]:
        raise ClovenError(
            f"{file}: has no name for {len(lacking)} of the classes 1 to {CLASSES}, such as {lacking[0]}; "
            "complete it or remove it"
        )
    return tuple(named[number] for number in numbers)
