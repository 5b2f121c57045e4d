"""Settings of the C library's memory: whether what is freed is returned to the system, or kept for later use."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""The parameters' numbers in glibc's ``mallopt``."""

SMALL, LARGEST = 2**16, 2**25
"""The size in bytes above which freed memory is returned: while models are loaded, and afterwards.

The second one is the largest value that glibc accepts.
"""


@contextmanager
def returned() -> Iterator[None]:
    """Return memory that is freed inside the block, or was before, to the system, if the C library is glibc.

    While onnxruntime loads a model, it holds several copies of the weights, one after another. Without this, all of
    them remain in the heap of a process that only needs the last one. After the block, buffers of messages and
    values are kept for the next ones, since returning them costs time: new memory has to be cleared. All threads
    then share one heap. Otherwise each of them keeps buffers of its own.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_ARENA_MAX, 1)
    library.malloc_trim(0)
    _set(library, SMALL)
    try:
        yield
    finally:
        _set(library, LARGEST)


def _set(library: ctypes.CDLL, size: int) -> None:
    """Return freed buffers of more than a size to the system, and the end of the heap if twice that is free."""
    library.mallopt(_MMAP_THRESHOLD, size)
    library.mallopt(_TRIM_THRESHOLD, 2 * size)
