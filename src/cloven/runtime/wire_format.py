"""The bytes in which a share crosses a link, and the float32 numbers that the receiver makes of them; numpy only.

    none        float32 numbers
    float16     float16 numbers; those beyond its finite range become 65504 or -65504
    int8        the minimum and the step, two float32 numbers, then the level of each number, 0 to 255, as a byte

All are little-endian. The share of each image is encoded separately, so it does not depend on the other images of a
batch. `cloven.partition.transform.Transform.bytes` counts the bytes.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.graph.box import Shape
from cloven.partition.transform import FLOAT, Transform

FLOAT_TYPE, HALF_TYPE = np.dtype("<f4"), np.dtype("<f2")

HALF_MAX = 65504.0
"""The largest finite number of float16."""

STEPS = 255
"""The number of steps between the 256 levels of int8."""

HEAD = 2 * FLOAT
"""The bytes of the minimum and the step of an int8 share."""


def encode(transform: Transform, shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the bytes ``(n, bytes)`` of the shares ``(n, ...)`` of ``n`` images.

    Args:
        transform: ``none``, ``float16`` or ``int8``.
        shares: float32; with ``none``, the bytes are those of the same memory, unless it is not contiguous.
    """
    count = prod(shares.shape[1:])
    rows = np.ascontiguousarray(shares, FLOAT_TYPE).reshape(len(shares), count)
    match transform.kind:
        case "none":
            return rows.view(np.uint8)
        case "float16":
            return rows.clip(-HALF_MAX, HALF_MAX).astype(HALF_TYPE).view(np.uint8)
        case "int8":
            made = np.empty((len(rows), transform.bytes(count)), np.uint8)
            for row, out in zip(rows, made, strict=True):
                _encode_levels(row, out)
            return made
    raise ValueError(f"{transform.name} has no wire format")


def decode(transform: Transform, rows: NDArray[np.uint8], shape: Shape) -> NDArray[np.float32]:
    """Return the shares ``(n, *shape)`` in bytes ``(n, bytes)``, as float32; without a copy for ``none``.

    Args:
        transform: ``none``, ``float16`` or ``int8``.
        rows: any bytes, as many as ``transform.bytes`` says; they may come from someone else.
        shape: the shape of the share of one image.
    """
    match transform.kind:
        case "none":
            made: NDArray[Any] = rows.view(FLOAT_TYPE)
        case "float16":
            made = rows.view(HALF_TYPE).astype(np.float32)
        case "int8":
            made = np.empty((len(rows), prod(shape)), np.float32)
            for row, out in zip(rows, made, strict=True):
                _decode_levels(row, out)
        case _:
            raise ValueError(f"{transform.name} has no wire format")
    return made.reshape(len(rows), *shape)


def received(transform: Transform, shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the shares ``(n, ...)`` as the receiver has them, in float32."""
    return shares if transform.exact else decode(transform, encode(transform, shares), shares.shape[1:])


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
