"""Convert pictures to arrays, in the same way for every data set.

Grey is ITU-R 601 luma (PIL's "L"). Images are resized with PIL's bilinear filter, which is antialiased when it
makes them smaller. The whole image is resized, without keeping its aspect ratio.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError, require
from cloven.zoo.images import Images, new_pixels, put_pixels

if TYPE_CHECKING:
    from PIL import Image

Shape = tuple[int, int, int]
"""Channels, height, width."""
TEXT = 2**22
"""The most bytes that the texts in a PNG may unpack to; PIL would allow 64 MB, from a file of 70 kB."""
MODES = {1: "L", 3: "RGB"}
SIDES = range(2, 4097)


def pillow() -> ModuleType:
    """Return PIL's Image module.

    Raises:
        ClovenError: if Pillow is not installed; the extra ``audit`` includes it.
    """
    try:
        from PIL import Image, PngImagePlugin
    except ImportError as error:
        raise require("audit", error) from error
    PngImagePlugin.MAX_TEXT_MEMORY = TEXT
    return Image


def checked(shape: Shape | None) -> Shape | None:
    """Return a shape of images if it is valid.

    Raises:
        ClovenError: if it is not.
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
    """Return the images in a shape; the same record if they already have it."""
    if shape is None or images.shape == shape:
        return images
    rows = (
        image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)) for image in images.array
    )
    made = (to_pixels(pillow().fromarray(each), shape) for each in rows)
    return replace(images, array=put_pixels(new_pixels(len(images), shape), made))
