"""What to say of a folder that does not hold what was looked for."""

from __future__ import annotations

from pathlib import Path

from cloven.errors import ClovenError

NAMES = 5
"""How many of the names found are told."""


def missing(folder: Path, wanted: str) -> ClovenError:
    """The error for a folder without ``wanted``: what was looked for, and a few names of what is there."""
    if not folder.exists():
        return ClovenError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        return ClovenError(f"{folder}: is a file, expected a folder with {wanted}")
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    found = ", ".join(names[:NAMES]) + more if names else "nothing"
    return ClovenError(f"{folder}: looked for {wanted}; found {found}")
