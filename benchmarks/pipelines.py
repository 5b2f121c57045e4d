"""Compare a model in two stages, on workers with one thread each, with the whole in one session with two threads.

The two workers, their coordinator (without torch, as at the edge) and the whole model are separate processes. The
two variants alternate; a turn counts if other processes leave both cores free.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import stages
from benchmarks.processes import Child, Spent, child, spent, wait_for_quiet
from benchmarks.stages import Cut, Round

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


@dataclass(frozen=True)
class Row:
    """The figures of a model: medians over the turns.

    Attributes:
        whole, pipeline: images a second.
        ratio, ratios: the second over the first; of all turns that count.
        turns, others: how many turns there were in all, and the cores that others took in those that count.
        alone: milliseconds for an image that has everything to itself, by way.
        cpu: CPU milliseconds for an image, by process.
    """

    model: str
    cut: Cut
    whole: float
    pipeline: float
    ratio: float
    ratios: list[float]
    turns: int
    others: float
    alone: dict[str, float]
    cpu: dict[str, float]


def measured(name: str, folder: Path, *, rounds: int, images: int, window: int) -> Row:
    """Make the bundles, choose the fastest cut, and alternate between the whole model and the pipeline."""
    folder.mkdir()
    with child(["-m", stages.__name__, "prepare", name, folder]) as making:
        cuts = [Cut(**cut) for cut in json.loads(making.line())]
    best = min(range(len(cuts)), key=lambda i: tried(folder / f"cut-{i}", images // 2, window))
    with ExitStack() as stack:
        pipeline = started(folder / f"cut-{best}", window, stack)
        whole = stack.enter_context(child(["-m", stages.__name__, "whole", folder / "whole", THREADS]))
        whole.line()
        same(ask(whole, "many", 8), ask(pipeline[0], "many", 8))
        many = turns(whole, pipeline, ("many", images), rounds)
        single = turns(whole, pipeline, ("single", max(5, images // 8)), rounds)
    return summary(name, cuts[best], (many, images), (single, max(5, images // 8)))


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


def summary(name: str, cut: Cut, many: tuple[list[Turn], int], single: tuple[list[Turn], int]) -> Row:
    """Return the medians over the turns that count, or over all turns if too few do."""
    counted, images = counting(many[0]), many[1]
    ones, few = counting(single[0]), single[1]
    whole, pipeline = (ms([getattr(t, way) for t in counted], images) for way in ("whole", "pipeline"))
    ratios = [turn.whole.seconds / turn.pipeline.seconds for turn in counted]
    cpu = {"whole": _cpu([turn.spent[0] for turn in counted], 0, images)}
    cpu |= {
        process: _cpu([turn.spent[1] for turn in counted], i, images)
        for i, process in enumerate(("coordinator", *DEVICES), start=1)
    }
    return Row(
        name,
        cut,
        1000 / whole,
        1000 / pipeline,
        statistics.median(ratios),
        ratios,
        len(many[0]),
        statistics.median(turn.others for turn in counted),
        {"whole": ms([t.whole for t in ones], few), "pipeline": ms([t.pipeline for t in ones], few)},
        cpu,
    )


def counting(found: list[Turn]) -> list[Turn]:
    """Return the undisturbed turns, or the less disturbed half of all if there are fewer than three."""
    quiet = [turn for turn in found if turn.others <= QUIET]
    half = sorted(found, key=lambda turn: turn.others)[: (len(found) + 1) // 2]
    return quiet if len(quiet) >= 3 else half


def ms(rounds: Sequence[Round], images: int) -> float:
    """Return the median milliseconds per image."""
    return 1000 * statistics.median(taken.seconds for taken in rounds) / images


def _cpu(costs: Sequence[Spent], process: int, images: int) -> float:
    return 1000 * statistics.median(cost.cpu[process] for cost in costs) / images


def same(one: Round, other: Round) -> None:
    """Check that both variants return the same outputs."""
    a, b = np.array(one.output), np.array(other.output)
    if a.shape != b.shape or np.abs(a - b).max() > TOLERANCE * max(1, np.abs(a).max()):
        raise SystemExit("the pipeline's output is not the whole model's")
