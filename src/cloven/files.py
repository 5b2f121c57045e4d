"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cloven.errors import ClovenError


def write_text(path: Path, text: str) -> None:
    """Write a file through a temporary one beside it.

    Raises:
        ClovenError: where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ClovenError(f"cannot write {path}: {error}") from error
