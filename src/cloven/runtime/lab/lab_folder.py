"""A laboratory's folder: everything that its processes read and write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloven.errors import ClovenError
from cloven.files import lock

PLAN, CLUSTER, PIXELS, BUNDLE, KEYS = "plan.toml", "cluster.toml", "pixels.safetensors", "bundle", "keys"
"""Written before the run: the plan, the cluster file, the images, the bundle and the keys of the workers."""

LOGS, CAPTURE, OUTCOME, PAIRS = "logs", "link.pcapng", "outcome.json", "pairs"
"""Written by the run."""

OURS = frozenset({PLAN, CLUSTER, PIXELS, BUNDLE, KEYS, LOGS, CAPTURE, OUTCOME, PAIRS})


def problems(folder: Path) -> list[str]:
    """Return why a folder cannot be used: it must be new, empty, or hold an earlier laboratory and nothing else."""
    try:
        there = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{folder} cannot be used for the laboratory: {error.strerror}; choose a new folder"]
    strange = [name for name in there if name not in OURS]
    # The images are written first: without them, the folder is not a laboratory's.
    if not there or (PIXELS in there and not strange):
        return []
    return [
        f"{folder} holds {', '.join((strange or there)[:3])}, which is not part of a laboratory; choose a new "
        "folder, or that of an earlier laboratory, which is replaced"
    ]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Create the folder, and keep other laboratories from using it; the operating system releases it in any case.

    Raises:
        ClovenError: if the folder cannot be created, or if another laboratory is running in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ClovenError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        lock(
            descriptor,
            f"another laboratory is running in {folder}; wait until it has ended, or choose another folder (--out)",
        )
        yield
    finally:
        os.close(descriptor)


def emptied(folder: Path) -> None:
    """Delete the content of the folder; the file that marks it as a laboratory's goes last.

    Raises:
        OSError: if that fails.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name == PIXELS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
