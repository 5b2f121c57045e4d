"""The hand-over: pass the tensors of one message between processes, by shared memory, a file or a pipe.

Both sides know the shapes; a message carries only the number of images, and with a pipe the tensors after it. The
parent of the two processes opens the descriptors, so that neither process opens anything itself.
"""

from __future__ import annotations

import mmap
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.graph.box import Shape
from cloven.runtime.link.octets import octets

Way = Literal["memory", "file", "pipe"]
WAYS: tuple[Way, ...] = ("memory", "file", "pipe")
"""Rajasekar et al. (2024) use ``file`` (Sect. IV, step 5)."""
Array = NDArray[np.float32]


def opened(way: Way, folder: Path) -> int:
    """Return a descriptor for the two processes, of an unnamed file in ``folder``; -1 for a pipe.

    Raises:
        ClovenError: if the folder is not writable.
    """
    if way == "pipe":
        return -1
    if way == "memory":
        return os.memfd_create("cloven-handover", os.MFD_CLOEXEC)
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClovenError(
            f"cannot create a hand-over file in {folder}: {error.strerror}; use memory or pipe"
        ) from error


def take_ends(parser: ArgumentParser) -> None:
    """Add the hand-over options of both processes, see `runner.Enclave.ends`."""
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--out", type=int, required=True)
    parser.add_argument("--back", type=int, default=-1)
    parser.add_argument("--threads", type=int, default=1)


def bytes_of(shapes: Sequence[Shape], images: int) -> int:
    """Return the size of float32 tensors, in bytes."""
    return 4 * images * sum(prod(shape) for shape in shapes)


class Giver:
    """The sending end of a hand-over."""

    def __init__(self, way: Way, descriptor: int) -> None:
        self.way, self.descriptor = way, descriptor
        self.mapped: mmap.mmap | None = None

    def give(self, tensors: Sequence[Array]) -> bytes:
        """Hand tensors over; return the bytes to append to the message, which are empty except for a pipe."""
        if self.way == "pipe":
            return b"".join(tensor.tobytes() for tensor in tensors)
        if self.way == "memory":
            self._copy(tensors)
        else:
            self._write(tensors)
        return b""

    def _write(self, tensors: Sequence[Array]) -> None:
        place = 0
        for tensor in tensors:
            left = octets(np.ascontiguousarray(tensor))
            while left:
                sent = os.pwrite(self.descriptor, left, place)
                left, place = left[sent:], place + sent

    def _copy(self, tensors: Sequence[Array]) -> None:
        size = sum(tensor.nbytes for tensor in tensors)
        if not size:
            return
        if self.mapped is None or len(self.mapped) < size:
            os.ftruncate(self.descriptor, size)
            self.mapped = mmap.mmap(self.descriptor, size)
        place = 0
        for tensor in tensors:
            there = np.frombuffer(self.mapped, np.float32, tensor.size, place).reshape(tensor.shape)
            np.copyto(there, tensor)
            place += tensor.nbytes


class Taker:
    """The receiving end of a hand-over."""

    def __init__(self, way: Way, descriptor: int) -> None:
        self.way, self.descriptor = way, descriptor
        self.mapped: mmap.mmap | None = None

    def take(self, shapes: Sequence[Shape], images: int, told: bytes | bytearray = b"") -> list[Array]:
        """Return the tensors ``(n, ...)``, valid until the next message; shared memory is not copied.

        Args:
            shapes: the shapes for one image.
            images: the number of images.
            told: the bytes appended to the message.

        Raises:
            ClovenError: if there are too few bytes.
        """
        size = bytes_of(shapes, images)
        if not size:
            return []
        held: bytes | bytearray | mmap.mmap = told
        if self.way != "pipe":
            held = self._mapped(size) if self.way == "memory" else self._read(size)
        if len(held) < size:
            raise ClovenError(f"{len(held)} bytes were handed over; expected {size}")
        found, place = [], 0
        for shape in shapes:
            count = images * prod(shape)
            found.append(np.frombuffer(held, np.float32, count, place).reshape(images, *shape))
            place += 4 * count
        return found

    def _mapped(self, size: int) -> mmap.mmap:
        if self.mapped is None or len(self.mapped) < size:
            self.mapped = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        return self.mapped

    def _read(self, size: int) -> bytearray:
        held = bytearray(size)
        left, place = memoryview(held), 0
        while left and (got := os.preadv(self.descriptor, [left], place)):
            left, place = left[got:], place + got
        return held[:place]
