"""Run the cells of audits, here, in processes or on a cluster, and save each result as it arrives."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from cloven.attacks.knowledge import MissingKnowledgeError
from cloven.auditing.cell import Cell, attacks
from cloven.auditing.material import Material
from cloven.auditing.memory_limit import Capacity, capacity
from cloven.auditing.store import CELLS, FinishedCell, Store, finished
from cloven.auditing.summary import Summary
from cloven.errors import ClovenError, one_line
from cloven.parallel import KILLED, process_pool
from cloven.progress import Progress

ATTACKING = "attacking"

TOGETHER = 16
"""The largest number of attacks that are trained together; all of them are in memory."""

BEGUN = 8
"""The largest number of audits that have begun but not ended; each has its model and images in memory."""


@dataclass(frozen=True)
class Unfinished:
    """The reason why a cell has no result.

    It has ``failed``, it was left for ``later``, or else the attacker lacks knowledge that the attack needs.
    """

    reason: str
    failed: bool = False
    later: bool = False


@dataclass(frozen=True, eq=False)
class CellGroup:
    """Cells that share a model, images and features, in units that are computed at once.

    Attributes:
        units: the cells of each unit, by their keys.
        material: everything that the cells share.
        jobs: the number of processes that run them.
        checkpoints: a folder for the state of unfinished trainings, from which they resume; None for none.
    """

    units: tuple[Mapping[str, Cell], ...]
    material: Material
    jobs: int
    checkpoints: Path | None


EndedCells = Mapping[str, FinishedCell | Unfinished]
"""The result of each cell of a unit, by its key."""

Submit = Callable[[int], "Future[EndedCells]"]
"""A function that starts a unit of a group, given by its index, and returns the future of its results."""


class Executor(Protocol):
    """A place where cells are computed: this process, several processes, or a cluster.

    A cell that fails does not stop the others, and results do not depend on the executor.
    """

    @property
    def ahead(self) -> int:
        """The number of units to submit before the first has ended, so that no processor waits."""
        ...

    @property
    def begun(self) -> int:
        """The largest number of audits that have begun but not ended."""
        ...

    def capacity(self, cells: Sequence[Cell], material: Material) -> Capacity:
        """Return how many of the cells of an audit run at the same time.

        Raises:
            ClovenError: if one does not fit.
        """
        ...

    def sharing(self, group: CellGroup) -> AbstractContextManager[Submit]:
        """Return a context in which the units of a group run; processes and nodes get what they share once."""
        ...


Later = Callable[[Cell], bool]
"""A function that returns whether a cell is left for a later run; it is called when the cell could start."""


def never(_: Cell) -> bool:
    """Return False: no cell is left for a later run."""
    return False


@dataclass(frozen=True)
class LocalExecutor:
    """Computes cells on this machine: in this process, or in several with one thread each.

    ``memory`` limits the bytes of memory of all processes together; None for no limit. A unit is left for a later
    run if each of its cells is. Results that one of the stores ``elsewhere`` has are taken from there.
    """

    jobs: int = 1
    memory: int | None = None
    later: Later = never
    elsewhere: tuple[Store, ...] = ()

    @property
    def ahead(self) -> int:
        """See `Executor`; one unit more than there are processes, so that the next audit begins when none waits."""
        return self.jobs + 1 if self.jobs > 1 else 1

    @property
    def begun(self) -> int:
        """See `Executor`; a limit on memory is for one audit at a time."""
        return BEGUN if self.memory is None else 1

    def capacity(self, cells: Sequence[Cell], material: Material) -> Capacity:
        """See `Executor`."""
        most = Capacity(self.jobs, TOGETHER)
        return most if self.memory is None else capacity(cells, material, limit=self.memory, most=most)

    @contextmanager
    def sharing(self, group: CellGroup) -> Iterator[Submit]:
        """See `Executor`; each group has its own processes."""
        alone = group.jobs == 1
        with (
            nullcontext(partial(_here, group)) if alone else process_pool(compute, group, jobs=group.jobs) as submit
        ):

            def submit_or_find(index: int) -> Future[EndedCells]:
                unit = group.units[index]
                if all(map(self.later, unit.values())):
                    return _ended(dict.fromkeys(unit, Unfinished("it is left for a later run", later=True)))
                found = {key: store.finished(key) for store in self.elsewhere for key in unit if store.has(key)}
                return _ended(found) if found.keys() == unit.keys() else submit(index)

            yield submit_or_find


def _here(group: CellGroup, index: int) -> Future[EndedCells]:
    """Compute a unit in this process, and return the future of its results."""
    return _ended(compute(group, index))


def _ended(results: EndedCells) -> Future[EndedCells]:
    """Return a future that has these results."""
    future: Future[EndedCells] = Future()
    future.set_result(results)
    return future


def compute(group: CellGroup, index: int) -> EndedCells:
    """Return the results of a unit; if a cell of several fails, each is computed alone."""
    return _computed(group.units[index], group)


def _computed(cells: Mapping[str, Cell], group: CellGroup) -> EndedCells:
    try:
        outcomes = attacks(list(cells.values()), group.material, group.checkpoints)
    except Exception as error:  # an attack may be the user's own, and raise anything
        if len(cells) > 1:
            return {key: ended for one in cells.items() for key, ended in _computed(dict([one]), group).items()}
        return dict.fromkeys(cells, _reason(error))
    return dict(zip(cells, map(finished, outcomes), strict=True))


def _reason(error: Exception) -> Unfinished:
    """Return why a cell has no result; an error without a message for the user has its type and its place."""
    if isinstance(error, ClovenError):
        return Unfinished(str(error), failed=not isinstance(error, MissingKnowledgeError))
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Unfinished(
        f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})", failed=True
    )


# --- audits -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AuditCells:
    """Cells of an audit, by their keys. Those that the store does not hold yet are to be computed."""

    cells: Mapping[str, Cell]
    material: Material
    store: Store

    def group(self, executor: Executor) -> CellGroup:
        """Return the missing cells in units for an executor.

        Where features are computed for each batch, several cells are trained together on the same batches.

        Raises:
            ClovenError: if one of them does not fit.
        """
        finished = self.store.keys()
        left = [(key, cell) for key, cell in self.cells.items() if key not in finished]
        fits = executor.capacity([cell for _, cell in left], self.material) if left else Capacity(1, 1)
        size = min(fits.together, max(1, -(-len(left) // fits.jobs))) if self.material.features.computed else 1
        alike: dict[tuple[int, int | None, float | None], list[tuple[str, Cell]]] = {}
        for key, cell in left:
            alike.setdefault((cell.seed, cell.pairs, cell.attack_seconds), []).append((key, cell))
        units = [dict(each[i : i + size]) for each in alike.values() for i in range(0, len(each), size)]
        return CellGroup(tuple(units), self.material, fits.jobs, self.store.folder / CELLS)


AuditSteps = Generator[AuditCells, Mapping[str, Unfinished], Summary]
"""An audit in steps: it yields cells, is sent those that have no result after all of them have run, and so on."""


def run_audit(audit: AuditSteps, executor: Executor, progress: Progress) -> Summary:
    """Run one audit, and return its summary."""
    ((_, ended),) = run_audits({"": audit}, executor, progress)
    if isinstance(ended, Exception):
        raise ended
    return ended


def run_audits(
    audits: Mapping[str, AuditSteps], executor: Executor, progress: Progress
) -> Iterator[tuple[str, Summary | Exception]]:
    """Run audits, and yield the name of each as it ends, with its summary or its error.

    An audit begins as soon as those before it do not keep the executor busy. One that fails does not stop the
    others.
    """
    left = deque(audits.items())
    begun: dict[str, _BegunAudit] = {}
    pending: dict[Future[EndedCells], tuple[str, int]] = {}
    counts = _Counts(progress)
    with ExitStack() as stack:
        while left or begun:
            while len(pending) < executor.ahead:
                ready = next((name for name, audit in begun.items() if audit.waiting), None)
                if ready is not None:
                    future, index = begun[ready].start()
                    pending[future] = ready, index
                elif left and len(begun) < executor.begun:
                    name, steps = left.popleft()
                    stack.callback(steps.close)
                    begun[name] = _BegunAudit(steps, executor, counts)
                    stack.push(begun[name].contexts)
                else:
                    break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                name, index = pending.pop(future)
                begun[name].receive(index, future)
            for name, audit in list(begun.items()):
                if audit.ended is not None:
                    del begun[name]
                    pending = {future: unit for future, unit in pending.items() if unit[0] != name}
                    yield name, audit.ended


@dataclass
class _Counts:
    """The numbers of cells of the audits that have begun, which are reported as progress."""

    progress: Progress
    done: int = 0
    total: int = 0

    def add(self, *, done: int, total: int = 0) -> None:
        self.done, self.total = self.done + done, self.total + total
        self.progress(ATTACKING, self.done, self.total)


class _BegunAudit:
    """An audit that has begun.

    Attributes:
        waiting: the units of its present group that are to be submitted.
        submit: starts one of them.
        lost: units that were lost with their process or node.
        again: those that are run once more, one at a time after all others, because one of them may be the cause.
        contexts: the context of its present group.
        ended: its summary or its error, once it has ended.
    """

    def __init__(self, steps: AuditSteps, executor: Executor, counts: _Counts) -> None:
        self.steps, self.executor, self.counts = steps, executor, counts
        self.waiting: deque[int] = deque()
        self.again: deque[int] = deque()
        self.contexts = ExitStack()
        self.ended: Summary | Exception | None = None
        self.lacking: dict[str, Unfinished] | None = None
        self.go_on()

    def go_on(self) -> None:
        """Run the audit up to its next cells, or to its end."""
        try:
            while not self.waiting:
                asked = next(self.steps) if self.lacking is None else self.steps.send(self.lacking)
                self.store, self.group, self.lacking = asked.store, asked.group(self.executor), {}
                self.waiting.extend(range(len(self.group.units)))
                self.left, self.lost = len(self.waiting), set[int]()
                total, missing = len(asked.cells), sum(map(len, self.group.units))
                self.counts.add(done=total - missing, total=total)
            self.submit = self.contexts.enter_context(self.executor.sharing(self.group))
        except StopIteration as stop:
            self.ended = stop.value
        except Exception as error:
            self._fail(error)

    def start(self) -> tuple[Future[EndedCells], int]:
        """Start the next unit, and return the future of its results and its index."""
        index = self.waiting.popleft()
        try:
            return self.submit(index), index
        except Exception as error:  # of the executor, such as no room for another process
            lost: Future[EndedCells] = Future()
            lost.set_exception(error)
            return lost, index

    def receive(self, index: int, future: Future[EndedCells]) -> None:
        """Save the results of a unit, and go on with the audit after the last one."""
        if self.ended is not None:
            return
        error, unit = future.exception(), self.group.units[index]
        if error is not None and index not in self.lost:
            self.lost.add(index)
            self.again.append(index)
        else:
            lost = dict.fromkeys(unit, Unfinished(_lost(error), failed=True)) if error is not None else {}
            self._keep(lost or future.result())
            self.left -= 1
        if self.ended is None and self.left == len(self.again):
            if self.again:
                self.waiting.append(self.again.popleft())
            else:
                self.contexts.close()
                self.go_on()

    def _keep(self, ended: EndedCells) -> None:
        assert self.lacking is not None
        try:
            for key, cell in ended.items():
                if isinstance(cell, FinishedCell):
                    self.store.save(cell)
                else:
                    self.lacking[key] = cell
        except Exception as error:  # such as a full disk
            self._fail(error)
        else:
            self.counts.add(done=len(ended))

    def _fail(self, error: Exception) -> None:
        self.ended = error
        self.waiting.clear()
        self.contexts.close()
        self.steps.close()


def _lost(error: BaseException) -> str:
    return KILLED if isinstance(error, BrokenProcessPool) else f"{type(error).__name__}: {one_line(str(error))}"
