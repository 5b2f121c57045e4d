"""Pictures to arrays: grey or colour, and size, the same way for every data set.

Grey is ITU-R 601 luma (PIL's "L"); sizes change by PIL's bilinear filter, which averages over the shrunken
area when it makes images smaller (antialias). The whole image is resized: the ratio of its sides is not kept.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError, require
from cloven.zoo.images import Images

if TYPE_CHECKING:
    from PIL import Image

Shape = tuple[int, int, int]
"""Channels, height, width."""
TEXT = 2**22
"""Bytes that the texts in a PNG may unpack to; PIL allows 64 MB, from a file of 70 kB."""
MODES = {1: "L", 3: "RGB"}
SIDES = range(2, 4097)


def pillow() -> ModuleType:
    """Return PIL's Image module.

    Raises:
        ClovenError: where Pillow is not installed, with the extra that has it.
    """
    try:
        from PIL import Image, PngImagePlugin
    except ImportError as error:
        raise require("audit", error) from error
    PngImagePlugin.MAX_TEXT_MEMORY = TEXT
    return Image


def checked(shape: Shape | None) -> Shape | None:
    """Return the shape.

    Raises:
        ClovenError: for a shape that images cannot have.
    """
    if shape is None:
        return None
    if len(shape) != 3 or shape[0] not in MODES or not all(side in SIDES for side in shape[1:]):
        raise ClovenError(
            f"shape: got {shape}, expected (channels, height, width) with 1 or 3 channels "
            f"and sides of {SIDES[0]} to {SIDES[-1]}"
        )
    return shape


def to_pixels(
    picture: Image.Image, shape: Shape, box: tuple[float, float, float, float] | None = None
) -> NDArray[np.uint8]:
    """Return the picture, or a box of it (left, top, right, bottom), as ``(channels, height, width)``."""
    channels, height, width = shape
    picture = picture.convert(MODES[channels])
    if box is not None or picture.size != (width, height):
        picture = picture.resize((width, height), pillow().Resampling.BILINEAR, box=box)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def reshaped(images: Images, shape: Shape | None) -> Images:
    """Return the images in another shape; the same record where they have it already."""
    if shape is None or images.pixels.shape[1:] == shape:
        return images
    pixels = np.empty((len(images), *shape), np.uint8)
    for i, image in enumerate(images.pixels):
        rows = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        pixels[i] = to_pixels(pillow().fromarray(rows), shape)
    return replace(images, pixels=pixels)
