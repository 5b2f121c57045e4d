"""Arrays in files, of which only the rows that are used are in memory."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError, system_reason
from cloven.files import check_regular

RowNumbers = NDArray[np.int64]
"""Numbers of rows ``(m,)``."""


class OpenFile:
    """An open file, which is closed when nothing refers to it; the name of a temporary one is None."""

    def __init__(self, descriptor: int, name: str | None) -> None:
        self.descriptor, self.name = descriptor, name
        weakref.finalize(self, os.close, descriptor)

    @property
    def title(self) -> str:
        """The name for error messages."""
        return self.name or "a temporary file in the cache"


def opened(path: Path, *, writable: bool = False) -> OpenFile:
    """Open a file.

    Raises:
        OSError: if it cannot be opened.
    """
    return OpenFile(os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC), str(path))


@dataclass(frozen=True, eq=False)
class RowFile:
    """Equal rows of numbers in an open file, in order, with a fixed distance from one to the next.

    Rows are copied by system calls and not mapped into memory, so that only what is read counts as memory of the
    process.

    Attributes:
        file: the open file.
        count: the number of rows.
        row: the shape of one row.
        dtype: the type of the numbers.
        offset: the number of bytes before the first row.
        stride: the number of bytes from the beginning of a row to that of the next.
    """

    file: OpenFile
    count: int
    row: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    stride: int

    def __reduce__(self) -> tuple[Callable[..., RowFile], tuple[object, ...]]:
        """Open the file by its name in another process; a temporary file has none."""
        return _reopened, (self.file.name, self.count, self.row, self.dtype, self.offset, self.stride)

    @property
    def width(self) -> int:
        """Bytes of one row."""
        return prod(self.row) * self.dtype.itemsize

    def read(self, rows: RowNumbers) -> NDArray[Any]:
        """Return rows ``(m, *row)``, in their order.

        Raises:
            ClovenError: if the file cannot be read, or has become shorter.
        """
        made = np.empty((len(rows), *self.row), self.dtype)
        if made.size:
            content = _content(made)
            ends = np.flatnonzero(np.diff(rows) != 1) + 1 if self.stride == self.width else np.arange(1, len(rows))
            width = self.width
            for first, last in pairwise([0, *ends.tolist(), len(rows)]):
                self._fill(content[first * width : last * width], int(rows[first]))
        return made

    def write(self, first: int, values: NDArray[Any]) -> None:
        """Write consecutive rows ``(m, *row)``, from row ``first`` on.

        Raises:
            ClovenError: if they cannot be written.
        """
        content = _content(np.ascontiguousarray(values, self.dtype))
        at = self.offset + first * self.stride
        try:
            while content:
                done = os.pwrite(self.file.descriptor, content[:AT_ONCE], at)
                content, at = content[done:], at + done
        except OSError as error:
            raise ClovenError(f"cannot write {self.file.title}: {system_reason(error)}") from error

    def _fill(self, content: memoryview, row: int) -> None:
        at = self.offset + row * self.stride
        try:
            while content:
                done = os.preadv(self.file.descriptor, [content[:AT_ONCE]], at)
                if not done:
                    raise ClovenError(f"{self.file.title} became shorter while it was read; do not change it")
                content, at = content[done:], at + done
        except OSError as error:
            raise ClovenError(f"cannot read {self.file.title}: {system_reason(error)}") from error

    def part(self, first: int, shape: tuple[int, ...]) -> RowFile:
        """Return a part of each row, from its number ``first`` on, in a shape."""
        offset = self.offset + first * self.dtype.itemsize
        return RowFile(self.file, self.count, shape, self.dtype, offset, self.stride)


def _content(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _reopened(name: str, *others: Any) -> RowFile:
    return RowFile(opened(Path(name)), *others)


AT_ONCE = 2**30
"""The most bytes of one system call; Linux transfers less than 2 GiB."""


def temporary(shape: tuple[int, ...], dtype: type[np.generic], folder: Path) -> RowFile:
    """Return a new file for an array, in a folder; it has no name, and vanishes even if the process is killed.

    Raises:
        ClovenError: if the folder cannot be written, or its disk has too little space.
    """
    kind = np.dtype(dtype)
    width = prod(shape[1:]) * kind.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder, buffering=0) as unnamed:
            file = OpenFile(os.dup(unnamed.fileno()), None)
        reserve(file, shape[0] * width)
    except OSError as error:
        raise ClovenError(
            f"cannot keep {shape[0] * width:,} bytes in {folder}: {system_reason(error)}; "
            "CLOVEN_CACHE names another folder"
        ) from error
    return RowFile(file, shape[0], shape[1:], kind, 0, width)


def reserve(file: OpenFile, size: int) -> None:
    """Make a file as large as it will be, so that a full disk is found before the work and not by a write.

    Raises:
        OSError: if the disk has too little space.
    """
    if size:
        os.posix_fallocate(file.descriptor, 0, size)


@dataclass(frozen=True, eq=False)
class StoredArray:
    """Some rows of a file in some order, read when they are indexed; else like a read-only array ``(n, ...)``.

    Attributes:
        file: the file.
        rows: ``(n,)``, the row of the file of each row of this array.
    """

    file: RowFile
    rows: RowNumbers

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        """Send an array in a temporary file to another process as one in memory; another is opened there."""
        named = self.file.file.name is not None
        return (StoredArray, (self.file, self.rows)) if named else (np.asarray, (self[:],))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(n, ...)``."""
        return len(self.rows), *self.file.row

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the numbers."""
        return self.file.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | RowNumbers) -> NDArray[Any]:
        """Return the rows of an index, in memory; one row without the first axis for a number."""
        if isinstance(index, int | np.integer):
            found: NDArray[Any] = self.file.read(self.rows[index][None])[0]
            return found
        return self.file.read(self.rows[index])

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all rows, in memory."""
        return self.file.read(self.rows) if dtype is None else self.file.read(self.rows).astype(dtype)

    def take(self, rows: RowNumbers | slice) -> StoredArray:
        """Return other rows, without reading them."""
        return StoredArray(self.file, self.rows[rows])


def stored(file: RowFile) -> StoredArray:
    """Return all rows of a file."""
    return StoredArray(file, np.arange(file.count))


TYPES = {
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "|u1",
    "I8": "|i1",
    "BOOL": "|b1",
}
"""NumPy's names of the types in safetensors files."""


def stored_tensors(path: Path) -> tuple[dict[str, str], dict[str, StoredArray]]:
    """Return the metadata and the tensors of a safetensors file, whose rows are read when they are used.

    Raises:
        ClovenError: if it is not a safetensors file, has a tensor without rows or of an unusual type, or as
            `cloven.files.open_regular`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(check_regular(path), "numpy") as checked:  # offsets inside the file, without overlaps
            metadata = checked.metadata() or {}
        file = opened(path)
        size = int.from_bytes(os.pread(file.descriptor, 8, 0), "little")
        header = json.loads(os.pread(file.descriptor, size, 8))
        found = {name: about for name, about in header.items() if name != "__metadata__"}
        arrays = {}
        for name, about in found.items():
            if about["dtype"] not in TYPES or not about["shape"]:
                raise ClovenError(
                    f"cannot read {path}: {name!r} is {about['dtype']} of shape {about['shape']}; expected rows of "
                    f"{', '.join(TYPES)}"
                )
            kind, (count, *row) = np.dtype(TYPES[about["dtype"]]), about["shape"]
            begin = 8 + size + about["data_offsets"][0]
            arrays[name] = stored(RowFile(file, count, tuple(row), kind, begin, prod(row) * kind.itemsize))
    except (OSError, SafetensorError) as error:
        raise ClovenError(f"cannot read {path} as safetensors: {error}") from error
    return metadata, arrays
