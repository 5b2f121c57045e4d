"""Compare a model in two stages on two devices of one core with one such device, and with the whole on two cores.

    python -m benchmarks.pipelines [--rounds N] [MODEL ...]

Images of 224 x 224 pixels, sent as such, random weights. A device is a worker with one thread whose process may use
one core. The whole model is one onnxruntime session with two threads. The workers, their coordinators (without
torch, as at the edge), which may use both cores, and the whole model are separate processes. All variants
alternate; a turn counts if other processes leave both cores free. The exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import stages
from benchmarks.measurement import Measurement, measured, ratios, shown
from benchmarks.processes import Child, Spent, child, spent, use_core, wait_for_quiet
from benchmarks.stages import Cut, Round

NAME = "pipelines"
VGG, RESNET, MOBILENET = "torchvision:vgg16", "torchvision:resnet50", "torchvision:mobilenet_v2"
MODELS = {
    VGG: 40,
    RESNET: 80,
    "torchvision:densenet121": 80,
    "torchvision:squeezenet1_1": 300,
    MOBILENET: 300,
}
"""The number of images in a round: many, because a pipeline is not full at the beginning and at the end."""

WHOLE, ONE, TWO, BATCHES = "whole on two cores", "one device", "two stages", "two stages, batches of 4"
OPTIONS = {ONE: (8, 1), TWO: (8, 1), BATCHES: (16, 4)}
"""The maximum number of images in flight, and of those that a worker computes together."""

GOALS = {(VGG, ONE): 1.8, (RESNET, WHOLE): 0.95, (MOBILENET, WHOLE): 0.95}
"""The least ratio of the images per second in two stages to those of another variant."""

THREADS = 2
"""The threads of the whole model's session."""

DEVICES = ("edge0", "edge1")
TOLERANCE = 1e-4
"""The largest difference between the outputs of both variants, relative to max(1, largest output)."""

QUIET = 0.1
"""The number of cores that other processes may keep busy in a turn that counts."""

PATIENCE = 30.0
"""The total seconds that turns of one kind may wait for free cores."""

MOST = 2
"""The most turns that are taken until enough of them count, as a multiple of the requested number."""


@dataclass(frozen=True)
class Turn:
    """A round of each variant, one right after the other."""

    rounds: dict[str, Round]
    spent: tuple[Spent, ...]

    @property
    def others(self) -> float:
        """The number of cores that other processes kept busy meanwhile."""
        return max(one.others for one in self.spent)


def compared(name: str, folder: Path, *, rounds: int, images: int) -> Iterator[Measurement]:
    """Make the bundles, choose the fastest cut, and alternate between the variants."""
    folder.mkdir()
    with child(["-m", stages.__name__, "prepare", name, folder]) as making:
        cuts = [Cut(**cut) for cut in json.loads(making.line())]
    best = min(range(len(cuts)), key=lambda i: tried(folder / f"cut-{i}", images // 4))
    bundles = {ONE: folder / "whole", TWO: folder / f"cut-{best}", BATCHES: folder / f"cut-{best}"}
    with ExitStack() as stack:
        running = {way: started(bundle, way, stack) for way, bundle in bundles.items()}
        running[WHOLE] = [stack.enter_context(child(["-m", stages.__name__, "whole", folder / "whole", THREADS]))]
        running[WHOLE][0].line()
        for way in bundles:
            same(ask(running[WHOLE][0], "many", 8), ask(running[way][0], "many", 8))
        many = counting(turns(running, ("many", images), rounds))
        few = max(3, images // 8)
        single = counting(turns({TWO: running[TWO]}, ("single", few), rounds))
    model, cut = name.rpartition(":")[2], cuts[best]
    rates = {way: [images / turn.rounds[way].seconds for turn in many] for way in running}
    for way in (WHOLE, ONE, TWO, BATCHES):
        where = f", cut after {cut.value}, {cut.bytes / 1e6:.2f} MB" if way == TWO else ""
        yield measured(NAME, f"{model}, {way}{where}", rates[way], "images/s", better="higher")
    for way in (TWO, BATCHES):
        for base in (WHOLE, ONE):
            over, goal = ratios(rates[way], rates[base]), GOALS.get((name, base)) if way == TWO else None
            yield measured(NAME, f"{model}, {way} / {base}, images/s", over, "x", better="higher", goal=goal)
    alone = [1000 * turn.rounds[TWO].seconds / few for turn in single]
    yield measured(NAME, f"{model}, {TWO}, an image alone", alone, "ms")


def tried(bundle: Path, images: int) -> float:
    """Return the shortest time of the pipeline of a bundle, in seconds."""
    with ExitStack() as stack:
        coordinator, *_ = started(bundle, TWO, stack)
        return min(ask(coordinator, "many", images).seconds for _ in range(4))


def started(bundle: Path, way: str, stack: ExitStack) -> list[Child]:
    """Start a bundle's workers, each on one core, and their coordinator, and return it and the workers."""
    workers, lines, cores = [], ["[devices]"], sorted(os.sched_getaffinity(0))
    for i, device in enumerate(DEVICES[: 1 if way == ONE else 2]):
        arguments = ["-m", "cloven.cli", "worker", bundle / device, "--listen", "127.0.0.1:0"]
        worker = stack.enter_context(child(arguments, stderr=True))
        lines.append(f'{device} = "{json.loads(worker.line())["listen"]}"')
        use_core(worker.process.pid, cores[i % len(cores)])
        workers.append(worker)
    window, batch = OPTIONS[way]
    cluster = bundle.with_suffix(f".{batch}.cluster.toml")
    cluster.write_text("\n".join(lines) + "\n", "utf-8")
    arguments = ["-m", stages.__name__, "coordinate", bundle.with_suffix(".toml"), cluster, window, batch]
    coordinator = stack.enter_context(child(arguments))
    coordinator.line()
    return [coordinator, *workers]


def ask(one: Child, how: str, images: int) -> Round:
    """Run a round in a process."""
    return Round(**one.ask(how, images))


def turns(running: Mapping[str, Sequence[Child]], what: tuple[str, int], rounds: int) -> list[Turn]:
    """Return turns, until enough of them count; the first process of a variant answers."""
    found: list[Turn] = []
    every = [one for processes in running.values() for one in processes]
    until = time.monotonic() + PATIENCE
    while len(found) < MOST * rounds and sum(turn.others <= QUIET for turn in found) < rounds:
        wait_for_quiet(QUIET, until)
        turn = {way: spent(partial(ask, processes[0], *what), every) for way, processes in running.items()}
        found.append(Turn({way: made for way, (made, _) in turn.items()}, tuple(cost for _, cost in turn.values())))
    return found


def counting(found: list[Turn]) -> list[Turn]:
    """Return the undisturbed turns, or the less disturbed half of all if there are fewer than three."""
    quiet = [turn for turn in found if turn.others <= QUIET]
    half = sorted(found, key=lambda turn: turn.others)[: (len(found) + 1) // 2]
    return quiet if len(quiet) >= 3 else half


def same(one: Round, other: Round) -> None:
    """Check that both variants return the same outputs."""
    a, b = np.array(one.output), np.array(other.output)
    if a.shape != b.shape or np.abs(a - b).max() > TOLERANCE * max(1, np.abs(a).max()):
        raise SystemExit("the pipeline's output is not the whole model's")


def measure(rounds: int = 5, models: Sequence[str] = ()) -> Iterator[Measurement]:
    """Yield the images per second of each model (default: all), whole, on one device and in two stages."""
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(models or MODELS):
            yield from compared(name, Path(folder) / str(i), rounds=rounds, images=MODELS[name])


def main() -> int:
    """Measure, print, and return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    return shown(measure(given.rounds, given.models))


if __name__ == "__main__":
    sys.exit(main())
