"""Measure start-up times relative to importing numpy, as medians of alternating runs.

    python -m benchmarks.startup [RUNS]

It prints medians in seconds, ratios and the memory. The exit code is 1 if a ratio or the memory exceeds its limit.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NUMPY = "import numpy"
WORKER = (
    "import cloven.cli, cloven.runtime.cluster.logs, cloven.runtime.cluster.worker, cloven.runtime.link.identity"
)
"""Everything that `cloven worker` imports before it loads its part of a bundle."""
MEMORY = 150.0
"""The most megabytes that a worker may use before it loads its part."""
TELL = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"


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


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> int:
    """Measure and print; the commands alternate, so that other load affects all equally."""
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(runs):
        for name, start in STARTS.items():
            times[name].append(seconds(start.command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {name: median / medians[NUMPY] for name, median in medians.items()}
    for name, ratio in ratios.items():
        print(f"{name:18} {medians[name]:.3f} s   {ratio:.2f} x import numpy, at most {STARTS[name].limit:g}")
    told = subprocess.run([sys.executable, "-c", WORKER + TELL], check=True, capture_output=True, text=True)
    memory = float(told.stdout)
    print(f"{'a worker takes':18} {memory:.0f} MB, at most {MEMORY:g}")
    return int(memory > MEMORY or any(ratio > STARTS[name].limit for name, ratio in ratios.items()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
