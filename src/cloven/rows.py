"""Tensors of which rows are read: in memory, or in a file, where only the rows that are used take memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloven.row_files import StoredArray

IN_MEMORY = 2**27
"""The largest number of bytes of a set of images, or of captured tensors, that is in memory as a whole."""


@runtime_checkable
class TensorRows(Protocol):
    """A tensor ``(n, ...)`` that is read by rows. A `Tensor` is one; others read their rows from a file."""

    @property
    def shape(self) -> torch.Size:
        """The shape ``(n, ...)``."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows as they are read."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @overload
    def __getitem__(self, index: Tensor) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> TensorRows: ...


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows in a file; numbers of 8 bits are read as float32 from 0 to 1, others as they are.

    With ``channels_last``, the file has maps as ``(n, H, W, C)``; they are read as ``(n, C, H, W)``.
    """

    array: StoredArray | NDArray[Any]
    channels_last: bool = False

    @property
    def shape(self) -> torch.Size:
        """See `TensorRows`."""
        count, *row = self.array.shape
        return torch.Size((count, row[-1], *row[:-1]) if self.channels_last else (count, *row))

    @property
    def dtype(self) -> torch.dtype:
        """See `TensorRows`."""
        return torch.float32 if self.array.dtype == np.uint8 else getattr(torch, self.array.dtype.name)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: Tensor) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows: ...
    def __getitem__(self, index: Tensor | slice) -> Tensor | StoredRows:
        """Return the rows of an index as a tensor, or those of a slice without reading them."""
        if isinstance(index, slice):
            return StoredRows(_taken(self.array, index), self.channels_last)
        read = self.array[index.numpy()]
        eight = read.dtype == np.uint8
        tensor = torch.from_numpy(read.astype(np.float32)).div_(255) if eight else torch.from_numpy(read)
        return tensor.movedim(-1, 1) if self.channels_last else tensor


def _taken(array: StoredArray | NDArray[Any], rows: NDArray[np.int64] | slice) -> StoredArray | NDArray[Any]:
    return array.take(rows) if isinstance(array, StoredArray) else array[rows]


@dataclass(frozen=True, eq=False)
class Concatenated:
    """Several sets of rows, one after the other."""

    parts: Sequence[TensorRows]

    @property
    def shape(self) -> torch.Size:
        """See `TensorRows`."""
        return torch.Size((len(self), *self.parts[0].shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """See `TensorRows`."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return the rows of an index."""
        chosen = torch.arange(len(self))[index]
        made = torch.empty((len(chosen), *self.shape[1:]), dtype=self.dtype)
        first = 0
        for part in self.parts:
            mine = (chosen >= first) & (chosen < first + len(part))
            made[mine] = part[chosen[mine] - first]
            first += len(part)
        return made


def chunks(rows: TensorRows, size: int) -> Iterator[Tensor]:
    """Yield all rows in order, ``size`` at a time."""
    if isinstance(rows, Tensor):
        yield from rows.split(size)
        return
    for index in torch.arange(len(rows)).split(size):
        yield rows[index]


def all_rows(rows: TensorRows) -> Tensor:
    """Return all rows in memory; a tensor as it is."""
    return rows if isinstance(rows, Tensor) else rows[torch.arange(len(rows))]


def mean_row(rows: TensorRows) -> Tensor:
    """Return the mean of all rows, float32; of rows in a file, it is summed in float64."""
    if isinstance(rows, Tensor):
        return rows.float().mean(0)
    total = torch.zeros(rows.shape[1:], dtype=torch.float64)
    for chunk in chunks(rows, MEAN):
        total += chunk.sum(0, dtype=torch.float64)
    return (total / len(rows)).float()


MEAN = 64
"""The number of rows that are summed at a time."""


def permuted(rows: TensorRows, order: Tensor) -> TensorRows:
    """Return the rows in another order; those in a file are not read."""
    return (
        StoredRows(_taken(rows.array, order.numpy()), rows.channels_last)
        if isinstance(rows, StoredRows)
        else rows[order]
    )


def in_memory(shape: Sequence[int], width: int = 4) -> bool:
    """Return whether a set of this shape ``(n, ...)`` is small enough to be in memory as a whole.

    ``width`` is the number of bytes of each number.
    """
    return prod(shape) * width <= IN_MEMORY
