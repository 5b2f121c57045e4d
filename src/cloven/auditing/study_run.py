"""Studies in a folder: run what is left, and the state of each audit as its files show it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

from cloven.auditing import request
from cloven.auditing.executor import AuditSteps, Executor, run_audits
from cloven.auditing.gate import GateCheck, checks
from cloven.auditing.paper import NO_PAPER, Paper
from cloven.auditing.pipeline import audit_steps
from cloven.auditing.store import REPORT, SUMMARY, Store, read_model, reopen, write_document
from cloven.auditing.study_file import (
    PlannedAudit,
    StudyDifference,
    StudyFile,
    check_digests,
    difference,
    planned_audits,
)
from cloven.auditing.summary import Summary
from cloven.documents import Document
from cloven.errors import ClovenError, system_reason
from cloven.progress import Progress, no_progress

log = logging.getLogger("cloven")

STUDY, AUDITS, FAILURES = "study.json", "audits", "failures"

State = Literal["planned", "started", "running", "failed", "done"]
"""The state of an audit; one that has ``started`` was interrupted, and goes on with the next run."""

SAMPLED = 200
"""The largest number of finished cells whose times are read for an estimate."""


class StudyChange(Document):
    """A change of a study after it had started: when it was accepted, and the differences."""

    when: str
    before: str
    differences: tuple[str, ...]


class StudyRecord(Document):
    """The document ``study.json``: the study that a folder holds, and since when.

    ``identity`` is the study's hash and ``limits_sha256`` that of its limits, both fixed before the first cell.
    ``changes`` lists what was changed since, in order.
    """

    schema_version: Literal[1] = 1
    cloven: str
    started: str
    identity: str
    limits_sha256: str
    study: StudyFile
    changes: tuple[StudyChange, ...] = ()


class FailedAudit(Document):
    """The document ``failures/AUDIT.json``: why the last run of an audit failed, and how often it was tried."""

    schema_version: Literal[1] = 1
    problems: tuple[str, ...]
    attempts: int


class CellReason(Document):
    """A cell without a result, in words, and the reason."""

    cell: str
    reason: str


class AuditState(Document):
    """The state of an audit of a study.

    ``planned`` is the number of its cells and ``left`` that of the cells that can still get a result; both are None
    until its model and images were read for the first time. ``skipped`` are cells that the attack cannot work on,
    ``failed`` those that failed when they were last run. ``problems`` are why the audit failed, and ``attempts``
    is how often it was tried.
    """

    audit: str
    state: State
    combinations: int
    planned: int | None = None
    done: int = 0
    left: int | None = None
    skipped: tuple[CellReason, ...] = ()
    failed: tuple[CellReason, ...] = ()
    problems: tuple[str, ...] = ()
    attempts: int = 0


class CellCounts(Document):
    """The numbers of cells of a study, over all audits.

    ``left`` is estimated where audits have not started: they are taken to have as many cells for each combination
    as those that have, or one.
    """

    planned: int
    done: int
    failed: int
    skipped: int
    left: int
    left_is_estimated: bool


class StudyStatus(Document):
    """The states of all audits of a study, in its order, and what is left.

    ``seconds_per_cell`` is the mean over a sample of the finished cells, and ``seconds_left`` the estimate for one
    process; both are None if no cell has finished. ``differences`` are those between the study in the folder and
    the file, and ``changes`` those that were accepted before. ``not_in_the_study`` are audits in the folder that
    the study does not have.
    """

    schema_version: Literal[1] = 1
    identity: str
    limits_sha256: str
    counts: dict[State, int]
    cells: CellCounts
    seconds_per_cell: float | None
    seconds_left: float | None
    differences: tuple[str, ...]
    changes: tuple[StudyChange, ...]
    not_in_the_study: tuple[str, ...]
    audits: tuple[AuditState, ...]


# --- the state, from the files ----------------------------------------------------------------------------------


def is_done(folder: Path, audit: PlannedAudit) -> bool:
    """Return whether an audit has ended; no file is read, so that ten thousand cells are looked through at once."""
    return (folder / AUDITS / audit.name / SUMMARY).exists()


def status(study: StudyFile, folder: Path) -> StudyStatus:
    """Return the state of every audit of a study in a folder, which may not exist yet.

    Raises:
        ClovenError: for a study that cannot be run, and for files that were edited or damaged.
    """
    planned = planned_audits(study)
    record, names = recorded(folder), {audit.name for audit in planned}
    audits = tuple(_state(folder, audit) for audit in planned)
    cells, seconds = _counts(audits), _seconds_per_cell(folder, planned)
    left = None if seconds is None else seconds * cells.left
    return StudyStatus(
        identity=study.identity(),
        limits_sha256=study.limits.hash(),
        counts={state: sum(audit.state == state for audit in audits) for state in get_args(State)},
        cells=cells,
        seconds_per_cell=seconds,
        seconds_left=left if cells.left else 0.0,
        differences=difference(record.study, study).sentences() if record is not None else (),
        changes=record.changes if record is not None else (),
        not_in_the_study=tuple(sorted({path.name for path in (folder / AUDITS).glob("*")} - names)),
        audits=audits,
    )


def recorded(folder: Path) -> StudyRecord | None:
    """Return the study that a folder holds; None if it holds none.

    Raises:
        ClovenError: if ``study.json`` was edited or damaged.
    """
    path = folder / STUDY
    if not path.exists():
        return None
    return read_model(path, StudyRecord, "restore the file from a copy, or give another folder (--out)")


def _state(folder: Path, audit: PlannedAudit) -> AuditState:
    store, failure = Store(folder / AUDITS / audit.name), _failure(folder, audit.name)
    state: State = "planned"
    if is_done(folder, audit):
        state = "done"
    elif store.in_use():
        state = "running"
    elif failure is not None:
        state = "failed"
    elif store.folder.exists():
        state = "started"
    cells, finished = store.planned(), store.keys()
    lacking = [cell for key, cell in (cells or {}).items() if key not in finished]
    skipped = tuple(CellReason(cell=one.name, reason=one.skipped) for one in lacking if one.skipped is not None)
    failed = tuple(CellReason(cell=one.name, reason=one.failed) for one in lacking if one.failed is not None)
    return AuditState(
        audit=audit.name,
        state=state,
        combinations=audit.combinations,
        planned=len(cells) if cells is not None else None,
        done=len(cells) - len(lacking) if cells is not None else len(finished),
        left=0 if state == "done" else len(lacking) - len(skipped) if cells is not None else None,
        skipped=skipped,
        failed=failed,
        problems=failure.problems if failure is not None and state == "failed" else (),
        attempts=failure.attempts if failure is not None and state == "failed" else 0,
    )


def _counts(audits: Sequence[AuditState]) -> CellCounts:
    known = [audit for audit in audits if audit.planned is not None]
    planned, combinations = (sum(getattr(audit, name) for audit in known) for name in ("planned", "combinations"))
    each = planned / combinations if combinations else 1.0
    return CellCounts(
        planned=planned,
        done=sum(audit.done for audit in audits),
        failed=sum(len(audit.failed) for audit in audits),
        skipped=sum(len(audit.skipped) for audit in audits),
        left=round(sum(each * audit.combinations if audit.left is None else audit.left for audit in audits)),
        left_is_estimated=len(known) < len(audits),
    )


def _failure(folder: Path, name: str) -> FailedAudit | None:
    path = folder / FAILURES / f"{name}.json"
    return read_model(path, FailedAudit, "delete it and run the study again") if path.exists() else None


def _seconds_per_cell(folder: Path, audits: Sequence[PlannedAudit]) -> float | None:
    """Return the mean time of a sample of finished cells, spread over the audits."""
    each = -(-SAMPLED // max(1, len(audits)))
    times: list[float] = []
    for audit in audits:
        store = Store(folder / AUDITS / audit.name)
        for key in sorted(store.keys())[:each]:
            if len(times) < SAMPLED:
                times.append(store.cell(key).wall_seconds)
    return sum(times) / len(times) if times else None


# --- running a study --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyExecution:
    """The folder of a study's results, and how its audits are run.

    Attributes:
        folder: the folder.
        executor: the context of what computes the cells, which is entered if any are left.
        disk: the gigabytes of captured numbers to keep on disk.
        retries: how often an audit that failed is tried again, after the others.
        shard: ``(i, n)`` runs only each n-th audit, from the i-th on; both count from 1.
        accept_changes: whether a study that has changed goes on.
        paper: returns the paper's part in the audit of a model.
        progress: reports the progress.
        finished: is called with the folder of each audit that ends.
    """

    folder: Path
    executor: AbstractContextManager[Executor]
    disk: float = 4.0
    retries: int = 0
    shard: tuple[int, int] = (1, 1)
    accept_changes: bool = False
    paper: Callable[[str], Paper] = lambda _: NO_PAPER
    progress: Progress = no_progress
    finished: Callable[[Path], object] = lambda _: None


def left_of(audits: Sequence[PlannedAudit], folder: Path, shard: tuple[int, int] = (1, 1)) -> list[PlannedAudit]:
    """Return the audits that have not ended, of all or of a shard.

    Raises:
        ClovenError: for a shard that does not exist.
    """
    first, step = shard
    if not 1 <= first <= step:
        raise ClovenError(f"--shard is {first}/{step}; expected I/N with I from 1 to N, such as 1/4")
    return [audit for audit in audits[first - 1 :: step] if not is_done(folder, audit)]


def run_study(study: StudyFile, execution: StudyExecution) -> dict[str, FailedAudit]:
    """Run the audits of a study that have not ended, and return those that failed.

    An audit that fails does not stop the others. Cells that have finished are never run again.

    Raises:
        ClovenError: before any work, with all problems of the study; if the folder holds another study; or if a
            data set has changed.
    """
    folder, audits = execution.folder, planned_audits(study)
    _check_folder(folder)
    left, record = left_of(audits, folder, execution.shard), recorded(folder)
    changed = _accepted(study, folder, record, accept=execution.accept_changes)
    _refuse_problems(left if changed is None else audits, execution.paper)
    if left or changed is not None:
        check_digests(study)
    _write_record(study, folder, record, changed)
    if not (left := left_of(audits, folder, execution.shard)):
        return {}
    with execution.executor as executor:
        return _run(left, executor, execution)


def _run(left: Sequence[PlannedAudit], executor: Executor, execution: StudyExecution) -> dict[str, FailedAudit]:
    """Run audits, and those that fail again as often as wanted; return those that fail."""
    folder = execution.folder
    failed: dict[str, FailedAudit] = {}
    for _ in range(execution.retries + 1):
        steps = {audit.name: _steps(audit, execution, f"{i} of {len(left)}") for i, audit in enumerate(left, 1)}
        for name, ended in run_audits(steps, executor, execution.progress):
            path, before = folder / FAILURES / f"{name}.json", _failure(folder, name)
            if problems := _problems(name, ended, execution):
                attempts = 1 if before is None else before.attempts + 1
                failed[name] = FailedAudit(problems=problems, attempts=attempts)
                write_document(path, failed[name].model_dump(mode="json"))
                log.error("%s failed: %s", name, "; ".join(problems))
            else:
                failed.pop(name, None)
                path.unlink(missing_ok=True)
        left = [audit for audit in left if audit.name in failed]
    return failed


def without_report(study: StudyFile, folder: Path) -> Iterator[Path]:
    """Yield the folder of each audit that has ended but has no report, as after a merge."""
    for audit in planned_audits(study):
        if is_done(folder, audit) and not (folder / AUDITS / audit.name / REPORT).exists():
            yield folder / AUDITS / audit.name


def _steps(audit: PlannedAudit, execution: StudyExecution, number: str) -> AuditSteps:
    """Run an audit of a study in steps."""
    log.info("audit %s: %s", number, audit.name)
    paper = execution.paper(audit.request.model)
    asked = request.study(replace(audit.request, disk=execution.disk), None, paper)
    return (yield from audit_steps(asked, paper, execution.folder / AUDITS / audit.name, execution.progress))


def _problems(name: str, ended: Summary | Exception, execution: StudyExecution) -> tuple[str, ...]:
    """Return why an audit failed; nothing if it has ended well and its report was written."""
    try:
        if isinstance(ended, Exception):
            raise ended
        execution.finished(execution.folder / AUDITS / name)
    except ClovenError as error:
        return error.problems
    except OSError as error:
        return (system_reason(error),)
    except Exception as error:  # of a model or an attack of the user; it must not stop the other audits
        log.debug("%s", name, exc_info=True)
        return (f"{type(error).__name__}: {error}",)
    return ()


def missed(study: StudyFile, folder: Path) -> Iterator[tuple[str, GateCheck]]:
    """Yield each check that fails in the audits that have ended, with the name of the audit.

    Raises:
        ClovenError: if a summary was edited or damaged.
    """
    limits = study.limits.by_axis()
    if not limits:
        return
    for audit in planned_audits(study):
        if is_done(folder, audit):
            summary = Store(folder / AUDITS / audit.name).summary()
            yield from ((audit.name, check) for check in checks(summary, limits) if check.failure)


def _refuse_problems(audits: Sequence[PlannedAudit], paper: Callable[[str], Paper]) -> None:
    """Refuse audits with wrong options, which show without reading a model or an image."""
    problems: dict[str, None] = {}
    for audit in audits:
        try:
            found = request.study(audit.request, None, paper(audit.request.model)).problems()
        except ClovenError as error:
            found = list(error.problems)
        problems |= dict.fromkeys(found)
    if problems:
        raise ClovenError(list(problems))


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ClovenError(f"{folder} is a file; give a folder for the results (--out)")
    others = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
    if others and not (folder / STUDY).exists():
        raise ClovenError(f"{folder} is not empty and holds no study; give another folder (--out)")


def _accepted(
    study: StudyFile, folder: Path, record: StudyRecord | None, *, accept: bool
) -> StudyDifference | None:
    """Return the difference between the study in a folder and the file; None if they are equal.

    Raises:
        ClovenError: with each difference, unless changes are accepted; and if an audit would change while it runs.
    """
    if record is None or record.identity == study.identity():
        return None
    found = difference(record.study, study)
    if found and not accept:
        raise ClovenError(
            [
                f"{folder} holds another version of this study, begun at {record.started}; give "
                "--accept-changes to continue with the file as it is now, or another folder (--out)",
                *(f"  {sentence}" for sentence in found.sentences()),
            ]
        )
    places = {name: folder / AUDITS / name for name in (*found.changed, *found.added)}
    if running := [name for name, place in places.items() if Store(place).in_use()]:
        raise ClovenError(f"{', '.join(running)} would change while running; wait until it has ended, or stop it")
    return found


def _write_record(
    study: StudyFile, folder: Path, record: StudyRecord | None, changed: StudyDifference | None
) -> None:
    """Record the study in its folder; audits that have changed are opened again, and keep their finished cells."""
    if record is not None and changed is None:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    changes: list[StudyChange] = []
    if record is not None and changed is not None:
        for name in (*changed.changed, *changed.added):
            reopen(folder / AUDITS / name)
        change = StudyChange(when=now, before=record.identity, differences=changed.sentences())
        changes = [*record.changes, *([change] if changed else [])]
    written = StudyRecord(
        cloven=metadata.version("cloven"),
        started=record.started if record is not None else now,
        identity=study.identity(),
        limits_sha256=study.limits.hash(),
        study=study,
        changes=tuple(changes),
    )
    write_document(folder / STUDY, written.model_dump(mode="json"))
