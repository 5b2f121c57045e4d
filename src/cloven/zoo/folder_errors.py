"""Errors of folders that cannot be read, or do not hold what was looked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloven.errors import ClovenError

NAMES = 5
"""How many of the names found an error lists."""


def missing(folder: Path, wanted: str) -> ClovenError:
    """Return the error for a folder without ``wanted``: what was looked for, and a few names of what is there."""
    if not folder.exists():
        return ClovenError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        return ClovenError(f"{folder}: is a file, expected a folder with {wanted}")
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    found = ", ".join(names[:NAMES]) + more if names else "nothing"
    return ClovenError(f"{folder}: looked for {wanted}; found {found}")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the system's errors of files that cannot be read, at whatever step, into a ClovenError."""
    try:
        yield
    except OSError as error:
        raise ClovenError(f"{error.filename or name}: cannot be read ({error.strerror or error})") from error
