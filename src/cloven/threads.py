"""Settings of this process: one thread, algorithms that repeat, and memory that is kept.

On one thread, results depend neither on the number of cores nor on other processes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

KEPT = 2**30
"""Bytes of freed memory that a process keeps, at most."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Their numbers in glibc's ``mallopt``."""


@cache
def keep_memory() -> None:
    """Let this process keep memory that it has freed, where the C library is glibc; elsewhere nothing happens.

    Otherwise large buffers go back to the system after every step of a training, and each of their pages is
    faulted in anew in the next one: up to a quarter of the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, KEPT)
    mallopt(_MMAP_THRESHOLD, 2**25)  # the largest that glibc takes


@contextmanager
def repeatable() -> Iterator[None]:
    """Let a GPU choose only algorithms that give the same numbers each time, and put the choice back."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
