"""The processes of a benchmark, which answer lines, and the load that other processes cause meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""Settings against extra threads and spinning, which would take the cores from the other processes."""


LOOK = 0.3
"""The seconds over which the load of other processes is measured."""

Made = TypeVar("Made")


class Child:
    """A process that answers lines with lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        """Return the next line of the process."""
        assert self.process.stdout is not None
        if not (said := self.process.stdout.readline()):
            raise SystemExit(f"a process ended: {self.process.args!r}")
        return said

    def ask(self, *words: object) -> Any:
        """Send a line, and return the answer, parsed as JSON."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def cpu(self) -> float:
        """Return the CPU seconds that the process has used so far, or 0 if the system is not Linux."""
        return process_seconds(self.process.pid)


@contextmanager
def child(arguments: Iterable[object], *, stderr: bool = False) -> Iterator[Child]:
    """Run a Python process for the duration of the block; its lines are those of standard output or error."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=pipe,
        stdout=None if stderr else pipe,
        stderr=pipe if stderr else None,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    if stderr:
        process.stdout = process.stderr
    try:
        yield Child(process)
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Spent:
    """Wall seconds, CPU seconds of each process, and the number of cores that others kept busy meanwhile."""

    seconds: float
    cpu: tuple[float, ...]
    others: float


def spent(call: Callable[[], Made], children: Sequence[Child]) -> tuple[Made, Spent]:
    """Return the result of a call that uses these processes, and its cost."""
    start, busy, cpu = time.perf_counter(), busy_seconds(), [one.cpu() for one in children]
    made = call()
    seconds, used = time.perf_counter() - start, [one.cpu() - was for one, was in zip(children, cpu, strict=True)]
    return made, Spent(seconds, tuple(used), max(0.0, (busy_seconds() - busy - sum(used)) / seconds))


def wait_for_quiet(cores: float, until: float) -> None:
    """Wait while others keep more cores busy, but not after a time of the monotonic clock."""
    while time.monotonic() < until:
        _, idle = spent(lambda: time.sleep(LOOK), ())
        if idle.others <= cores:
            return


def use_core(pid: int, core: int) -> None:
    """Let all threads of a process, and those that they start, use one core only."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def process_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used so far, or 0 if it has ended or the system is not Linux."""
    return _ticks(Path(f"/proc/{pid}/stat"), after=")", places=(11, 12))


def busy_seconds() -> float:
    """Return the seconds that all cores have worked for any process, or for other machines on the same host."""
    return _ticks(Path("/proc/stat"), after="cpu", places=(0, 1, 2, 7))


def _ticks(path: Path, *, after: str, places: Sequence[int]) -> float:
    try:
        text = path.read_text()
    except OSError:
        return 0.0
    first = text.rpartition(after)[2] if after == ")" else text.partition(after)[2].partition("\n")[0]
    fields = first.split()
    return sum(int(fields[place]) for place in places) / os.sysconf("SC_CLK_TCK")
