"""Measure the peak memory of cloven's commands: ``python -m benchmarks.peaks``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.measurement import Measurement, measured, shown
from benchmarks.startup import TELL

NAME = "peaks"
CAPTURE = (
    "import cloven, torch; from cloven.zoo.named import make; "
    "net = make('torchvision:resnet50', shape=(3, 224, 224), classes=1000); "
    "graph = cloven.capture(net, torch.zeros(1, 3, 224, 224))"
)
AUDIT = (
    "from cloven.cli import main; import sys; sys.argv[1:] = 'audit lenet5 --data digits --auxiliary photos "
    "--queries 500 --attacks screen --layers pool1 --strategies vertical --judge none --jobs 1 --out run'.split()\n"
    "try: main()\nexcept SystemExit: pass\n"
)
CASES = {
    "import torch": ("import torch", None),
    "import cloven": ("import cloven", None),
    "capture ResNet-50 at 224 pixels": (CAPTURE, None),
    "divide ResNet-50 among 8 devices": (
        f"{CAPTURE}; program = cloven.divide(graph, cloven.Horizontal(), devices=8)",
        None,
    ),
    "audit LeNet-5 at one cut, 500 pairs": (AUDIT, None),
}
"""The Python code, and the most megabytes that it may need."""


def peak(code: str) -> float:
    """Return the peak memory in megabytes of a process that runs some code."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code + TELL.replace("; ", "\n")]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return float(run.stdout.split()[-1])


def measure(repetitions: int = 3) -> Iterator[Measurement]:
    """Yield the peak memory of each case."""
    for case, (code, goal) in CASES.items():
        yield measured(NAME, case, [peak(code) for _ in range(repetitions)], "MB", goal=goal)


if __name__ == "__main__":
    sys.exit(shown(measure()))
