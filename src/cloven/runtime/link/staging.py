"""Atomic creation of private files: they are written to a temporary folder, then moved to their place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cloven.errors import ClovenError


@contextmanager
def staged(beside: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Yield a temporary folder in `beside` with these files (path: content); remove what is left of it at the end.

    Folders have mode 0700 and files 0600 from their creation, whatever the umask.
    """
    stage = Path(tempfile.mkdtemp(prefix=".cloven-keys-", dir=beside))
    try:
        for path, content in files.items():
            _folder(stage, (stage / path).parent)
            _write(stage / path, content)
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an OSError as a `ClovenError` that names the path.

    Raises:
        ClovenError: if the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ClovenError(f"cannot write {path}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove a file or a whole folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _folder(root: Path, path: Path) -> None:
    if path != root:
        _folder(root, path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
