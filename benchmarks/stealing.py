"""Compare the throughput of divisions on devices of different speeds: equal and unequal tiles, and work stealing.

    python -m benchmarks.stealing [--rounds N] [--images N] [BANDWIDTH ...]

Three workers in the laboratory, of which the last is four times slower, and links of equal bandwidth. The model has
random weights. It is divided into three strips, one for each worker: of equal size, of several other sizes, and of
those that ``--shares auto --minimise throughput`` chooses by a profile of this machine. With *stealing* it is
divided into six tiles, which idle workers take. All workers run at the same time, and the divisions take turns.
Requires root, for the network namespaces. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.measurement import Measurement, measured, ratios, shown
from benchmarks.processes import ENVIRONMENT
from cloven.cost.cluster import Cluster, ClusterDevice, ClusterLink
from cloven.cost.profile import DeviceProfile, LinkProfile, Transmission, read_profile, scaled
from cloven.cost.shares import best_shares
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
GOALS = {"stealing": 1.5, "auto": 1.4}
"""The smallest ratio to the throughput of equal strips."""

BEST = 0.87
"""The smallest ratio of the throughput of the chosen strips to that of the best strips: within 15 %."""

STARTING = 120.0
"""Seconds that workers may take to start."""


@dataclass(frozen=True)
class Way:
    """A grid of tiles and their proportions, whether idle workers take them, and the port of its workers."""

    name: str
    strategy: Data
    port: int
    steals: bool = False

    @property
    def devices(self) -> list[str]:
        """Return the devices of the plan."""
        return [f"edge{i}" for i in range(self.strategy.count(None))]


EQUAL = Way("equal strips", Data((3, 1)), 7000)
STEALING = Way("six tiles and stealing", Data((3, 2)), 7001, steals=True)
OTHERS = [
    Way(f"strips of {':'.join(map(str, shares))}", Data((3, 1), shares=tuple(map(float, shares))), 7002 + i)
    for i, shares in enumerate([(2, 2, 1), (3, 3, 1), (4, 4, 1), (1, 1, 0)])
]
"""Further static divisions, to compare the chosen one with."""


def planned(way: Way) -> Plan:
    """Return the plan of a way."""
    return Plan(
        model=ModelSpec(name=MODEL, input=IMAGE, classes=CLASSES),
        strategy=way.strategy,
        devices=way.devices,
        transform=Transforms(image="uint8"),
    )


def profiled(bundle: Path) -> DeviceProfile:
    """Return the profile of this machine, measured with the parts of a bundle."""
    file = bundle.with_suffix(".profile.toml")
    parts = [str(bundle / name) for name in SPEEDS]
    program = [sys.executable, "-m", "cloven.cli", "profile", *parts, "--out", str(file), "--name", "this machine"]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, env=os.environ | ENVIRONMENT)
    return read_profile(DeviceProfile, str(file), Path())


def chosen(graph: Graph, bandwidth: str, core: DeviceProfile) -> Way:
    """Return the strips that are chosen by the costs of the workers, with the profile of this machine's core."""
    sending = Transmission(origin="assumed", note="the laboratory", bandwidth=bits(bandwidth), delay=0.0)
    wire = LinkProfile(name=bandwidth, transmission=sending)
    devices = {name: ClusterDevice(scaled(core, speed)) for name, speed in SPEEDS.items()}
    cluster = Cluster({COORDINATOR: ClusterDevice(core), **devices}, default=ClusterLink(wire))
    (strategy,) = best_shares(graph, planned(EQUAL), cluster, "throughput").stages
    assert isinstance(strategy, Data)
    sizes = ":".join(f"{share:g}" for share in strategy.shares or (1, 1, 1))
    return Way(f"auto: strips of {sizes}", strategy, 7010)


def bundled(graph: Graph, way: Way, folder: Path) -> Path:
    """Write the plan and the bundle of a way; return their folder."""
    plan = planned(way)
    folder.mkdir(parents=True)
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


def measure(rounds: int = 2, images: int = 16, bandwidths: Sequence[str] = BANDWIDTHS) -> Iterator[Measurement]:
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
        core = profiled(bundled(graph, EQUAL, here / "profile") / "bundle")
        for bandwidth in bandwidths:
            auto = chosen(graph, bandwidth, core)
            every = (EQUAL, *OTHERS, auto, STEALING)
            ways = {way: bundled(graph, way, here / bandwidth / str(way.port)) for way in every}
            found = rounds_of(ways, bandwidth, photos, rounds)
            case = f"{MODEL.rpartition(':')[2]}, {bandwidth}"
            for way in every:
                yield measured(NAME, f"{case}, {way.name}", found[way], "images/s", better="higher")
            for name, way in (("stealing", STEALING), ("auto", auto)):
                over = ratios(found[way], found[EQUAL])
                yield measured(NAME, f"{case}, {name} / {EQUAL.name}", over, "x", better="higher", goal=GOALS[name])
            best = max((EQUAL, *OTHERS), key=lambda way: median(found[way]))
            over = ratios(found[auto], found[best])
            yield measured(NAME, f"{case}, auto / {best.name}, the best", over, "x", better="higher", goal=BEST)


def main() -> int:
    """Measure, print, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bandwidths", nargs="*", metavar="BANDWIDTH", help="such as 100mbit")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=16)
    given = parser.parse_args()
    return shown(measure(given.rounds, given.images, given.bandwidths or BANDWIDTHS))


if __name__ == "__main__":
    sys.exit(main())
