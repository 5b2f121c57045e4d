"""Finished audits in folders, with every file that their results depend on checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from cloven.auditing.results import Results
from cloven.auditing.store import CELLS, CONFIG, SUMMARY, Store
from cloven.collection import paused
from cloven.errors import ClovenError, system_reason, tried

SHOWN = 20
"""The number of damaged cells of a run that are listed at most."""


@dataclass(frozen=True)
class Runs:
    """The finished audits, and the folders of those that have not ended."""

    finished: tuple[Results, ...]
    unfinished: tuple[Path, ...]


def read_runs(folders: Sequence[Path]) -> Runs:
    """Return the audits in some folders: each is that of an audit, or contains such folders at any depth.

    A folder that is given twice counts once. An audit that has not ended is refused where its own folder is given;
    inside another folder it is left out, and is listed in ``unfinished``.

    Raises:
        ClovenError: with every folder that holds no audit, and every summary or cell that is missing, damaged, or
            was written by another version.
    """
    problems: list[str] = []
    found: dict[Path, Path] = {}
    unfinished: list[Path] = []
    for folder in folders:
        runs = tried(partial(_runs, folder), problems)
        ended = [run for run in runs or () if run == folder or (run / SUMMARY).exists()]
        unfinished += [run for run in runs or () if run not in ended]
        found |= {run.resolve(): run for run in ended}
        if runs is not None and not ended:
            left = ": the audits in it have not ended" if runs else ""
            problems.append(f"{folder} holds no finished audit{left}; give a folder that `cloven audit` wrote")
    with paused():
        results = [tried(partial(_checked, run), problems) for run in found.values()]
    if problems:
        raise ClovenError(problems)
    return Runs(tuple(one for one in results if one is not None), tuple(dict.fromkeys(unfinished)))


def _runs(folder: Path) -> list[Path]:
    """Return a folder alone if it is that of an audit, or else the folders of audits inside it."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise ClovenError(
            f"cannot read {folder}: {system_reason(error)}; expected the folder of an audit"
        ) from error
    names = {path.name for path in inside}
    if SUMMARY in names or {CONFIG, CELLS} <= names:
        return [folder]
    folders = (one for one in inside if one.is_dir() and not one.is_symlink() and not one.name.startswith("."))
    return list(chain.from_iterable(map(_runs, folders)))


def _checked(folder: Path) -> Results:
    """Return the results in the folder of an audit.

    Raises:
        ClovenError: if its summary, or the document of any of its cells, is missing or not as it was written.
    """
    store = Store(folder)
    summary = store.summary()
    problems: list[str] = []
    for key in dict.fromkeys(key for finding in summary.findings for key in finding.keys):
        tried(partial(store.verify, key), problems)
    if problems:
        more = [f"{folder}: {len(problems) - SHOWN:,} more problems"] if len(problems) > SHOWN else []
        raise ClovenError([*problems[:SHOWN], *more])
    return Results(summary, store)
