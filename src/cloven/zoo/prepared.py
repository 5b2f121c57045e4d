"""A model ready for use, and the images to use it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cloven.errors import ClovenError
from cloven.zoo.datasets import load
from cloven.zoo.folders import read_pictures
from cloven.zoo.images import Images, split, test_half
from cloven.zoo.models import MODELS
from cloven.zoo.pixels import Shape
from cloven.zoo.training import EPOCHS, cache_dir, trained

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """Images that a model was not trained on here, where its weights are from, and the model if it was trained.

    ``model`` is None for one that its name and weights make as it is.
    """

    model: nn.Module | None
    images: Images
    weights: str


def prepared(
    name: str,
    *,
    shape: Shape,
    classes: int,
    weights: Path | None,
    data: str | None,
    picture: Path | None,
    seed: int,
    progress: Progress,
) -> PreparedModel:
    """Return images to run a model on, of a ``picture``, a folder or a ``data`` set; the model, if trained here.

    With ``weights``, the set's own test half (or all of it). Without, a model of the zoo is trained on 80 % of the
    set, or taken from the cache, and run on the 10 % held out; any other model keeps the weights it was made with.

    Raises:
        ClovenError: for neither or both of picture and data, a set that cannot be read, or another number of
            classes.
    """
    if (data is None) == (picture is None):
        raise ClovenError("give either --data SPEC or --input PICTURE")
    if picture is not None:
        return PreparedModel(None, read_pictures(picture, shape), _origin(name, weights))
    assert data is not None
    images = load(data, shape=shape)
    if weights is not None or name not in MODELS:
        return PreparedModel(None, test_half(images), _origin(name, weights))
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
    return PreparedModel(model, test, f"trained on {len(training)} images of {images.name}")


def _origin(name: str, weights: Path | None) -> str:
    if weights is not None:
        return weights.name
    return "the factory's" if name not in MODELS and not name.startswith(("torchvision:", "timm:")) else "random"
