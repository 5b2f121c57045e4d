"""Errors for folders that cannot be read or do not contain the expected files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloven.errors import ClovenError

NAMES = 5
"""The number of file names that an error lists at most."""


def missing(folder: Path, wanted: str) -> ClovenError:
    """Return the error for a folder without ``wanted``; it lists a few of the names in the folder."""
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
    """Turn an OSError of reading a file into a ClovenError."""
    try:
        yield
    except OSError as error:
        raise ClovenError(f"{error.filename or name}: cannot be read ({error.strerror or error})") from error
