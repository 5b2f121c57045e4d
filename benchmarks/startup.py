"""Measure start-up times relative to importing numpy, as medians of alternating runs.

    python -m benchmarks.startup [RUNS]

The exit code is 1 if a ratio or the memory exceeds its limit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measurement import Measurement, alternating, measured, ratios, shown

NAME = "startup"
NUMPY = "import numpy"
WORKER = (
    "import cloven.cli, cloven.runtime.cluster.logs, cloven.runtime.cluster.worker, cloven.runtime.link.identity"
)
"""Everything that `cloven worker` imports before it loads its part of a bundle."""
MEMORY = 150.0
"""The most megabytes that a worker may use before it loads its part."""
TELL = "; print(next(int(line.split()[1]) * 1024 / 1e6 for line in open('/proc/self/status') if 'VmHWM' in line))"
"""Prints the largest resident memory; ``ru_maxrss`` would be at least that of the process that starts it."""


@dataclass(frozen=True)
class Start:
    """A command, and its limit as a multiple of the time to import numpy."""

    command: list[str]
    limit: float


STARTS = {
    NUMPY: Start([sys.executable, "-c", NUMPY], 1.0),
    "import cloven": Start([sys.executable, "-c", "import cloven"], 3.0),
    "cloven --help": Start([str(Path(sys.executable).with_name("cloven")), "--help"], 3.0),
    "a worker's imports": Start([sys.executable, "-c", WORKER], 4.0),
}


def run(command: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(runs: int = 7) -> Iterator[Measurement]:
    """Yield the ratios to importing numpy, and the memory of a worker."""
    calls = {name: partial(run, start.command) for name, start in STARTS.items()}
    times = alternating(calls, runs, time.perf_counter)
    yield measured(NAME, NUMPY, times[NUMPY], "s")
    for name, start in STARTS.items():
        if name != NUMPY:
            row = ratios(times[name], times[NUMPY])
            yield measured(NAME, f"{name} / {NUMPY}", row, "x", goal=start.limit)
    told = subprocess.run([sys.executable, "-c", WORKER + TELL], check=True, capture_output=True, text=True)
    yield measured(NAME, "memory of a worker before it loads its part", [float(told.stdout)], "MB", goal=MEMORY)


if __name__ == "__main__":
    sys.exit(shown(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 15)))
