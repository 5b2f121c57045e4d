"""Measure links, compared with what they are built on: alternating processes on loopback.

    python -m benchmarks.links [--rounds N]

A tensor of 0.1, 0.8 and 3.2 MB goes to another process and its acknowledgement back, one at a time: over cloven's
links with each protection, a gRPC stream alone (grpc.aio, the same options), TCP, TLS and ZeroMQ. The exit code is
1 if a plain link takes more than 1.3 times as long as gRPC for 0.8 MB. The benchmark needs two free cores: it
waits a little while other processes use them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks import processes, transports
from benchmarks.measurement import Measurement, measured, ratios, shown
from cloven.runtime.link import authority

NAME = "links"
SIZES = {"0.1 MB": 100_352, "0.8 MB": 802_816, "3.2 MB": 3_211_264}
"""The sizes of float32 tensors of 7 x 7 x 512, 14 x 14 x 1024 and 56 x 56 x 256."""

SAMPLE = 8_000_000
"""The bytes that are sent one way in one turn, at least 5 messages."""

QUIET, PATIENCE = 0.3, 5.0
"""The number of busy cores of other processes above which a turn waits, and the most seconds to wait per size."""

LARGE = "0.8 MB"
PLAIN, BARE = "ours, none", "grpc.aio"
GOAL = 1.3
"""The largest ratio of the time of a plain link to that of gRPC, for `LARGE`."""

Turns = dict[str, list[float]]
"""The milliseconds for a message and its acknowledgement, by transport: the median of each turn."""


def links(rounds: int) -> dict[str, Turns]:
    """Return the time of each transport, by size."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        authority.new(transports.PARTIES, keys, days=1)
        with processes.child(["-m", transports.__name__, keys]) as server:
            ports = transports.Ports(**json.loads(server.line()))
            return asyncio.run(_links(ports, keys, rounds))


async def _links(ports: transports.Ports, keys: Path, rounds: int) -> dict[str, Turns]:
    async with transports.connected(ports, keys) as ways:
        return {label: await _turns(ways, size, rounds) for label, size in SIZES.items()}


async def _turns(ways: Mapping[str, transports.Deliver], size: int, rounds: int) -> Turns:
    """Return the milliseconds of each transport for tensors of `size` bytes, in alternating turns."""
    tensor = np.random.default_rng(0).bytes(size)
    taken: Turns = {name: [] for name in ways}
    until = time.monotonic() + PATIENCE
    for turn in range(rounds + 1):
        processes.wait_for_quiet(QUIET, until)
        for name, deliver in ways.items():
            times = [await _milliseconds(deliver, tensor) for _ in range(max(5, SAMPLE // size))]
            # The first turn compiles and warms up.
            if turn:
                taken[name].append(statistics.median(times))
    return taken


async def _milliseconds(deliver: transports.Deliver, tensor: bytes) -> float:
    start = time.perf_counter()
    await deliver(tensor)
    return 1000 * (time.perf_counter() - start)


def measure(rounds: int = 16) -> Iterator[Measurement]:
    """Yield the times of gRPC, and the ratios of the other transports to it."""
    for label, taken in links(rounds).items():
        yield measured(NAME, f"{BARE}, {label}", taken[BARE], "ms")
        for name, turns in taken.items():
            if name != BARE:
                goal = GOAL if (name, label) == (PLAIN, LARGE) else None
                yield measured(NAME, f"{name} / {BARE}, {label}", ratios(turns, taken[BARE]), "x", goal=goal)


def main() -> int:
    """Measure, print, and return 1 if the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=16)
    return shown(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    sys.exit(main())
