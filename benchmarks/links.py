"""Measure links and pipelines, compared with what they are built on: alternating processes on loopback.

    python -m benchmarks.links [--rounds N] [--json]

1. A tensor of 0.1, 0.8 and 3.2 MB to another process and its acknowledgement back, one at a time: cloven's links
with each protection, a gRPC stream alone (grpc.aio, the same options), TCP, TLS and ZeroMQ. 2. Ascon in numba
compared with C, as in `benchmarks/ciphers.py`. 3. ResNet-50 and MobileNet v2 at 224 pixels,
batch 1, random weights: two stages on two workers with one thread each,
   and a coordinator, compared with the whole model in one onnxruntime session with two threads.

The exit code is 1 if a plain link takes more than 1.3 times as long as gRPC for 0.8 MB, numba more than 1.3 times
as long as C, or a pipeline answers less than 0.9 times as many images as the whole model. The benchmark needs two
free
cores: it waits a little while other processes use them, and reports how much they did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ciphers, pipelines, processes, transports
from cloven.runtime.link import authority

SIZES = {"0.1 MB": 100_352, "0.8 MB": 802_816, "3.2 MB": 3_211_264}
"""The sizes of float32 tensors of 7 x 7 x 512, 14 x 14 x 1024 and 56 x 56 x 256."""

SAMPLE = 8_000_000
"""The bytes that are sent one way in one turn, at least 5 messages."""

QUIET, PATIENCE = 0.3, 5.0
"""The number of busy cores of other processes above which a turn waits, and the most seconds to wait per size."""

LARGE = "0.8 MB"
PLAIN, BARE = "ours, none", "grpc.aio"
CIPHER = "ascon-aead128"
MODELS = {"torchvision:resnet50": 40, "torchvision:mobilenet_v2": 300}
"""The number of images in a round."""

WINDOW = 8
LINK, ASCON, PIPELINE = 1.3, 1.3, 0.9
"""The bounds: time relative to gRPC, time relative to C, images per second relative to the whole model."""


@dataclass(frozen=True)
class Taken:
    """Milliseconds for a message and its acknowledgement; ``ratio`` is the median of the turns' ratios to gRPC."""

    median: float
    minimum: float
    ratio: float


# --- 1: links -------------------------------------------------------------------------------------------------


def links(rounds: int) -> dict[str, dict[str, Taken]]:
    """Return the time of each transport, by size."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        authority.new(transports.PARTIES, keys, days=1)
        with processes.child(["-m", transports.__name__, keys]) as server:
            ports = transports.Ports(**json.loads(server.line()))
            return asyncio.run(_links(ports, keys, rounds))


async def _links(ports: transports.Ports, keys: Path, rounds: int) -> dict[str, dict[str, Taken]]:
    async with transports.connected(ports, keys) as ways:
        return {label: await _turns(ways, size, rounds) for label, size in SIZES.items()}


async def _turns(ways: Mapping[str, transports.Deliver], size: int, rounds: int) -> dict[str, Taken]:
    """Return the milliseconds of each transport for tensors of `size` bytes, in alternating turns."""
    tensor = np.random.default_rng(0).bytes(size)
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    until = time.monotonic() + PATIENCE
    for turn in range(rounds + 1):
        processes.wait_for_quiet(QUIET, until)
        for name, deliver in ways.items():
            times = [await _milliseconds(deliver, tensor) for _ in range(max(5, SAMPLE // size))]
            # The first turn compiles and warms up.
            if turn:
                taken[name].append(times)
    medians = {name: [statistics.median(times) for times in turns] for name, turns in taken.items()}
    ratios = {
        name: statistics.median(mine / bare for mine, bare in zip(turns, medians[BARE], strict=True))
        for name, turns in medians.items()
    }
    return {n: Taken(statistics.median(medians[n]), min(map(min, taken[n])), ratios[n]) for n in ways}


async def _milliseconds(deliver: transports.Deliver, tensor: bytes) -> float:
    start = time.perf_counter()
    await deliver(tensor)
    return 1000 * (time.perf_counter() - start)


# --- 2: Ascon -------------------------------------------------------------------------------------------------


def ascon(rounds: int) -> float | None:
    """Return the time of numba relative to C for a large message, or None without a C compiler."""
    large = ciphers.measured(rounds)[ciphers.LARGE]
    in_c = large.get(f"{CIPHER} in C")
    return None if in_c is None else large[CIPHER] / in_c


# --- all ------------------------------------------------------------------------------------------------------


def pipelined(rounds: int) -> list[pipelines.Row]:
    """Return the figures of each model, whole and in two stages."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            pipelines.measured(name, Path(folder) / str(i), rounds=rounds, images=images, window=WINDOW)
            for i, (name, images) in enumerate(MODELS.items())
        ]


def surroundings() -> dict[str, str]:
    """Return the versions and the processor that the figures depend on."""
    packages = {name: version(name) for name in ("grpcio", "pyzmq", "onnxruntime", "numba", "cryptography")}
    load = " ".join(f"{number:.1f}" for number in os.getloadavg())
    return {
        "python": platform.python_version(),
        **packages,
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
        "load": load,
        "window": str(WINDOW),
        "threads": f"1 a worker, {pipelines.THREADS} the whole model",
        **processes.ENVIRONMENT,
    }


def print_links(found: Mapping[str, Mapping[str, Taken]]) -> None:
    """Print a table of the transports."""
    print("ms for a tensor and its acknowledgement: median (minimum), and ratio to grpc.aio\n")
    print(f"{'':24}", *(f"{label:>26}" for label in found))
    for name in found[LARGE]:
        cells = (row[name] for row in found.values())
        print(f"{name:24}", *(f"{t.median:11.2f} ({t.minimum:5.2f}) {t.ratio:5.2f} x" for t in cells))


def print_pipelines(rows: Sequence[pipelines.Row]) -> None:
    """Print the figures of each model."""
    for row in rows:
        low, high = min(row.ratios), max(row.ratios)
        print(
            f"\n{row.model}: cut after {row.cut.value}, {row.cut.bytes / 1e6:.2f} MB, {row.cut.before:.0%} before"
        )
        print(f"  images per second: whole {row.whole:.1f}, pipeline {row.pipeline:.1f}")
        print(f"  pipeline over whole: {row.ratio:.2f} (rounds from {low:.2f} to {high:.2f}; at least {PIPELINE})")
        print(f"  {len(row.ratios)} of {row.turns} turns count; others kept {row.others:.2f} cores busy in them")
        print("  ms for one image alone: " + ", ".join(f"{name} {ms:.1f}" for name, ms in row.alone.items()))
        print("  CPU ms per image: " + ", ".join(f"{name} {ms:.1f}" for name, ms in row.cpu.items()))


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    before = surroundings()["load"]
    taken, numba, rows = links(2 * options.rounds), ascon(2 * options.rounds), pipelined(options.rounds)
    plain = taken[LARGE][PLAIN].ratio
    holds = plain <= LINK and (numba is None or numba <= ASCON) and all(row.ratio >= PIPELINE for row in rows)
    around: dict[str, Any] = {"load before": before, **surroundings()}
    if options.json:
        ways = {label: {name: asdict(t) for name, t in row.items()} for label, row in taken.items()}
        found = {"links": ways, "numba over C": numba, "pipelines": [asdict(row) for row in rows]}
        print(json.dumps({**found, "with": around, "holds": holds}, indent=1))
        return int(not holds)
    print_links(taken)
    print(f"\na plain link takes {plain:.2f} times grpc.aio's time for {LARGE} (at most {LINK})")
    print(
        "no C compiler (cc): nothing to compare Ascon with"
        if numba is None
        else f"{CIPHER}: numba takes {numba:.2f} times C's time on {ciphers.LARGE} (at most {ASCON})"
    )
    print_pipelines(rows)
    print("\n" + ", ".join(f"{what} {which}" for what, which in around.items()))
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
