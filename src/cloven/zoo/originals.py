"""The images of a data set before conversion: their number, shapes and classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.zoo import flowers, folders
from cloven.zoo.datasets import load, parsed
from cloven.zoo.folder_errors import reading
from cloven.zoo.images import Images, split
from cloven.zoo.pixels import Shape


class Originals(NamedTuple):
    """A data set as stored in its files.

    Attributes:
        name: The kind of the set, such as "mnist" or "folder:photos"; never a full path.
        images: The number of images.
        shapes: The different shapes of the images: channels, height, width.
        classes: The number of classes with images; 0 if the set is unlabelled.
        split: The number of training, validation and test images that `cloven.zoo.images.split` returns.

    """

    name: str
    images: int
    shapes: frozenset[Shape]
    classes: int
    split: tuple[int, int, int]


def originals(spec: str) -> Originals:
    """Return the unconverted data set that a spec names; only the headers of pictures in folders are read.

    Raises:
        ClovenError: as `cloven.zoo.datasets.load`, except for damage after a picture's header.
    """
    kind, folder, _ = parsed(spec)
    part = None
    with reading(spec):
        if kind == "folder":
            names, labels, _ = folders.listed(folder)
            name, shapes = f"folder:{folder.resolve().name}", folders.shapes(folder, names)
        elif kind == "flowers102":
            place, names, labels = flowers.listed(folder)
            name, shapes = kind, folders.shapes(place, names)
        else:
            images = load(spec)
            name, labels, shapes, part = kind, images.labels, [images.shape] * len(images), images.part
    classes = 0 if labels is None else len(np.unique(labels))
    return Originals(name, len(shapes), frozenset(shapes), classes, split_sizes(len(shapes), part))


def split_sizes(count: int, part: NDArray[np.int64] | None = None) -> tuple[int, int, int]:
    """Return the number of training, validation and test images in the split of ``count`` images.

    Args:
        count: the number of images.
        part: the parts of the images, if the set has its own.
    """
    blank = Images("blank", np.zeros((count, 1, 1, 1), np.uint8), None, (), ("",) * count, part)
    training, validation, tests = split(blank, seed=0)
    return len(training), len(validation), len(tests)
