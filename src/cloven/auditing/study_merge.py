"""Merge the folders of a study that several machines have run; every file is verified before it counts."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cloven.auditing.finding import CellResult
from cloven.auditing.store import (
    CELLS,
    CONFIG,
    LOCK,
    PLANNED,
    REPORT,
    SUBJECT,
    SUMMARY,
    PlannedCell,
    Store,
    differing,
    read_model,
    write_document,
)
from cloven.auditing.study_file import difference, planned_audits
from cloven.auditing.study_run import AUDITS, FAILURES, STUDY, StudyRecord, recorded
from cloven.auditing.subject_record import SubjectRecord
from cloven.errors import ClovenError, tried
from cloven.files import read_json, replacing_folder

KEY = re.compile(r"[0-9a-f]{64}")
TIMES = {"training", "wall_seconds"}
"""The entries of a cell that differ between runs with the same numbers."""

HALF_WRITTEN = (".part", ".checkpoint", ".old")
"""The ends of files that a killed run leaves."""

SHOWN = 20
"""The largest number of conflicts that an error names."""


@dataclass(frozen=True)
class MergedStudy:
    """The result of a merge: its numbers of audits and cells, and what was left out.

    Attributes:
        audits: the number of audits with at least one cell.
        complete: the number of audits that have ended.
        cells: the number of cells.
        not_counted: a sentence for each file that a killed audit left, or that belongs to an earlier version of the
            study; they are not errors.
        left_out: a sentence for each file that is damaged, edited or not part of the study.
    """

    audits: int
    complete: int
    cells: int
    not_counted: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass
class _Found:
    """The files of one audit in all folders."""

    cells: dict[str, Store] = field(default_factory=dict)
    config: Store | None = None
    subject: Store | None = None
    summary: Store | None = None
    planned: dict[str, PlannedCell] = field(default_factory=dict)


def merge(folders: Sequence[Path], out: Path) -> MergedStudy:
    """Merge folders of the same study into a new one, which is not written if there is a conflict.

    Each cell is verified: its digest, that of its tensors, and its key, which is the hash of its provenance.
    Damaged, half-written and foreign files are left out and named.

    Args:
        folders: folders that ``cloven study run`` wrote.
        out: the folder to write, which must not exist or be empty.

    Raises:
        ClovenError: if a folder holds no study or another one, if two folders have different numbers for the same
            cell or different settings for the same audit, or if ``out`` is not empty.
    """
    first = _common_record(folders)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClovenError(f"{out} is not empty; give a new folder (--out)")
    names = [audit.name for audit in planned_audits(first.study)]
    not_counted: list[str] = []
    left_out = [problem for folder in folders for problem in _foreign(folder, names)]
    conflicts: list[str] = []
    audits: dict[str, _Found] = {}
    for name in names:
        found = _Found()
        for folder in folders:
            store = Store(folder / AUDITS / name)
            if store.folder.exists():
                _collect(store, found, not_counted, left_out, conflicts)
        if found.config is not None:
            audits[name] = found
        if found.planned:
            others = sorted(found.cells.keys() - found.planned.keys())
            files = (f"{found.cells.pop(key).folder / CELLS / key}.json" for key in others)
            not_counted += [f"{file} is not a cell of the study as it is now" for file in files]
    if conflicts:
        more = [f"{len(conflicts) - SHOWN} more conflicts"] if len(conflicts) > SHOWN else []
        raise ClovenError([*conflicts[:SHOWN], *more])
    with replacing_folder(out) as new:
        write_document(new / STUDY, first.model_dump(mode="json"))
        complete = sum(_written(new / AUDITS / name, found) for name, found in audits.items())
    return MergedStudy(
        audits=sum(bool(found.cells) for found in audits.values()),
        complete=complete,
        cells=sum(len(found.cells) for found in audits.values()),
        not_counted=tuple(not_counted),
        left_out=tuple(left_out),
    )


def _common_record(folders: Sequence[Path]) -> StudyRecord:
    """Return the record of the study that all folders hold."""
    if repeated := {str(one) for one in folders if [each.resolve() for each in folders].count(one.resolve()) > 1}:
        raise ClovenError(f"{', '.join(sorted(repeated))}: the same folder is given several times; give it once")
    problems: list[str] = []
    records: list[StudyRecord] = []
    for folder in folders:
        try:
            record = recorded(folder)
        except ClovenError as error:
            problems += error.problems
            continue
        if record is None:
            problems.append(f"{folder} holds no {STUDY}; give a folder that `cloven study run` wrote")
            continue
        if records and record.identity != records[0].identity:
            problems.append(f"{folder} holds another study than {folders[0]}; merge folders of the same study only")
            problems += [f"  {sentence}" for sentence in difference(records[0].study, record.study).sentences()]
        records.append(record)
    if problems:
        raise ClovenError(problems)
    return min(records, key=lambda record: record.started)


def _foreign(folder: Path, names: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each entry of a folder that is not part of the study."""
    known = {folder / name for name in (STUDY, AUDITS, FAILURES)}
    for path in sorted([*folder.iterdir(), *(folder / AUDITS).glob("*")]):
        if path not in known and (path.parent.name != AUDITS or path.name not in names):
            yield f"{path} is not part of the study"


def _collect(
    store: Store, found: _Found, not_counted: list[str], left_out: list[str], conflicts: list[str]
) -> None:
    """Add the files of an audit in one folder to those that were found before."""
    if not (store.folder / CONFIG).exists():
        not_counted.append(f"{store.folder} has no {CONFIG}: the audit has not begun")
        return
    here = tried(lambda: read_json(store.folder / CONFIG), left_out)
    if here is None:
        return
    if found.config is None:
        found.config = store
    else:
        other = found.config.folder
        there = read_json(other / CONFIG)
        conflicts += [
            f"{name} is {before} in {other}, {now} in {store.folder}: their numbers cannot be compared"
            for name, before, now in differing(there, here)
        ]
    for path in sorted(store.folder.iterdir()):
        if path.name not in {CONFIG, PLANNED, SUBJECT, SUMMARY, REPORT, CELLS, LOCK}:
            _sort(path, not_counted, left_out)
    for path in sorted((store.folder / CELLS).glob("*")):
        if path.suffix == ".json" and KEY.fullmatch(path.stem):
            _add(store, path.stem, found, left_out, conflicts)
        elif path.suffix != ".safetensors" or not path.with_suffix(".json").exists():
            _sort(path, not_counted, left_out)
    planned = tried(store.planned, left_out)
    if planned is not None:
        found.planned = {**found.planned, **planned}
    subject = partial(read_model, store.folder / SUBJECT, SubjectRecord, "it is written again by the audit")
    if found.subject is None and (store.folder / SUBJECT).exists() and tried(subject, left_out) is not None:
        found.subject = store
    if found.summary is None and (store.folder / SUMMARY).exists() and tried(store.summary, left_out) is not None:
        found.summary = store


def _sort(path: Path, not_counted: list[str], left_out: list[str]) -> None:
    """Add a file that does not count to those that are not counted or to those that are foreign."""
    if path.suffix in HALF_WRITTEN or path.name.startswith(".") or KEY.fullmatch(path.stem):
        not_counted.append(f"{path} is half-written")
    else:
        left_out.append(f"{path} is not part of an audit")


def _add(store: Store, key: str, found: _Found, left_out: list[str], conflicts: list[str]) -> None:
    """Add a cell after verifying it, or name what is wrong with it."""
    try:
        cell = store.cell(key)
        store.tensors(key)
    except ClovenError as error:
        left_out += error.problems
        return
    if _hash(cell) != key:
        left_out.append(f"{store.folder / CELLS / key}.json was edited: its key is not the hash of its provenance")
    elif key not in found.cells:
        found.cells[key] = store
    elif different := list(differing(_numbers(found.cells[key].cell(key)), _numbers(cell))):
        name, before, now = different[0]
        conflicts.append(
            f"cell {key[:8]} ({cell.attack}, seed {cell.seed}): {name} is {before} in "
            f"{found.cells[key].folder}, {now} in {store.folder}; remove the cell from one of them"
        )


def _hash(cell: CellResult) -> str:
    canonical = json.dumps(cell.provenance, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _numbers(cell: CellResult) -> object:
    """Return everything in a cell but its times."""
    return cell.model_dump(mode="json", exclude=TIMES)


def _written(folder: Path, found: _Found) -> bool:
    """Write an audit into a folder, and return whether it has ended."""
    assert found.config is not None
    (folder / CELLS).mkdir(parents=True)
    for store, name in ((found.config, CONFIG), (found.subject, SUBJECT)):
        if store is not None:
            shutil.copyfile(store.folder / name, folder / name)
    for key, store in found.cells.items():
        for end in ("safetensors", "json"):
            shutil.copyfile(store.folder / CELLS / f"{key}.{end}", folder / CELLS / f"{key}.{end}")
    cells = {
        key: cell.model_copy(update={"failed": None}) if key in found.cells else cell
        for key, cell in found.planned.items()
    }
    if cells:
        Store(folder).plan(cells)
    lacking = [cell for key, cell in cells.items() if key not in found.cells and cell.skipped is None]
    if found.summary is None or lacking or not cells:
        return False
    shutil.copyfile(found.summary.folder / SUMMARY, folder / SUMMARY)
    return True
