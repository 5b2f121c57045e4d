"""Measure the peak memory of cloven's commands: ``python -m benchmarks.peaks``.

For ``--memory``, audits observe a layer with 120 to 3.2 million values for each image. Each is refused under a
limit that is too small, and then runs under the smallest limit that the refusal names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path

from torch import Tensor, nn

from benchmarks.measurement import Measurement, measured, shown
from benchmarks.startup import TELL
from cloven.process_memory import resident

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

OBSERVED = {"vector": (120,), "maps32": (64, 32, 32), "maps112": (64, 112, 112), "maps224": (64, 224, 224)}
"""The shapes of the observed layers, by the function below that makes the model."""

LIMITED = (
    f"{Path(sys.executable).with_name('cloven')} audit benchmarks.peaks:{{model}} --data photos --auxiliary same "
    "--input-size 3x{side}x{side} --queries 64 --victims 20 --attacks probe,decoder --epochs 1 --layers observed "
    "--strategies vertical --judge none --view paper --jobs 2 --memory {limit} --out {out}"
)


class Observed(nn.Module):
    """A CNN with one observed layer, which makes maps or a vector."""

    def __init__(self, channels: int, stride: int, *, flat: bool = False, classes: int = 10) -> None:
        super().__init__()
        maps = nn.Conv2d(3, channels, 3, stride, 1)
        self.observed = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, channels)) if flat else maps
        self.pool = nn.Identity() if flat else nn.AdaptiveAvgPool2d(1)
        self.out = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of the classes ``(n, classes)`` for images ``(n, 3, side, side)``."""
        classes: Tensor = self.out(self.pool(self.observed(images).relu()).flatten(1))
        return classes


def vector(classes: int = 10) -> nn.Module:
    """Return a CNN with 120 observed values at 32 pixels."""
    return Observed(120, 1, flat=True, classes=classes)


def maps32(classes: int = 10) -> nn.Module:
    """Return a CNN with 64 observed maps of the size of its images."""
    return Observed(64, 1, classes=classes)


def maps112(classes: int = 10) -> nn.Module:
    """Return a CNN with 64 observed maps of half the size of its images."""
    return Observed(64, 2, classes=classes)


maps224 = maps32


def peak_of_all(command: str) -> tuple[float, int, str]:
    """Return the peak memory of a command and its processes in megabytes, its exit code, and its messages.

    The resident memory is read 20 times a second; memory that processes share counts once for each.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command.split(), stdout=messages, stderr=messages, env=environment)
        most = 0.0
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.05)
        messages.seek(0)
        return most / 1e6, process.returncode, messages.read()


def held(process: int) -> int:
    """Return the resident bytes of a process and of all that it has started, directly or not."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, KeyError):  # it has ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            sizes[int(folder.name)] = resident(folder.name).now
    total, waiting = 0, [process]
    while waiting:
        one = waiting.pop()
        total += sizes.get(one, 0)
        waiting += [child for child, parent in parents.items() if parent == one]
    return total


def limited() -> Iterator[Measurement]:
    """Yield the peaks of audits with the smallest accepted ``--memory``, relative to it."""
    for model, shape in OBSERVED.items():
        with tempfile.TemporaryDirectory() as out:
            side = 224 if prod(shape) > 100_000 else 32
            command = LIMITED.format(model=model, side=side, out=out, limit="{limit}")
            _, code, said = peak_of_all(command.format(limit="250MB"))
            needed = re.search(r"this audit needs ([\d.]+) ([GM]B)", said)
            if code != 2 or needed is None:
                raise SystemExit(f"expected a refusal that names the memory, got exit code {code}: {said}")
            most, code, said = peak_of_all(command.format(limit="".join(needed.groups())))
            if code:
                raise SystemExit(f"the audit ended with exit code {code}: {said}")
            limit = float(needed[1]) * (1000 if needed[2] == "GB" else 1)
            case = f"audit with --memory {needed[1]} {needed[2]}, {prod(shape):,} values: peak / limit"
            yield measured(NAME, case, [most / limit], "x", goal=1.0)


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
    yield from limited()


if __name__ == "__main__":
    sys.exit(shown(measure()))
