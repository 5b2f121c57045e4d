"""Measure a hand-over: a feature map from one process to another, compared with a plain copy and a plain file.

    python -m benchmarks.handover [--rounds N]

The map is VGG-16's at the first cut of Rajasekar et al. (2024): 64 x 224 x 224 float32 (12.8 MB). Each round
measures the hand-over by shared memory, by a file and by a pipe, from the call until the other process has the
array; a plain copy in memory; and a plain write and read of a file. They alternate; the figures are medians. The
exit code is 1 if shared memory takes more than twice as long as a copy, or a file more than twice as long as a
write and a read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloven.documents import Document
from cloven.enclave.handover import WAYS, Giver, Taker, Way, opened
from cloven.enclave.pipe import EndedError, HandedOver, heard, tell

BOUND = 2.0
SHAPE = (64, 224, 224)
Array = NDArray[np.float32]


class Taken(Document):
    """The time at which the other process had the array (seconds of the machine's clock), and its sum."""

    at: float
    sum: float


def take(way: Way, end: int) -> None:
    """Run the other process: receive arrays, and print when each has arrived, and its sum."""
    taker = Taker(way, end)
    while True:
        try:
            _, told = heard(0, HandedOver)
        except EndedError:
            return
        (taken,) = taker.take([SHAPE], 1, told)
        at = time.perf_counter()
        tell(1, Taken(at=at, sum=float(taken[0, :, ::37, ::37].sum())))


class Other:
    """The other process for one method of hand-over, as seen from this one."""

    def __init__(self, way: Way, folder: Path) -> None:
        self.end = opened(way, folder)
        self.giver = Giver(way, self.end)
        words = [sys.executable, __file__, "--take", way, str(self.end)]
        ends = [self.end] if self.end >= 0 else []
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=ends)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.tells, self.hears = self.process.stdin.fileno(), self.process.stdout.fileno()

    def seconds(self, tensor: Array) -> float:
        """Return the seconds from the call until the other process has the map."""
        start = time.perf_counter()
        tell(self.tells, HandedOver(images=1), self.giver.give([tensor]))
        said, _ = heard(self.hears, Taken, 60)
        wanted = float(tensor[0, :, ::37, ::37].sum())
        assert said.sum == wanted, "what was taken is not what was given"
        return said.at - start

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
        if self.end >= 0:
            os.close(self.end)


def copied(tensor: Array, target: Array) -> float:
    """Return the seconds of a plain copy in memory."""
    start = time.perf_counter()
    np.copyto(target, tensor)
    return time.perf_counter() - start


def filed(tensor: Array, target: Array, path: Path) -> float:
    """Return the seconds of a plain write to an existing file and of reading it."""
    start = time.perf_counter()
    with path.open("r+b", buffering=0) as file:
        file.write(tensor.data)
    with path.open("rb", buffering=0) as file:
        file.readinto(target.data)
    return time.perf_counter() - start


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--take", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.take:
        take(given.take[0], int(given.take[1]))
        return 0
    random = np.random.default_rng(0)
    target = np.zeros((1, *SHAPE), np.float32)
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        plain = Path(name) / "plain"
        plain.write_bytes(bytes(target.nbytes))
        others = {way: Other(way, Path(name)) for way in WAYS}
        for number in range(given.rounds + 1):
            tensor = random.random((1, *SHAPE), np.float32)
            took: dict[str, float] = {way: other.seconds(tensor) for way, other in others.items()}
            took |= {"copy": copied(tensor, target), "write and read": filed(tensor, target, plain)}
            if number:  # the first round maps pages that later rounds reuse
                for what, seconds in took.items():
                    found[what].append(seconds)
        for other in others.values():
            other.close()
    middle = {what: statistics.median(every) for what, every in found.items()}
    print(f"{target.nbytes:,} bytes, {given.rounds} rounds, medians in ms")
    for what, seconds in middle.items():
        print(f"{what}: {1e3 * seconds:.2f}")
    ratios = {"memory": middle["memory"] / middle["copy"], "file": middle["file"] / middle["write and read"]}
    print(
        f"memory / copy {ratios['memory']:.2f}, file / write and read {ratios['file']:.2f} (each at most {BOUND:g})"
    )
    return int(max(ratios.values()) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
