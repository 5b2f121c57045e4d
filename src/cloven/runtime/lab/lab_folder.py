"""A laboratory's folder: all that its processes read and write."""

from __future__ import annotations

import shutil
from pathlib import Path

PLAN, CLUSTER, PIXELS, BUNDLE, KEYS = "plan.toml", "cluster.toml", "pixels.safetensors", "bundle", "keys"
"""What is written before: the plan, where the workers are, the images, and what the workers run and hold."""

LOGS, CAPTURE, OUTCOME, PAIRS = "logs", "link.pcapng", "outcome.json", "pairs"
"""What comes of it."""

OURS = frozenset({PLAN, CLUSTER, PIXELS, BUNDLE, KEYS, LOGS, CAPTURE, OUTCOME, PAIRS})


def problems(folder: Path) -> list[str]:
    """Return why a folder cannot be used: it must be new, empty, or an earlier laboratory's and nothing else."""
    try:
        there = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{folder} cannot be used for the laboratory: {error.strerror}; name a new folder"]
    strange = [name for name in there if name not in OURS]
    # The images are written first: where they are missing, no laboratory began.
    if not there or (PIXELS in there and not strange):
        return []
    return [
        f"{folder} holds {', '.join((strange or there)[:3])}, which no laboratory leaves there; name a new folder, "
        "or that of an earlier laboratory, which is replaced"
    ]


def emptied(folder: Path) -> None:
    """Make the folder, or remove what is in it: last what shows that it is a laboratory's.

    Raises:
        OSError: if that is impossible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == PIXELS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
