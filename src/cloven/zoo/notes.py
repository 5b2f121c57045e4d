"""Warnings about files that were read in part, logged once."""

from __future__ import annotations

import logging
from functools import lru_cache


@lru_cache(1000)
def note(sentence: str) -> None:
    """Log a sentence as a warning, once per process."""
    logging.getLogger("cloven").warning(sentence)
