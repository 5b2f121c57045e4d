"""Pixels and numbers in [0, 1], without loss in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from cloven.errors import ClovenError
from cloven.runtime.unit_images import pixels_of, unit

ALL = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
"""An image with every value that a pixel can have."""


def test_every_pixel_is_found_again() -> None:
    found = pixels_of(unit(ALL))

    assert found.dtype == np.uint8
    assert np.array_equal(found, ALL)


@pytest.mark.parametrize(
    "number", [np.nextafter(np.float32(1), np.float32(0)), 0.5, 256 / 255, -1 / 255, np.nan, np.inf]
)
def test_numbers_that_are_not_pixels_are_refused(number: float) -> None:
    image = unit(ALL)
    image[0, 3, 3] = number

    with pytest.raises(ClovenError, match="cannot be sent as uint8; send a picture"):
        pixels_of(image)
