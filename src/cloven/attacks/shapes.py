"""The content of captured bytes: a guess of number type, layout and shape, from the bytes alone.

Decision 6.1: candidates are the ways to write the number count as channels x height x width, scored by spatial
correlation. Over several images, each number is first put to mean 0 and deviation 1 across the images, so that
what one channel is on average does not pass for structure. Along an axis of stride s and length m, the numbers
i and i + s are neighbours where both are inside the axis; a mean correlation r of a share p of all numbers is
worth ``-p/2 log2(1 - r^2)`` bits a number, the bits that a Gaussian is cheaper for knowing its neighbour. Pairs
that cross the end of a row or a map lower r, and rows that are cut lower p: the bits are highest at the true ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.attacks.formats import SIZES, Bytes, Floats, Format, decoded, recognised
from cloven.errors import ClovenError

Layout = Literal["chw", "hwc", "flat"]

IMAGES = 64
"""The most images that are read."""

NUMBERS = 2**24
"""The most numbers of all these images: fewer images are read if one has many numbers."""

POSITIONS = 8192
"""The positions at which every candidate is scored; those near the best are then scored at all positions."""

MANY = 2**17
"""The positions at which the best candidate is tested."""

NEAR = 0.93
"""A candidate with this share of the best's bits is scored again."""

ASPECT = 16
"""The largest ratio of the sides of a map."""

SQUARE, USUAL = 1.002, 1.001
"""Preferences between near equals: maps are often square, channels multiples of 8."""

SECOND = 0.999
"""The weight of the second-next neighbour, so that half of the true stride is not a tie."""

PEAK = 4.0
"""Standard errors by which the neighbour below must differ from those beside it, for a map to be one."""


class Axis(NamedTuple):
    """A spatial axis in memory: how far apart neighbours are, and how many there are in a row."""

    stride: int
    length: int


class Map(NamedTuple):
    """A candidate."""

    layout: Layout
    shape: tuple[int, int, int]

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Width and height in memory."""
        channels, height, width = self.shape
        step = 1 if self.layout == "chw" else channels
        return Axis(step, width), Axis(step * width, height)

    @property
    def preference(self) -> float:
        """The plausibility of the shape before any number is read."""
        channels, height, width = self.shape
        return (SQUARE if height == width else 1) * (USUAL if channels % 8 == 0 else 1)


@dataclass(frozen=True, eq=False)
class NumberSample:
    """Standardised numbers by position, ``(positions, images)``; dead positions never change."""

    numbers: Floats
    live: NDArray[np.bool_]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> NumberSample:
        """Return the sample of ``(n, numbers)``; with fewer than four images, the mean is that of all numbers."""
        values = values[: max(1, min(IMAGES, NUMBERS // values.shape[1]))]
        alone = len(values) < 4
        axis = None if alone else 0
        centred = values - values.mean(axis)
        deviation = np.broadcast_to(centred.std(axis), values.shape[1:])
        live = deviation > 1e-6 * max(float(deviation.max()), 1e-30)
        scaled = centred / np.where(live, deviation, 1)
        return cls(np.ascontiguousarray(scaled.T), live)

    def correlation(self, lag: int, at: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
        """Return the positions with a live neighbour so far on, and the correlation with it."""
        first = at[at + lag < len(self.live)]
        first = first[self.live[first + lag]]
        products = np.einsum("ij,ij->i", self.numbers[first], self.numbers[first + lag])
        return first, products / np.float32(self.numbers.shape[1])

    def peak(self, candidate: Map) -> float:
        """Return the standard errors by which a number is nearer to the one below it than to those beside that.

        Or less near, in a chequered map. A vector whose entries vary slowly, such as logits, has near neighbours
        too, but no such peak.
        """
        across, down = candidate.axes
        at = np.flatnonzero(self.live)
        if len(at) > MANY:
            at = np.sort(np.random.default_rng(1).choice(at, MANY, replace=False))
        found = []
        for step in (1, 2):
            lags = [step * down.stride + side for side in (0, -across.stride, across.stride)]
            inside = at[((at // down.stride) % down.length < down.length - step) & (at + lags[2] < len(self.live))]
            inside = inside[self.live[inside + lags[0]] & self.live[inside + lags[1]] & self.live[inside + lags[2]]]
            below, left, right = (self.correlation(lag, inside)[1] for lag in lags)
            gap = below - (left + right) / 2
            if len(gap) > 2 and gap.std() > 0:
                found.append(abs(float(gap.mean() / gap.std())) * len(gap) ** 0.5)
        return max(found, default=0.0)

    def bits(self, axes: Iterable[Axis], positions: int) -> dict[Axis, float]:
        """Return the bits per number that neighbours along each axis save."""
        lengths: dict[int, set[int]] = {}
        for axis in axes:
            lengths.setdefault(axis.stride, set()).add(axis.length)
        at = np.flatnonzero(self.live)
        if len(at) > positions:
            at = np.sort(np.random.default_rng(0).choice(at, positions, replace=False))
        found: dict[Axis, float] = {}
        for stride, several in lengths.items():
            # The next neighbour but one too: maps of strided layers can be chequered.
            seen = [(step, *self.correlation(step * stride, at)) for step in (1, 2)]
            ranks = [(step, first // stride, r) for step, first, r in seen]
            for length in several:
                saved = [_bits(r[rank % length < length - step], len(at)) for step, rank, r in ranks]
                found[Axis(stride, length)] = max(saved[0], saved[1] * SECOND)
        return found


def _bits(correlations: Floats, among: int) -> float:
    if not len(correlations):
        return 0.0
    mean = min(max(float(correlations.mean()), 0.0), 0.9999)
    return float(-0.5 * np.log2(1 - mean**2) * len(correlations) / among)


def divisors(number: int) -> list[int]:
    """Return all divisors, in order."""
    small = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def maps(numbers: int) -> Iterator[Map]:
    """Yield every map of so many numbers with both sides of 2 or more, neither over `ASPECT` times the other."""
    for height in divisors(numbers):
        for width in divisors(numbers // height):
            if min(height, width) >= 2 and max(height, width) <= ASPECT * min(height, width):
                channels = numbers // (height * width)
                yield Map("chw", (channels, height, width))
                if channels > 1:
                    yield Map("hwc", (channels, height, width))


def ranked(sample: NumberSample) -> list[tuple[float, Map]]:
    """Return possible shapes of the map, best first, with the bits per number that each saves."""
    numbers = len(sample.live)
    scored = _scored(sample, list(maps(numbers)), POSITIONS)
    if not scored or not scored[0][0]:
        return []
    near = [m for bits, m in scored if bits >= NEAR * scored[0][0]]
    return _scored(sample, near, numbers) + scored[len(near) :]


def _scored(sample: NumberSample, candidates: list[Map], positions: int) -> list[tuple[float, Map]]:
    axes = [m.axes for m in candidates]
    bits: Mapping[Axis, float] = sample.bits(chain.from_iterable(axes), positions)
    scored = [
        (m.preference * (bits[across] + bits[down]), m) for m, (across, down) in zip(candidates, axes, strict=True)
    ]
    return sorted(scored, key=lambda pair: -pair[0])


class Shaped(NamedTuple):
    """The map that numbers are (None: vectors), the bits that it saves, and how sure it is (see `ShapeGuess`)."""

    map: Map | None
    bits: float
    score: float


def shaped(values: Floats) -> Shaped:
    """Return the shape of the map in ``(n, numbers)``, or that they are vectors."""
    sample = NumberSample.of(values)
    found = ranked(sample)
    peak = sample.peak(found[0][1]) if found else 0.0
    if peak < PEAK:
        return Shaped(None, 0.0, min(1.0, 1 - peak / PEAK))
    bits, best = found[0]
    return Shaped(best, bits, 1 - found[1][0] / bits if len(found) > 1 else 1.0)


@dataclass(frozen=True)
class ShapeGuess:
    """An attacker's guess at the content of a message.

    ``shape`` is (C, H, W) whatever the layout, or (numbers,) for flat ones. ``score`` is how sure the shape is, in
    [0, 1]: of a map, the share of its bits by which it beats the second best (harmonics of the true shape are near:
    0.01 is a clear win); of a vector, how far it is from passing for a map; 1 for noise. ``random`` says that
    the bytes look like a ciphertext or noise: such a message is taken for single bytes.
    """

    dtype: str
    layout: Layout
    shape: tuple[int, ...]
    score: float
    random: bool
    big_endian: bool = False


def infer(messages: Bytes) -> ShapeGuess:
    """Return the guess at the content of ``(n, bytes)``: the same message of n images, one per row.

    Sixteen images or more are advisable: of fewer than four, the channels' own means pass for structure.

    Raises:
        ClovenError: for anything but one row of bytes or more.
    """
    if messages.dtype != np.uint8 or messages.ndim != 2 or 0 in messages.shape:
        raise ClovenError(
            f"messages are {messages.dtype} of shape {messages.shape}; expected bytes (uint8) of shape "
            "(images, bytes), one image and one byte at least: stack what was captured of each image in a row"
        )
    length = messages.shape[1]
    form = recognised(messages)
    if form is None:
        return ShapeGuess("uint8", "flat", (length,), 1.0, random=True)
    numbers = length // SIZES[form.dtype]
    # Bytes with a sign look much as those without: the map tells, if it is one.
    forms = [form] if SIZES[form.dtype] > 1 else sorted([Format("int8"), Format("uint8")], key=form.__ne__)
    looked_at = messages[: max(1, min(IMAGES, NUMBERS // numbers))]
    # Broken and huge numbers say nothing of the shape, and would drown what the others say.
    tried = [shaped(np.clip(np.nan_to_num(decoded(looked_at, f)), -1e6, 1e6)) for f in forms]
    found, form = max(zip(tried, forms, strict=True), key=lambda pair: pair[0].bits)
    if found.map is None:
        return ShapeGuess(form.dtype, "flat", (numbers,), found.score, random=False, big_endian=form.big)
    layout, shape = found.map
    return ShapeGuess(form.dtype, layout, shape, found.score, random=False, big_endian=form.big)
