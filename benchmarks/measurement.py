"""The results of the benchmarks: a value, its spread over repetitions, and the goal for each case."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime

from cloven.documents import Document
from cloven.errors import ClovenError
from cloven.runtime.device_profile import processor

Better = Literal["lower", "higher"]

PACKAGES = ("cloven", "torch", "numpy", "onnxruntime", "grpcio", "cryptography", "numba", "scikit-image")
"""The packages on which the values depend."""


class Measurement(Document):
    """A measured value.

    Attributes:
        benchmark: the name of the benchmark.
        case: what was measured, or what was compared with what. It is unique in the benchmark.
        value: the median of the repetitions.
        low: the smallest repetition.
        high: the largest repetition.
        repetitions: their number; 1 for a value that is counted, or that is the same each time.
        unit: the unit of the value; ``x`` for a ratio.
        better: whether a lower or a higher value is better.
        goal: the value that is at least required; None if nothing is required.
    """

    benchmark: str
    case: str
    value: float
    low: float
    high: float
    repetitions: int
    unit: str
    better: Better
    goal: float | None = None

    @property
    def holds(self) -> bool:
        """True if the goal is met, or if there is none."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


class Surroundings(Document):
    """The machine and the versions with which values were measured."""

    processor: str
    cores: int
    system: str
    python: str
    versions: dict[str, str]
    environment: dict[str, str]


class BenchmarkResults(Document):
    """The results of several benchmarks.

    ``load`` is the number of processes that computed on the machine in the minute before. ``left_out`` has the
    reason why a benchmark was not run, or did not end.
    """

    schema_version: Literal[1] = 1
    date: AwareDatetime
    seconds: float
    load: float
    surroundings: Surroundings
    measurements: tuple[Measurement, ...]
    left_out: dict[str, str]

    @property
    def holds(self) -> bool:
        """True if no goal is missed; goals of benchmarks that were left out do not count."""
        return all(one.holds for one in self.measurements)


def measured(
    benchmark: str,
    case: str,
    repetitions: Sequence[float],
    unit: str,
    *,
    better: Better = "lower",
    goal: float | None = None,
) -> Measurement:
    """Return the median of some repetitions, with their spread."""
    return Measurement(
        benchmark=benchmark,
        case=case,
        value=statistics.median(repetitions),
        low=min(repetitions),
        high=max(repetitions),
        repetitions=len(repetitions),
        unit=unit,
        better=better,
        goal=goal,
    )


def alternating(
    calls: Mapping[str, Callable[[], object]], runs: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Return the seconds of each call in each run; the calls alternate, and a first run is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if turn:
                taken[name].append(clock() - start)
    return taken


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Return the ratio of each repetition to the one that was measured beside it."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Return the machine and the versions of this process."""
    return Surroundings(
        processor=processor(),
        cores=os.cpu_count() or 0,
        system=platform.platform(terse=True),
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := _version(name))},
        environment=dict(environment),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def now() -> datetime:
    """Return the time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def data_folder() -> Path:
    """Return the folder of the data sets, which the environment variable CLOVEN_DATA names.

    Raises:
        ClovenError: if it names none.
    """
    folder = os.environ.get("CLOVEN_DATA")
    if not folder or not Path(folder).is_dir():
        raise ClovenError("CLOVEN_DATA does not name a folder with the data sets; set it")
    return Path(folder)


def number(value: float) -> str:
    """Return a number with three significant digits, or with all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(one: Measurement) -> str:
    """Return the range of a measurement's repetitions."""
    return f"{number(one.low)} to {number(one.high)}"


def cells(one: Measurement) -> tuple[str, ...]:
    """Return the columns of a measurement's row: benchmark, case, value, spread, unit, goal."""
    several = spread(one) if one.repetitions > 1 else ""
    goal = ""
    if one.goal is not None:
        goal = f"at {'most' if one.better == 'lower' else 'least'} {number(one.goal)}"
        goal += "" if one.holds else ", missed"
    return one.benchmark, one.case, number(one.value), several, one.unit, goal


COLUMNS = ("benchmark", "case", "median", "range", "unit", "goal")


def line(one: Measurement) -> str:
    """Return a measurement as a line of text, without the name of its benchmark."""
    _, case, value, several, unit, goal = cells(one)
    return f"{case}: {value} {unit}" + "".join(f" ({words})" for words in (several, goal) if words)


def shown(measurements: Iterable[Measurement]) -> int:
    """Print measurements as they come, and return 1 if a goal is missed, else 0."""
    missed = False
    for one in measurements:
        print(line(one), flush=True)
        missed |= not one.holds
    return int(missed)
