"""Compare a model in two stages, on workers with one thread each, with the whole in one session with two threads.

    python -m benchmarks.pipelines [--rounds N]

ResNet-50 and MobileNet v2 at 224 pixels, batch 1, random weights. The exit code is 1 if a pipeline answers less
than 0.9 times as many images as the whole model. The two workers, their coordinator (without torch, as at the
edge) and the whole model are separate processes. The two variants alternate; a turn counts if other processes
leave both cores free.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import stages
from benchmarks.measurement import Measurement, measured, shown
from benchmarks.processes import Child, Spent, child, spent, wait_for_quiet
from benchmarks.stages import Cut, Round

NAME = "pipelines"
MODELS = {"torchvision:resnet50": 40, "torchvision:mobilenet_v2": 300}
"""The number of images in a round."""

WINDOW = 8
GOAL = 0.9
"""The least ratio of the images per second of the pipeline to those of the whole model."""

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
    """A round of the whole model, and one of the pipeline right after it."""

    whole: Round
    pipeline: Round
    spent: tuple[Spent, Spent]

    @property
    def others(self) -> float:
        """The number of cores that other processes kept busy meanwhile."""
        return max(one.others for one in self.spent)


def compared(name: str, folder: Path, *, rounds: int, images: int) -> Iterator[Measurement]:
    """Make the bundles, choose the fastest cut, and alternate between the whole model and the pipeline."""
    folder.mkdir()
    with child(["-m", stages.__name__, "prepare", name, folder]) as making:
        cuts = [Cut(**cut) for cut in json.loads(making.line())]
    best = min(range(len(cuts)), key=lambda i: tried(folder / f"cut-{i}", images // 2, WINDOW))
    with ExitStack() as stack:
        pipeline = started(folder / f"cut-{best}", WINDOW, stack)
        whole = stack.enter_context(child(["-m", stages.__name__, "whole", folder / "whole", THREADS]))
        whole.line()
        same(ask(whole, "many", 8), ask(pipeline[0], "many", 8))
        few = max(5, images // 8)
        many = counting(turns(whole, pipeline, ("many", images), rounds))
        single = counting(turns(whole, pipeline, ("single", few), rounds))
    model, cut = name.rpartition(":")[2], cuts[best]
    rates = {way: [images / getattr(turn, way).seconds for turn in many] for way in ("whole", "pipeline")}
    alone = [1000 * turn.pipeline.seconds / few for turn in single]
    over = [turn.whole.seconds / turn.pipeline.seconds for turn in many]
    cut_after = f"cut after {cut.value}, {cut.bytes / 1e6:.2f} MB"
    yield measured(NAME, f"{model}, whole", rates["whole"], "images/s", better="higher")
    yield measured(NAME, f"{model}, two stages, {cut_after}", rates["pipeline"], "images/s", better="higher")
    yield measured(NAME, f"{model}, two stages / whole, images/s", over, "x", better="higher", goal=GOAL)
    yield measured(NAME, f"{model}, two stages, an image alone", alone, "ms")


def tried(bundle: Path, images: int, window: int) -> float:
    """Return the shortest time of the pipeline of a bundle, in seconds."""
    with ExitStack() as stack:
        coordinator, *_ = started(bundle, window, stack)
        return min(ask(coordinator, "many", images).seconds for _ in range(4))


def started(bundle: Path, window: int, stack: ExitStack) -> list[Child]:
    """Start a bundle's workers and their coordinator, and yield both."""
    workers, lines = [], ["[devices]"]
    for device in DEVICES:
        arguments = ["-m", "cloven.cli", "worker", bundle / device, "--listen", "127.0.0.1:0"]
        worker = stack.enter_context(child(arguments, stderr=True))
        lines.append(f'{device} = "{json.loads(worker.line())["listen"]}"')
        workers.append(worker)
    cluster = bundle.with_suffix(".cluster.toml")
    cluster.write_text("\n".join(lines) + "\n", "utf-8")
    arguments = ["-m", stages.__name__, "coordinate", bundle.with_suffix(".toml"), cluster, window]
    coordinator = stack.enter_context(child(arguments))
    coordinator.line()
    return [coordinator, *workers]


def ask(one: Child, how: str, images: int) -> Round:
    """Run a round in a process."""
    return Round(**one.ask(how, images))


def turns(whole: Child, pipeline: Sequence[Child], what: tuple[str, int], rounds: int) -> list[Turn]:
    """Return turns, until enough of them count."""
    found: list[Turn] = []
    every = [whole, *pipeline]
    until = time.monotonic() + PATIENCE
    while len(found) < MOST * rounds and sum(turn.others <= QUIET for turn in found) < rounds:
        wait_for_quiet(QUIET, until)
        one, first = spent(lambda: ask(whole, *what), every)
        two, second = spent(lambda: ask(pipeline[0], *what), every)
        found.append(Turn(one, two, (first, second)))
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


def measure(rounds: int = 8) -> Iterator[Measurement]:
    """Yield the images per second of each model, whole and in two stages."""
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, images) in enumerate(MODELS.items()):
            yield from compared(name, Path(folder) / str(i), rounds=rounds, images=images)


def main() -> int:
    """Measure, print, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    return shown(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    sys.exit(main())
