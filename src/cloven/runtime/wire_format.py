"""The bytes in which a share crosses a link, and the float32 numbers that the receiver makes of them; numpy only.

    none        float32 numbers
    float16     float16 numbers; those beyond its finite range become 65504 or -65504
    int8        the minimum and the step, two float32 numbers, then the level of each number, 0 to 255, as a byte

All are little-endian. The share of each image is encoded separately, so it does not depend on the other images of a
batch. These are the kinds of `cloven.partition.transform.Transform` that workers send. A tap, which knows no plan,
reads them too.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cloven.graph.box import Shape
    from cloven.partition.transform import WireKind

FLOAT_TYPE, HALF_TYPE = np.dtype("<f4"), np.dtype("<f2")

HALF_MAX = 65504.0
"""The largest finite number of float16."""

STEPS = 255
"""The number of steps between the 256 levels of int8."""

HEAD = 2 * FLOAT_TYPE.itemsize
"""The bytes of the minimum and the step of an int8 share."""


def size(kind: WireKind, count: int) -> int:
    """Return the bytes of a share of ``count`` numbers, as `cloven.partition.transform.Transform.bytes` does."""
    match kind:
        case "none":
            return FLOAT_TYPE.itemsize * count
        case "float16":
            return HALF_TYPE.itemsize * count
        case "int8":
            return HEAD + count


def encode(kind: WireKind, shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the bytes ``(n, bytes)`` of the shares ``(n, ...)`` of ``n`` images.

    Args:
        kind: how they cross the link.
        shares: float32; with ``none``, the bytes are those of the same memory, unless it is not contiguous.
    """
    count = prod(shares.shape[1:])
    rows = np.ascontiguousarray(shares, FLOAT_TYPE).reshape(len(shares), count)
    match kind:
        case "none":
            return rows.view(np.uint8)
        case "float16":
            return rows.clip(-HALF_MAX, HALF_MAX).astype(HALF_TYPE).view(np.uint8)
        case "int8":
            made = np.empty((len(rows), size(kind, count)), np.uint8)
            for row, out in zip(rows, made, strict=True):
                _encode_levels(row, out)
            return made


def decode(kind: WireKind, rows: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
    """Return the shares ``(n, *shape)`` in bytes ``(n, bytes)``, as float32; without a copy for ``none``.

    Args:
        kind: how they cross the link.
        rows: any bytes, as many as `size` says; they may come from someone else.
        shape: the shape of the share of one image.
    """
    match kind:
        case "none":
            made: NDArray[Any] = rows.view(FLOAT_TYPE)
        case "float16":
            made = rows.view(HALF_TYPE).astype(np.float32)
        case "int8":
            made = np.empty((len(rows), prod(shape)), np.float32)
            for row, out in zip(rows, made, strict=True):
                _decode_levels(row, out)
    return made.reshape(len(rows), *shape)


def received(kind: WireKind, shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the shares ``(n, ...)`` as the receiver has them, in float32."""
    return shares if kind == "none" else decode(kind, encode(kind, shares), shares.shape[1:])


def _encode_levels(row: NDArray[np.float32], out: NDArray[np.uint8]) -> None:
    """Write the minimum, the step and the levels of a share; the step is not finite if a number of it is not."""
    with np.errstate(all="ignore"):
        low, high = float(row.min()), float(row.max())
        step = np.float32((high - low) / STEPS)
        out[:HEAD] = np.array([low, step], FLOAT_TYPE).view(np.uint8)
        if not np.isfinite(step):
            out[HEAD:] = 0
            return
        levels = row.astype(np.float64)
        levels -= low
        levels /= float(step) or 1.0
        out[HEAD:] = np.rint(levels, out=levels).clip(0, STEPS, out=levels)


def _decode_levels(row: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    with np.errstate(all="ignore"):
        low, step = (float(number) for number in row[:HEAD].view(FLOAT_TYPE))
        levels = row[HEAD:].astype(np.float64)
        levels *= step
        levels += low
        out[:] = levels
