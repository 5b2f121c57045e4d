"""Windows of sensor readings as grids of levels, and as images; and back.

A grid has a row for each row of a window, and a column for each number and each category. A number is scaled by
256 quantiles of the training part: level p / 255 is the p / 255 quantile, and so is pixel p of an image. Between
two quantiles the scale is linear. A category has a column of its own, which is 1 in the rows with that category,
and 0 in all others. Time is never a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.zoo.pixels import Shape
from cloven.zoo.ton_iot import SensorColumn

LEVELS = 256
"""The number of levels of a pixel, and of quantiles."""


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of a column of numbers.

    Attributes:
        knots: ``(256,)``, quantiles of the training part, ascending.
        decimals: the number of digits after the point with which the numbers are written.
    """

    knots: NDArray[np.float64]
    decimals: int

    @property
    def low(self) -> float:
        """The lowest number of the training part."""
        return float(self.knots[0])

    @property
    def high(self) -> float:
        """The highest number of the training part."""
        return float(self.knots[-1])

    def levels(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the level of each number, in [0, 1]; numbers outside the training range get 0 or 1.

        A number that is several quantiles gets the level in their middle.
        """
        inside = np.clip(numbers, self.low, self.high)
        first = np.searchsorted(self.knots, inside, "left")
        after = np.searchsorted(self.knots, inside, "right")
        below, above = self.knots[np.maximum(first - 1, 0)], self.knots[first]
        step = np.where(above > below, above - below, 1.0)
        between = first - 1 + (inside - below) / step
        found: NDArray[np.float64] = np.where(after > first, (first + after - 1) / 2, between) / (LEVELS - 1)
        return found

    def numbers(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of each level, with as many digits as the numbers are written with."""
        found = np.interp(levels * (LEVELS - 1), np.arange(LEVELS), self.knots)
        return np.round(found, self.decimals)


def fitted_scale(numbers: NDArray[np.float64], decimals: int) -> Scale:
    """Return the scale of the numbers of a training part; there is at least one."""
    return Scale(np.quantile(numbers, np.linspace(0, 1, LEVELS)), decimals)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes readings as levels, and back.

    Attributes:
        columns: the columns of the readings.
        scales: the scale of each column; None for categories.
    """

    columns: tuple[SensorColumn, ...]
    scales: tuple[Scale | None, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the grid's columns, such as ``temperature`` or ``door_state=open``."""
        names = ([f"{c.name}={each}" for each in c.categories] or [c.name] for c in self.columns)
        return tuple(name for some in names for name in some)

    def encode(self, readings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the levels ``(..., features)``, in [0, 1], of readings ``(..., columns)``."""
        made = []
        for i, (column, scale) in enumerate(zip(self.columns, self.scales, strict=True)):
            values = readings[..., i]
            if scale is None:
                made.append((values[..., None] == np.arange(len(column.categories))).astype(np.float64))
            else:
                made.append(scale.levels(values)[..., None])
        return np.concatenate(made, axis=-1)

    def decode(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the readings ``(..., columns)`` of levels ``(..., features)``; of categories, the most likely."""
        made, at = [], 0
        for column, scale in zip(self.columns, self.scales, strict=True):
            width = len(column.categories) or 1
            part = levels[..., at : at + width]
            at += width
            made.append(part.argmax(-1).astype(np.float64) if scale is None else scale.numbers(part[..., 0]))
        return np.stack(made, axis=-1)

    def outside(self, readings: NDArray[np.float64]) -> tuple[int, ...]:
        """Return the number of readings of each column that are outside the training range."""
        numbers = readings.reshape(-1, len(self.columns)).T
        return tuple(
            0 if scale is None else int(((values < scale.low) | (values > scale.high)).sum())
            for values, scale in zip(numbers, self.scales, strict=True)
        )


def fitted_encoder(
    columns: tuple[SensorColumn, ...], decimals: Sequence[int], training: NDArray[np.float64]
) -> Encoder:
    """Return the encoder for readings ``(n, columns)`` of a training part."""
    scales = (
        None if column.categories else fitted_scale(training[:, i], digits)
        for i, (column, digits) in enumerate(zip(columns, decimals, strict=True))
    )
    return Encoder(columns, tuple(scales))


class Layout(NamedTuple):
    """The place of a grid in an image: enlarged to the nearest pixel by whole factors, then padded with black.

    Attributes:
        rows: the rows of the grid.
        columns: its columns.
        shape: the channels, height and width of the image; all channels are equal.
    """

    rows: int
    columns: int
    shape: Shape

    @property
    def cell(self) -> tuple[int, int]:
        """The height and width of a cell of the grid in pixels."""
        return self.shape[1] // self.rows, self.shape[2] // self.columns

    def enlarged(self, grid: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image ``(channels, height, width)`` of a grid ``(rows, columns)``."""
        cells = np.kron(grid, np.ones(self.cell, np.uint8))
        image = np.zeros(self.shape, np.uint8)
        image[:, : cells.shape[0], : cells.shape[1]] = cells
        return image

    def reduced(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the grids ``(n, rows, columns)`` of images ``(n, channels, height, width)``.

        A cell is the mean of its pixels, since a reconstruction has cells of several levels.
        """
        high, wide = self.cell
        inside = images.mean(1)[:, : high * self.rows, : wide * self.columns]
        cells: NDArray[np.float64] = inside.reshape(-1, self.rows, high, self.columns, wide).mean((2, 4))
        return cells


def laid_out(rows: int, columns: int, shape: Shape) -> Layout:
    """Return the place of a grid in an image.

    Raises:
        ClovenError: if the image is smaller than the grid.
    """
    if shape[1] < rows or shape[2] < columns:
        raise ClovenError(
            f"shape: got {shape[1]} x {shape[2]} pixels; expected at least {rows} x {columns} for windows of "
            f"{rows} rows by {columns} features: give a larger size, or a smaller window"
        )
    return Layout(rows, columns, shape)
