"""Images as PNG data URIs, so that the page makes no request."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cloven.errors import ClovenError, require

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 112  # the side that a large image is reduced to: the page shows no more of it
WANTED = 84  # the side that a small image is enlarged to, in whole steps


@dataclass(frozen=True)
class Picture:
    """An ``<img>``: where its bytes are and how large it is shown, in CSS pixels."""

    uri: str
    width: int
    height: int
    pixelated: bool


def picture(image: NDArray[np.uint8]) -> Picture:
    """Return an image ``(channels, height, width)`` as an ``<img>``; of other than three channels the mean."""
    if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ClovenError(
            f"a sample image must be uint8 of shape (channels, height, width), got {image.dtype} {image.shape}"
        )
    _, height, width = image.shape
    side = max(height, width)
    if side > LARGEST:
        return _encoded(image, round(width * LARGEST / side) or 1, round(height * LARGEST / side) or 1, reduce=True)
    steps = max(1, round(WANTED / side))
    return _encoded(image, width * steps, height * steps, reduce=False)


def _encoded(image: NDArray[np.uint8], width: int, height: int, *, reduce: bool) -> Picture:
    drawn = _pil(image)
    if reduce:
        drawn = drawn.resize((width, height))
    buffer = io.BytesIO()
    drawn.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{data}", width, height, pixelated=not reduce)


def _pil(image: NDArray[np.uint8]) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise require("audit", error) from error
    if image.shape[0] == 3:
        return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    grey = image[0] if image.shape[0] == 1 else image.mean(axis=0).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(grey))
