"""Pictures without a download: crops of the two photographs that scikit-learn includes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError, require
from cloven.zoo.images import Images, new_pixels, put_pixels
from cloven.zoo.pixels import MODES, Shape, pillow, to_pixels

if TYPE_CHECKING:
    from PIL import Image

SHAPE: Shape = (3, 64, 64)
COUNT = 2000
SMALLEST = 12
"""The short side divided by the side of the smallest crop."""
SEED = 20171
TRIES = 20
"""The number of crops that are tried for each one wanted before the search for different crops ends."""


def read_photos(shape: Shape | None, limit: int | None) -> Images:
    """Return square crops of all sizes, half of them mirrored, no two with equal pixels; the same on every call.

    The sizes are log-uniform between a twelfth of the short side and all of it. A smaller ``limit`` returns a
    prefix of the crops for a larger one. The crops overlap: use them to train attacks, and do not split them for
    tests.
    """
    shape, count = shape or SHAPE, COUNT if limit is None else limit
    photographs = [(name, picture.convert(MODES[shape[0]])) for name, picture in _photographs()]
    sources: list[str] = []
    pixels = put_pixels(new_pixels(count, shape), _crops(photographs, shape, count, sources))
    if len(sources) < count:
        raise ClovenError(
            f"photos: only {len(sources)} different crops of shape {shape} were found, expected {count}; "
            "give a lower limit or a larger shape"
        )
    return Images("photos", pixels, None, (), tuple(sources))


def _crops(
    photographs: Sequence[tuple[str, Image.Image]], shape: Shape, count: int, sources: list[str]
) -> Iterator[NDArray[np.uint8]]:
    """Yield at most ``count`` different crops, and append the source of each to ``sources``."""
    random = np.random.default_rng(SEED)
    known: set[bytes] = set()
    for _ in range(TRIES * count):
        if len(sources) == count:
            return
        name, picture = photographs[int(random.integers(len(photographs)))]
        source, pixels = _crop(picture, shape, random)
        if (digest := hashlib.sha256(pixels.tobytes()).digest()) not in known:
            known.add(digest)
            sources.append(f"{name}@{source}")
            yield pixels


def _crop(picture: Image.Image, shape: Shape, random: np.random.Generator) -> tuple[str, NDArray[np.uint8]]:
    short = min(picture.size)
    size = round(short * SMALLEST ** (random.random() - 1))
    x, y = (int(random.integers(side - size + 1)) for side in picture.size)
    pixels = to_pixels(picture, shape, box=(x, y, x + size, y + size))
    if random.random() < 0.5:
        return f"{x},{y},{size},mirrored", np.ascontiguousarray(pixels[:, :, ::-1])
    return f"{x},{y},{size}", pixels


def _photographs() -> list[tuple[str, Image.Image]]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise require("audit", error) from error
    bundle = load_sample_images()
    return [
        (Path(name).name, pillow().fromarray(pixels))
        for name, pixels in zip(bundle.filenames, bundle.images, strict=True)
    ]
