"""Compare the throughput of work stealing with that of equal static tiles, on devices of different speeds.

    python -m benchmarks.stealing [--rounds N] [--images N] [BANDWIDTH ...]

Three workers in the laboratory, of which the last is four times slower, and links of equal bandwidth. The model has
random weights. *Static* divides it into three strips, one for each worker. *Stealing* divides it into six tiles,
which idle workers take. All workers run at the same time, and the two take turns. Requires root, for the network
namespaces. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from benchmarks.measurement import Measurement, measured, ratios, shown
from cloven.graph.graph import Graph
from cloven.partition import plan as plans
from cloven.partition.data import Data
from cloven.partition.plan import ModelSpec, Plan
from cloven.partition.protection import COORDINATOR
from cloven.partition.transform import Transforms
from cloven.runtime.bundle.writer import write
from cloven.runtime.capture import capture
from cloven.runtime.lab.network import LinkQuality, Network, network
from cloven.runtime.lab.units import bandwidth as bits
from cloven.zoo.named import make

NAME = "stealing"
MODEL, IMAGE, CLASSES = "torchvision:mobilenet_v2", (3, 224, 224), 1000

SPEEDS = {"edge0": 0.2, "edge1": 0.2, "edge2": 0.05}
"""The speeds of the workers, as shares of this machine's: less than a core together, so that few cores suffice."""

BANDWIDTHS = ("100mbit", "20mbit")
GOAL = 1.5
"""The smallest ratio of the throughputs."""

STARTING = 120.0
"""Seconds that workers may take to start."""


@dataclass(frozen=True)
class Way:
    """A grid of tiles, whether idle workers take them, and the port of its workers."""

    grid: tuple[int, int]
    steals: bool
    port: int


STATIC, STEALING = Way((3, 1), False, 7000), Way((3, 2), True, 7001)


def bundled(graph: Graph, way: Way, folder: Path) -> Path:
    """Write the plan and the bundle of a way; return their folder."""
    plan = Plan(
        model=ModelSpec(name=MODEL, input=IMAGE, classes=CLASSES),
        strategy=Data(way.grid),
        devices=[f"edge{i}" for i in range(way.grid[0] * way.grid[1])],
        transform=Transforms(image="uint8"),
    )
    folder.mkdir()
    (folder / "plan.toml").write_text(plan.toml())
    write(plans.compile(graph, plan), folder / "bundle", model=MODEL, plan=plan.toml())
    return folder


def start(net: Network, way: Way, folder: Path) -> None:
    """Start the workers of a way, and write their cluster file."""
    started, lines = [], ["insecure = true", "[devices]"]
    for name, speed in SPEEDS.items():
        address = f"{net.address(name)}:{way.port}"
        part = [str(folder / "bundle"), "--name", name] if way.steals else [str(folder / "bundle" / name)]
        options = ["--listen", address, "--insecure", "--speed", str(speed)]
        log = folder / f"{name}.log"
        with log.open("wb") as errors:
            program = [sys.executable, "-m", "cloven.cli", "worker", *part, *options]
            started.append((log, net.popen(name, program, stdout=subprocess.DEVNULL, stderr=errors)))
        lines.append(f'{name} = "{address}"')
    until = time.monotonic() + STARTING
    for log, process in started:
        while '"ready"' not in log.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"a worker did not start: {log.read_text()}")
            time.sleep(0.05)
    (folder / "cluster.toml").write_text("\n".join(lines) + "\n")


def throughput(net: Network, way: Way, folder: Path, photos: Path) -> float:
    """Send the images; return how many are answered in a second."""
    program = [sys.executable, "-m", "cloven.cli", "run", str(folder / "plan.toml"), "--input", str(photos)]
    options = ["--cluster", str(folder / "cluster.toml"), "--deadline", "600", "--json"]
    steal = ["--steal"] if way.steals else []
    process = net.popen(COORDINATOR, [*program, *options, *steal], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the images were not answered: {errors.decode()}")
    found = json.loads(out)["images_a_second"]
    assert isinstance(found, float)
    return found


def rounds_of(ways: Mapping[Way, Path], bandwidth: str, photos: Path, rounds: int) -> dict[Way, list[float]]:
    """Return the throughput of each way in each round, in images per second.

    Two first rounds are not counted: in them, the workers measure the jobs that they slow down.
    """
    parties = [COORDINATOR, *SPEEDS]
    quality = LinkQuality(bits(bandwidth))
    found: dict[Way, list[float]] = {way: [] for way in ways}
    with network(parties, dict.fromkeys(combinations(parties, 2), quality)) as net:
        for way, folder in ways.items():
            start(net, way, folder)
        for turn in range(rounds + 2):
            for way, folder in ways.items():
                answered = throughput(net, way, folder, photos)
                if turn > 1:
                    found[way].append(answered)
    return found


def measure(rounds: int = 3, images: int = 24, bandwidths: Sequence[str] = BANDWIDTHS) -> Iterator[Measurement]:
    """Yield the throughput of both ways for each bandwidth, and their ratio."""
    from PIL import Image

    torch.manual_seed(0)
    graph = capture(make(MODEL, shape=IMAGE, classes=CLASSES), torch.zeros(1, *IMAGE))
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        photos = here / "photos"
        photos.mkdir()
        for i in range(images):
            pixels = np.random.default_rng(i).integers(0, 256, (*IMAGE[1:], IMAGE[0]), dtype=np.uint8)
            Image.fromarray(pixels).save(photos / f"{i:03}.png")
        ways = {way: bundled(graph, way, here / f"{way.grid[0]}x{way.grid[1]}") for way in (STATIC, STEALING)}
        for bandwidth in bandwidths:
            found = rounds_of(ways, bandwidth, photos, rounds)
            case = f"{MODEL.rpartition(':')[2]}, {bandwidth}"
            yield measured(NAME, f"{case}, three strips", found[STATIC], "images/s", better="higher")
            yield measured(NAME, f"{case}, six tiles and stealing", found[STEALING], "images/s", better="higher")
            over = ratios(found[STEALING], found[STATIC])
            yield measured(NAME, f"{case}, stealing / strips", over, "x", better="higher", goal=GOAL)


def main() -> int:
    """Measure, print, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bandwidths", nargs="*", metavar="BANDWIDTH", help="such as 100mbit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=24)
    given = parser.parse_args()
    return shown(measure(given.rounds, given.images, given.bandwidths or BANDWIDTHS))


if __name__ == "__main__":
    sys.exit(main())
