"""Measure for how long no image is answered when a standby takes the place of a device.

    python -m benchmarks.failover [--repetitions N] [--images N]

Four workers of LeNet-5 run on this machine: three devices and a standby. In the middle of a run, one of the devices
is killed, or suspended so that it hangs. Each image must be answered once, with the exact output. The exit code is
1 if one is not, or if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.measurement import Measurement, measured, shown
from cloven.partition.plan import Plan
from cloven.runtime.bundle import engine
from cloven.runtime.cluster.coordinator import Prediction
from cloven.runtime.cluster.send_options import SendOptions
from cloven.runtime.cluster.sending import coordinator

NAME = "failover"
DEVICES, STANDBY = ("edge0", "edge1", "edge2"), "edge3"
WAYS = {"killed": (signal.SIGKILL, 1.0), "suspended": (signal.SIGSTOP, 3.0)}
"""For each kind of loss, the signal that the device gets, and the largest goal for the time without an answer."""

DISTINCT = 8
"""The number of distinct images, which are sent over and over."""


def cloven(*words: object) -> list[str]:
    """Return a command line."""
    return [sys.executable, "-m", "cloven.cli", *map(str, words)]


@contextmanager
def workers(folder: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Run a worker of the whole bundle for each device and the standby; write the cluster file."""
    made = {}
    try:
        addresses = []
        for name in (*DEVICES, STANDBY):
            command = cloven("worker", folder / "bundle", "--name", name, "--listen", "127.0.0.1:0")
            process = subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            made[name] = process
            assert process.stderr is not None
            found = next(line for line in process.stderr if '"ready"' in line)
            addresses.append(f'{name} = "{json.loads(found)["listen"]}"\n')
        (folder / "cluster.toml").write_text("[devices]\n" + "".join(addresses))
        yield made
    finally:
        for process in made.values():
            process.kill()
            process.communicate()


def gap(folder: Path, way: str, device: str, images: int) -> float:
    """Return the longest time without an answer, in seconds, in a run in which a device is lost.

    Raises:
        SystemExit: if an image is not answered, or its output is not exact.
    """
    plan = Plan.load(folder / "plan.toml")
    given = np.random.default_rng(0).random((DISTINCT, *plan.named_model.input), np.float32)
    expected = engine.run(folder / "bundle", given, batch=1)

    async def everything() -> list[Prediction]:
        found: list[Prediction] = []
        async with coordinator(plan, folder / "cluster.toml", SendOptions()) as run:
            async for answer in run.answers(given[i % DISTINCT] for i in range(images)):
                if not isinstance(answer, Prediction):
                    raise SystemExit(f"{device} was {way}: {answer}")
                if not np.array_equal(answer.output, expected[len(found) % DISTINCT]):
                    raise SystemExit(f"{device} was {way}: the output of image {len(found)} is wrong")
                found.append(answer)
                if len(found) == images // 3:
                    processes[device].send_signal(WAYS[way][0])
        return found

    with workers(folder) as processes:
        times = sorted(answer.answered for answer in asyncio.run(everything()))
    return max(later - earlier for earlier, later in pairwise(times))


def measure(repetitions: int = 10, images: int = 600) -> Iterator[Measurement]:
    """Yield the longest time without an answer after each kind of loss; the devices take turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = cloven("plan", "lenet5", "--strategy", "vertical", "--devices", 3, "--standby", STANDBY)
        for command in (
            [*made, "--out", folder / "plan.toml"],
            cloven("bundle", folder / "plan.toml", "--out", folder / "bundle"),
        ):
            subprocess.run([str(word) for word in command], check=True, capture_output=True)
        for way, (_, most) in WAYS.items():
            gaps = [gap(folder, way, DEVICES[i % len(DEVICES)], images) for i in range(repetitions)]
            yield measured(NAME, f"a device is {way}: longest time without an answer", gaps, "s", goal=most)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--images", type=int, default=600)
    given = parser.parse_args()
    return shown(measure(given.repetitions, given.images))


if __name__ == "__main__":
    sys.exit(main())
