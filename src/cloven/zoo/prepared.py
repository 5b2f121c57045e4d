"""A model of the zoo ready for use: trained on a data set's training images, beside the held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from cloven.errors import ClovenError
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.models import build
from cloven.zoo.pixels import Shape
from cloven.zoo.training import EPOCHS, cache_dir, trained


@dataclass(frozen=True, eq=False)
class Prepared:
    """A trained model in evaluation mode, and the test images that it has not seen (S1's 10 %)."""

    model: nn.Module
    test: Images


def prepared(
    name: str, data: str, *, shape: Shape, classes: int, seed: int, progress: Callable[[str, int, int], None]
) -> Prepared:
    """The model of this name, trained on the data set or taken from the cache.

    Raises:
        ClovenError: for a set that cannot be read, has no labels, or has another number of classes.
    """
    build(name, shape=shape, classes=classes)
    images = load(data, shape=shape)
    if images.labels is None:
        raise ClovenError(f"{data} has no labels; the CNN cannot be trained: sort its images into folders")
    if len(images.classes) != classes:
        raise ClovenError(f"{data} has {len(images.classes)} classes; the plan's model has {classes}")
    training, _, test = split(images, seed=seed)
    model = trained(
        name,
        training,
        epochs=EPOCHS,
        seed=seed,
        cache=cache_dir(),
        on_epoch=lambda epoch, _: progress("training the CNN", epoch, EPOCHS),
    )
    return Prepared(model, test)
