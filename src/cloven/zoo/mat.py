"""Numbers from a MAT-file of MATLAB 5 to 7.2, as small label files are written.

scipy reads all of MATLAB's kinds, but a few wrong bytes crash the whole process (a bus error in 1.17). This
reads arrays of real numbers alone, and takes no length or type from the file without checking it.

Source: "MAT-File Format", The MathWorks, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloven.errors import ClovenError
from cloven.files import read_bytes
from cloven.zoo.contents import described

HEADER = 128
ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
"""How the header ends: version 1, in the order of bytes of the machine that wrote it."""
LARGEST = 2**24
"""Bytes of a file, and of all its variables when they are decompressed."""
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""How numbers may be stored, whatever MATLAB's class of the array: it packs whole doubles into bytes."""
NUMERIC = range(6, 16)
"""The classes double, single, int8 to uint64; below are cells, structs, objects, text and sparse arrays."""
COMPLEX = 0x800


def read_numbers(file: Path, name: str) -> NDArray[Any]:
    """The variable's numbers ``(n,)``, column by column, in the type that they are stored in.

    Raises:
        ClovenError: for a file that is damaged or of another version, and a variable that is not there or holds
            no real numbers.
    """
    content = read_bytes(file, LARGEST)
    try:
        order = ORDERS.get(content[HEADER - 4 : HEADER])
        if order is None:
            raise ClovenError(described(content) or "is not a MAT-file of MATLAB 5 to 7.2")
        for matrix in _matrices(content[HEADER:], order):
            if (numbers := _numbers(matrix, name, order)) is not None:
                return numbers
    except ClovenError as error:
        raise ClovenError(f"{file}: {error}") from error
    except zlib.error as error:
        raise ClovenError(f"{file}: cannot be read ({error})") from error
    raise ClovenError(f"{file}: has no variable {name!r}")


def _matrices(content: bytes, order: str) -> Iterator[bytes]:
    left = LARGEST
    for kind, body in _elements(content, order):
        if kind == MATRIX:
            yield body
        elif kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(body, left + 1)
            if (left := left - len(unpacked)) < 0:
                raise ClovenError(f"unpacks to more than {LARGEST:,} bytes")
            yield from (matrix for kind, matrix in _elements(unpacked, order) if kind == MATRIX)


def _numbers(matrix: bytes, name: str, order: str) -> NDArray[Any] | None:
    """The numbers of an array of this name; None where it has another."""
    parts = _elements(matrix, order)
    head = [body for _, body in islice(parts, 3)]
    if len(head) < 3 or len(head[0]) != 8 or len(head[1]) % 4:
        raise ClovenError("is damaged: a variable has no whole header")
    flags, shape = struct.unpack(f"{order}II", head[0])[0], np.frombuffer(head[1], f"{order}i4").tolist()
    if head[2].rstrip(b"\0") != name.encode():
        return None
    if flags % 256 not in NUMERIC or flags & COMPLEX:
        raise ClovenError(f"{name} is no array of real numbers (class {flags % 256})")
    kind, body = next(parts, (0, b""))
    if kind not in TYPES or len(body) % np.dtype(TYPES[kind]).itemsize:
        raise ClovenError(f"is damaged: {name} is stored as type {kind} in {len(body)} bytes")
    numbers = np.frombuffer(body, order + TYPES[kind])
    if min(shape, default=-1) < 0 or len(numbers) != math.prod(shape):
        raise ClovenError(f"is damaged: {name} announces a shape of {shape}, and has {len(numbers)} numbers")
    return numbers


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of each element."""
    at = 0
    while at < len(content):
        if at + 8 > len(content):
            raise ClovenError("breaks off")
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        if small := kind >> 16:  # up to four bytes lie in the tag itself
            kind, size, start = kind % 2**16, small, at + 4
        if start + size > len(content) or (small and small > 4):
            raise ClovenError("breaks off, or announces more than there is")
        yield kind, content[start : start + size]
        at = start + size if kind == COMPRESSED else start + size + -(start + size) % 8
