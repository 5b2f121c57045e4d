"""Images to run a model on, and the model if it has to be trained first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cloven.errors import ClovenError
from cloven.files import cache_dir
from cloven.zoo.datasets import has_windows, load
from cloven.zoo.folders import read_pictures
from cloven.zoo.images import Images, split, test_half
from cloven.zoo.models import MODELS
from cloven.zoo.pixels import Shape
from cloven.zoo.training import EPOCHS, trained

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """Images that a model was not trained on here, the origin of its weights, and the model.

    ``model`` is None unless it was trained here: it can then be made from its name and weights.
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
    """Return images to run a model on, and the model if it is trained here.

    The images are those of ``picture`` (a file or a folder) or of the ``data`` set. With ``weights``, the latter
    are the set's own test images (or all). Without ``weights``, one of cloven's own models is trained on 80 % of
    the set, or loaded from the cache, and the images are the 10 % held out for tests; other models keep their
    initial weights. On windows of readings, each class counts as much as any other.

    Raises:
        ClovenError: if neither or both of ``picture`` and ``data`` are given, the images cannot be read, or the
            number of classes is wrong.
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
        raise ClovenError(f"{data} has no labels to train the CNN with; sort its images into one folder per class")
    if len(images.classes) != classes:
        raise ClovenError(f"{data} has {len(images.classes)} classes; expected {classes}, as in the plan's model")
    training, _, test = split(images, seed=seed)
    model = trained(
        name,
        training,
        epochs=EPOCHS,
        seed=seed,
        cache=cache_dir(),
        balanced=has_windows(data),
        on_epoch=lambda epoch, _: progress("training the CNN", epoch, EPOCHS),
    )
    return PreparedModel(model, test, f"trained on {len(training)} images of {images.name}")


def _origin(name: str, weights: Path | None) -> str:
    if weights is not None:
        return weights.name
    return "the factory's" if name not in MODELS and not name.startswith(("torchvision:", "timm:")) else "random"
