"""The kind of number that captured bytes hold, from the bytes alone, and the numbers.

Bytes of one kind of number repeat with its size: the byte of sign and exponent takes few values, the last of the
mantissa all. A format is plausible where the numbers' powers of two lie as those of real values do: near 1, and
spread over a few, since values that are dense around 0 spread their logarithm (base 2) by 1.6 (normal ones) to 1.9
(exponential ones). Bytes read in a wrong format spread theirs over tens, or over a fraction.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
"""Bytes of one number."""

LOOKED_AT, PIECE = 2**19, 512
"""The most bytes that are read, and the length of each piece."""

SPREAD = 1.8
"""The usual standard deviation of the powers of two of activations that are not zero."""

WIDEST, NARROWEST, FAR = 6.5, 0.02, 24.0
"""Limits of the spread of real values, and of the distance of their middle from 1, in powers of two."""

NOTHING = 2.0**-32
"""The share of the largest number below which a number counts as zero, as in channels that died in training."""

UNLIKE = 0.5
"""The largest difference of neighbouring numbers, see `_unlike`."""

NOISE = 6.0
"""The standard errors by which the histogram of noise may deviate from a flat one."""

FEW = 2048
"""With fewer bytes, the histogram says little, and a plausible format is accepted."""

GAIN = 0.03
"""The bits per byte that must be saved by a separate histogram for each byte of a number."""


class Format(NamedTuple):
    """A kind of number and its byte order."""

    dtype: str
    big: bool = False


def decoded(messages: Bytes, form: Format) -> Floats:
    """Return the numbers of ``(n, bytes)``; bytes must be a multiple of the number's size."""
    order = ">" if form.big else "<"
    rows = np.ascontiguousarray(messages)
    if form.dtype == "bfloat16":
        words = rows.view(order + "u2").astype(np.uint32) << np.uint32(16)
        return words.view(np.float32)
    kind = {"float64": "f8", "float32": "f4", "float16": "f2", "int8": "i1", "uint8": "u1"}[form.dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        numbers: Floats = rows.view(order + kind).astype(np.float32)
    return numbers


def recognised(messages: Bytes) -> Format | None:
    """Return the format of the numbers in ``(n, bytes)``; None if the bytes look like noise."""
    length = messages.shape[1]
    sample = _sample(messages)
    if not sample.any():
        return Format("float32" if length % 4 == 0 else "uint8")
    form = _real(sample, length)
    if _flat(sample) and (form is None or sample.size >= FEW):
        return None
    return form or Format("int8" if _signed(sample) else "uint8")


def _real(sample: Bytes, length: int) -> Format | None:
    """Return the most plausible floating-point format."""
    if _gain(sample) < GAIN:
        return None
    plausible: dict[Format, Look] = {}
    for name, size in SIZES.items():
        if size == 1 or length % size:
            continue
        for form in (Format(name), Format(name, big=True)):
            if (look := _look(sample, form)) is not None:
                plausible[form] = look
    # The smallest of alike numbers: pairs of small ones may pass for a large one, which halves seldom are alike.
    first = min(plausible, key=lambda f: plausible[f].key(SIZES[f.dtype]), default=None)
    same = [form for form in plausible if first and SIZES[form.dtype] == SIZES[first.dtype]]
    return min(same, key=lambda f: plausible[f].distance, default=None)


class Look(NamedTuple):
    """The look of bytes in a format: the distance of the spread of powers of two from usual, and see `_unlike`."""

    distance: float
    unlike: float

    def key(self, size: int) -> tuple[bool, float]:
        """Return the order of preference: alike numbers before others, and small ones before large."""
        apart = self.unlike > UNLIKE
        return apart, self.unlike if apart else size


def _sample(messages: Bytes) -> Bytes:
    """Return as many messages as may be read; of long ones, pieces of 512 bytes from all over some of them."""
    length = messages.shape[1]
    if length * 8 <= LOOKED_AT:
        return np.ascontiguousarray(messages[: LOOKED_AT // length])
    some = messages[:8]
    pieces = LOOKED_AT // (PIECE * len(some))
    starts = np.linspace(0, length // 8 - PIECE // 8, pieces).astype(np.int64) * 8
    return np.concatenate([some[:, start : start + PIECE] for start in starts])


def _flat(sample: Bytes) -> bool:
    """Return whether each of the 256 bytes is as frequent as in noise; a handful of bytes always is."""
    counts = np.bincount(sample.ravel(), minlength=256)
    expected = sample.size / 256
    excess = float(((counts - expected) ** 2).sum() / expected) - 255
    return bool(abs(excess) < NOISE * 510**0.5)


def _entropy(data: Bytes) -> float:
    """Return the bits per byte, with the correction of Miller and Madow for few bytes."""
    counts = np.bincount(data.ravel(), minlength=256)
    shares = counts[counts > 0] / data.size
    correction = (len(shares) - 1) / (2 * data.size * log(2))
    return float(-(shares * np.log2(shares)).sum()) + correction


def _gain(sample: Bytes) -> float:
    """Return the bits per byte saved by a histogram for each byte of a number, for the size that saves most."""
    together = _entropy(sample)
    gains = []
    for size in (2, 4, 8):
        if sample.shape[1] % size == 0:
            apart = [_entropy(sample[:, i::size]) for i in range(size)]
            gains.append(together - float(np.mean(apart)))
    return max(gains, default=0.0)


def _look(sample: Bytes, form: Format) -> Look | None:
    """Return the look of the bytes in a format; None if they cannot have it."""
    numbers = decoded(sample, form)
    finite = np.isfinite(numbers)
    if finite.mean() < 0.99 or not np.any(numbers[finite]):
        return None
    real = np.abs(np.where(finite, numbers, 0))
    powers = np.log2(real, where=real > NOTHING * real.max(), out=np.full(real.shape, np.nan, np.float32))
    known = powers[np.isfinite(powers)]
    spread, middle = float(known.std()), abs(float(np.median(known)))
    if spread > WIDEST or middle > FAR:
        return None
    return Look(abs(float(np.log2(max(spread, NARROWEST) / SPREAD))), _unlike(powers, SIZES[form.dtype]))


def _unlike(powers: Floats, size: int) -> float:
    """Return how unlike the numbers at each place in 8 bytes are: the largest variation of their powers of 2.

    Zeros count by their share alone: most of a sparse map is alike in any format.
    """
    places = 8 // size if (powers.shape[1] * size) % 8 == 0 else 2
    if powers.shape[1] % places or places == 1:
        return 0.0
    steps = np.clip(np.nan_to_num(np.floor(powers), nan=151), -150, 151).astype(np.int64) + 150
    counts = np.stack([np.bincount(steps[:, i::places].ravel(), minlength=302) for i in range(places)])
    zeros = counts[:, -1] / counts.sum(1)
    shares = counts[:, :-1] / np.maximum(counts[:, :-1].sum(1, keepdims=True), 1)
    apart = np.abs(shares[:, None] - shares[None]).sum(2) / 2
    return max(float(np.ptp(zeros)), float(apart.max()))


def _signed(sample: Bytes) -> bool:
    """Return whether bytes are signed: fewer numbers then lie beside 127 and -128 than beside 0 and -1."""
    counts = np.bincount(sample.ravel(), minlength=256)
    unsigned_ends = min(counts[:16].sum(), counts[-16:].sum())
    signed_ends = min(counts[112:128].sum(), counts[128:144].sum())
    return bool(signed_ends < unsigned_ends)
