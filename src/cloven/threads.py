"""Settings of this process: one thread, deterministic algorithms, and memory that is not returned.

On one thread, results depend neither on the number of cores nor on other processes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch

KEPT = 2**30
"""The most bytes of freed memory that a process keeps."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The parameters' numbers in glibc's ``mallopt``."""


@cache
def keep_memory() -> None:
    """Let this process keep memory that it has freed, if the C library is glibc.

    Otherwise large buffers are returned to the system after each training step, and their page faults in the next
    step take up to a quarter of the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, KEPT)
    mallopt(_MMAP_THRESHOLD, 2**25)  # the largest value that glibc accepts


def release_memory() -> None:
    """Return freed memory to the system, if the C library is glibc."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def repeatable() -> Iterator[None]:
    """Allow only deterministic algorithms on a GPU, and restore the setting afterwards."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and restore the number of threads afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
