"""A picture with samples of each class of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.errors import one_line, require

if TYPE_CHECKING:
    from PIL import Image

SMALL, LARGE = 96, 224
"""The side in pixels to which small images are enlarged, in whole steps, and to which large ones are reduced."""
LINE, LETTER, NAMES, GAP = 18, 7, 190, 6
"""The height of a line, the width of a letter, that of the column of names, and the space between images."""
CLASSES = 24
"""The number of classes that are drawn at most."""
WHITE, INK, MUTED = "#ffffff", "#1c1c1c", "#6b6b6b"


class SampledClass(NamedTuple):
    """A class with samples ``(n, channels, height, width)`` of its images."""

    name: str
    detail: str
    images: NDArray[np.uint8]


def preview(title: str, classes: Sequence[SampledClass], caption: str) -> bytes:
    """Return a PNG with a row of samples for each class.

    Args:
        title: the line above.
        classes: the rows; of more than 24, the first are drawn, and a line says so.
        caption: what a pixel means, below the rows.

    Raises:
        ClovenError: if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise require("audit", error) from error
    shown = [(one, [_sized(image) for image in one.images]) for one in classes[:CLASSES]]
    wide = max((image.width for _, some in shown for image in some), default=SMALL) + GAP
    high = max((image.height for _, some in shown for image in some), default=SMALL) + GAP
    width = NAMES + wide * max(4, *(len(some) for _, some in shown), 0)
    more = f" Only the first {CLASSES} of {len(classes)} classes are drawn." * (len(classes) > CLASSES)
    lines = wrap(caption + more, width // LETTER)
    height = 2 * LINE + high * len(shown) + LINE * (len(lines) + 1)
    canvas = Image.new("RGB", (width, height), WHITE)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    pen.text((GAP, GAP), one_line(title), INK, font)
    for row, (one, some) in enumerate(shown):
        top = 2 * LINE + row * high
        pen.text((GAP, top), _cut(one.name), INK, font)
        pen.text((GAP, top + LINE), _cut(one.detail), MUTED, font)
        for place, image in enumerate(some):
            canvas.paste(image, (NAMES + place * wide, top))
    for number, line in enumerate(lines):
        pen.text((GAP, 2 * LINE + high * len(shown) + LINE * number + GAP), one_line(line), INK, font)
    canvas.save(made := BytesIO(), "PNG", optimize=True)
    return made.getvalue()


def _sized(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an image in the size in which it is drawn."""
    from PIL import Image

    grey = len(pixels) == 1
    image = Image.fromarray(pixels[0] if grey else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    side = max(image.size)
    if side > LARGE:
        smaller = (max(1, round(length * LARGE / side)) for length in image.size)
        return image.resize((next(smaller), next(smaller)))
    times = max(1, SMALL // side)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _cut(text: str) -> str:
    most = (NAMES - GAP) // LETTER
    clean = one_line(text)
    return clean if len(clean) <= most else clean[: most - 3] + "..."
