"""The memory of a process: how much it holds, and whether freed memory is kept or returned to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""The numbers of parameters of glibc's ``mallopt``."""

SMALL, LARGEST = 2**16, 2**25
"""The sizes in bytes above which freed blocks are returned: while models are loaded, and otherwise.

The second one is the largest value that glibc accepts.
"""

KEPT = 2**30
"""The most bytes of freed memory at the end of the heap that a process keeps for its computations."""


class Resident(NamedTuple):
    """The resident memory of a process in bytes: now, the most so far, and the part of it that files take."""

    now: int
    most: int
    files: int


def resident(process: str = "self") -> Resident:
    """Return the resident memory of a process.

    Raises:
        OSError: if the system does not report it.
    """
    lines = Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines()
    sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith(("Vm", "Rss"))}
    return Resident(sizes["VmRSS"], sizes["VmHWM"], sizes["RssFile"])


def forget_most() -> None:
    """Let `Resident.most` of this process begin again at what it holds now.

    Raises:
        OSError: if the system does not allow it.
    """
    Path("/proc/self/clear_refs").write_text("5", "ascii")


@cache
def keep_freed() -> None:
    """Let this process keep memory that it has freed, if the C library is glibc.

    Otherwise large buffers are returned to the system after each training step, and their page faults in the next
    step take up to a quarter of the time.
    """
    if (library := _glibc()) is not None:
        library.mallopt(TRIM_THRESHOLD, KEPT)
        library.mallopt(MMAP_THRESHOLD, LARGEST)


def return_freed() -> None:
    """Return freed memory to the system, if the C library is glibc."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@contextmanager
def returning_freed() -> Iterator[None]:
    """Return memory that is freed inside the block, or was before, to the system, if the C library is glibc.

    While onnxruntime loads a model, it holds several copies of the weights, one after another. Without this, all of
    them remain in the heap of a process that only needs the last one. After the block, buffers of messages and
    values are kept for the next ones, since returning them costs time: new memory has to be cleared. All threads
    then share one heap. Otherwise each of them keeps buffers of its own.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(ARENA_MAX, 1)
    library.malloc_trim(0)
    _return_above(library, SMALL)
    try:
        yield
    finally:
        _return_above(library, LARGEST)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _return_above(library: ctypes.CDLL, size: int) -> None:
    """Return freed blocks of more than a size to the system, and the end of the heap if twice that is free."""
    library.mallopt(MMAP_THRESHOLD, size)
    library.mallopt(TRIM_THRESHOLD, 2 * size)
