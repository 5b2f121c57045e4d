"""Measure how time grows with the size of the work: each size is doubled four times, and an exponent is fitted.

    python -m benchmarks.growth [--repetitions N]

An exponent of 1 means that twice as much takes twice as long. It is the slope of the logarithm of the time over
the logarithm of the size, by least squares, for each repetition. The sizes are cells of a finished audit, pairs
that train a decoder, the side of its images, and devices among which a model is divided.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from tests.reporting.runs import write_run
from tests.reporting.summaries import summary

from benchmarks.measurement import Measurement, alternating, measured, shown
from cloven.attacks.decoder import Decoder
from cloven.attacks.knowledge import Knowledge, in_memory
from cloven.auditing.finding_row import finding_rows
from cloven.auditing.run_folders import read_runs
from cloven.collection import paused
from cloven.partition.compiler import divide
from cloven.partition.horizontal import Horizontal
from cloven.partition.strategy import Strategy
from cloven.partition.vertical import Vertical
from cloven.reporting import exports, report_file
from cloven.runtime.capture import capture
from cloven.zoo.named import make

NAME = "growth"
DOUBLED = 4
"""The number of times that each size is doubled."""

SMALLEST = {"cells": 625, "pairs": 250, "side": 16, "devices": 2}

Calls = Mapping[int, Callable[[], object]]
"""The work to measure, by its size."""


def sizes(axis: str) -> list[int]:
    """Return the sizes on an axis."""
    return [SMALLEST[axis] * 2**times for times in range(DOUBLED + 1)]


def exponent(seconds: Mapping[int, float]) -> float:
    """Return the slope of the logarithm of the seconds over that of the size."""
    logs = [(math.log(size), math.log(taken)) for size, taken in seconds.items()]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def grown(case: str, calls: Calls, repetitions: int, *, goal: float, unit: str) -> Iterator[Measurement]:
    """Yield the exponent of the time of the calls, and the seconds of the largest."""
    taken = alternating({str(size): call for size, call in calls.items()}, repetitions)
    found = [exponent({size: taken[str(size)][i] for size in calls}) for i in range(repetitions)]
    least, most = min(calls), max(calls)
    yield measured(NAME, f"{case}, {least:,} to {most:,} {unit}", found, "exponent", goal=goal)
    yield measured(NAME, f"{case}, {most:,} {unit}", taken[str(most)], "s", goal=SECONDS.get(case))


SECONDS = {"read an audit and write Parquet": 10.0, "write a report": 20.0}
"""The most seconds for the largest size."""


def of_cells(repetitions: int) -> Iterator[Measurement]:
    """Yield the growth with the cells of a finished audit."""
    with tempfile.TemporaryDirectory() as name:
        folders = {size: write_run(Path(name) / str(size), summary(size)) for size in sizes("cells")}
        for case, work in {"read an audit and write Parquet": parquet, "write a report": report_file.write}.items():
            calls = {size: partial(work, folder) for size, folder in folders.items()}
            yield from grown(case, calls, repetitions, goal=1.1, unit="cells")


def parquet(folder: Path) -> bytes:
    """Return the results of an audit as Parquet, as ``cloven results`` does."""
    with paused():
        runs = read_runs([folder])
        rows = [row for one in runs.finished for row in finding_rows(one.summary, str(folder))]
    return exports.parquet(rows)


def of_training(repetitions: int) -> Iterator[Measurement]:
    """Yield the growth of the training of a decoder with its pairs, and with the side of its images."""
    pairs = {size: partial(train, size, 28) for size in sizes("pairs")}
    yield from grown("train a decoder", pairs, repetitions, goal=1.1, unit="pairs")
    sides = {size: partial(train, 64, size) for size in sizes("side")}
    yield from grown("train a decoder", sides, repetitions, goal=2.2, unit="pixels a side")


def train(pairs: int, side: int) -> None:
    """Train a decoder for one epoch on maps of half the side of its images."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(pairs, 1, side, side, generator=random)
    captured = torch.rand(pairs, 16, side // 2, side // 2, generator=random)
    Decoder(epochs=1).fit(Knowledge(tuple(images.shape[1:]), images, in_memory(captured)), generator=random)


def of_devices(repetitions: int) -> Iterator[Measurement]:
    """Yield the growth of compiling with the number of devices."""
    model = make("torchvision:resnet18", shape=(3, 224, 224), classes=1000)
    graph = capture(model, torch.zeros(1, 3, 224, 224))
    goals: dict[str, tuple[Strategy, float]] = {"vertical": (Vertical(), 1.1), "horizontal": (Horizontal(), 2.0)}
    for name, (strategy, goal) in goals.items():
        calls = {size: partial(divide, graph, strategy, size) for size in sizes("devices")}
        yield from grown(f"compile a {name} plan of ResNet-18", calls, repetitions, goal=goal, unit="devices")


def measure(repetitions: int = 3) -> Iterator[Measurement]:
    """Yield the exponents, and the times of the largest sizes."""
    torch.set_num_threads(1)
    for growth in (of_cells, of_training, of_devices):
        yield from growth(repetitions)


def main() -> int:
    """Measure, print, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    return shown(measure(parser.parse_args().repetitions))


if __name__ == "__main__":
    sys.exit(main())
