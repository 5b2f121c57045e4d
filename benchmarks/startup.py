"""How long `cloven --help` and `import cloven` take beside importing numpy; medians of alternating runs.

    python benchmarks/startup.py [RUNS]

Prints the medians in seconds and the ratios; exit code 1 where a ratio exceeds 3.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 3.0
COMMANDS = {
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import cloven": [sys.executable, "-c", "import cloven"],
    "cloven --help": [str(Path(sys.executable).with_name("cloven")), "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> int:
    """Measure and print; alternates the commands so that a busy machine disturbs all alike."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:15} {median:.3f} s   {median / medians['import numpy']:.2f} x import numpy")
    return int(max(medians.values()) > LIMIT * medians["import numpy"])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
