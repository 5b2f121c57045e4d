"""Convert images between pixels of 0 to 255 and numbers in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError

LARGEST = np.float32(255)
"""The value of the brightest pixel."""


def unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixels of 0 to 255 scaled to [0, 1]."""
    return pixels.astype(np.float32) / LARGEST


def pixels_of(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the pixels of which `unit` returns exactly this image, float32.

    Raises:
        ClovenError: if a number of the image is not a whole number from 0 to 255, divided by 255.
    """
    with np.errstate(invalid="ignore"):  # NaN, infinities
        found = np.rint(image * LARGEST).astype(np.uint8)
    if not np.array_equal(unit(found), image):
        raise ClovenError(
            "the image has numbers other than 0/255, 1/255, ..., 255/255, so it cannot be sent as uint8; send a "
            "picture with 8 bits for each channel, or remove image from [transform] in the plan"
        )
    return found
