"""Pictures of a data set, or of noise, as PNG files in memory."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.zoo.datasets import load
from cloven.zoo.pixels import Shape


def as_files(spec: str, shape: Shape, count: int) -> list[bytes]:
    """Return images of a data set, resized, or of noise, as PNG files.

    Args:
        spec: as in `cloven.zoo.datasets.load`; empty for noise, which is always the same.
        shape: (channels, height, width) with 1 or 3 channels.
        count: the number of images.

    Raises:
        ClovenError: as `load`, and if the data set has fewer images.
    """
    if not spec:
        return [_png(pixels) for pixels in np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)]
    images = load(spec, shape=shape, limit=count)
    if len(images) < count:
        raise ClovenError(f"{spec} has {len(images)} images; expected {count}")
    return [_png(pixels) for pixels in images.array[:count]]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(out := BytesIO(), "PNG")
    return out.getvalue()
