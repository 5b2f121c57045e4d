"""Compare cloven with a plain script on Fig. 5(c) of Mehrafrooz et al. (2025): nineteen decoders for LeNet-5.

    python -m benchmarks.figure5c [--pairs N] [--victims N] [--epochs N] [--repetitions N] [--full]

Both train the decoders of the paper's Table 2 on the same pairs for the same epochs, and score the same victim
images: the classes that the CNN gives to the reconstructions, and their SSIM. The script is
`benchmarks/s1_script.py`. It trains one decoder after another in one process. cloven runs the study of `cloven
reproduce s1 --figure 5c --controls none`, in one process and in two. Every process has one thread. The arms
alternate; each repetition has another seed. The CNN is trained beforehand, and not counted, nor is the time to
read the images.

The data sets are MNIST and CIFAR-10 of the folder CLOVEN_DATA, with photographs of Tiny-ImageNet; without
CLOVEN_DATA, scikit-learn's digits and photographs. ``--full`` has the pairs and victims of ``docs/papers/s1.md``
and takes hours.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks import s1_script
from benchmarks.measurement import Measurement, data_folder, measured, ratios, shown
from benchmarks.s1_script import Bar
from cloven.auditing import pipeline
from cloven.auditing.finding import Metric
from cloven.auditing.paper import Paper
from cloven.auditing.pipeline import Execution
from cloven.auditing.ranges import difference_bounds
from cloven.auditing.subject import cnn, load_images
from cloven.papers.s1 import setup
from cloven.papers.s1.bars import bars
from cloven.papers.s1.experiments import FigureStudy, Request, panels
from cloven.papers.s1.scales import DESK, StudyScale
from cloven.papers.s1.turns import shares
from cloven.score.intervals import paired

NAME = "figure5c"
GOAL = 8.0
"""The least ratio of the script's time to that of cloven in two processes."""

BarName = tuple[str, str]
"""The strategy and the layer of a bar."""

Bars = dict[BarName, Bar]
METRICS: tuple[Metric, ...] = ("agreement", "ssim")


@dataclass(frozen=True)
class Setting:
    """A data set, the attacker's images, and the sizes of the study."""

    name: str
    data: str
    auxiliary: str
    pairs: int
    victims: int | None
    epochs: int

    @property
    def scale(self) -> StudyScale:
        """The sizes of the figure's studies."""
        return replace(DESK["5c"], queries=self.pairs, victims=self.victims, epochs=self.epochs, images=None)

    def study(self, seed: int) -> FigureStudy:
        """Return the study of the figure, with one seed."""
        (panel,) = panels(Request("5c", (self.data,), self.auxiliary, self.scale, controls=()))
        settings = replace(panel.study.settings, seeds=(seed,))
        return replace(panel, study=replace(panel.study, settings=settings))


@dataclass(frozen=True)
class Arm:
    """One run of an arm: wall seconds, CPU seconds of the process, and the bars."""

    wall: float
    cpu: float
    bars: Bars


def timed(run: Callable[[], Bars]) -> Arm:
    """Return the bars and the time of a run."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return Arm(time.perf_counter() - wall, time.process_time() - cpu, found)


def by_script(setting: Setting, seed: int) -> Arm:
    """Run the plain script."""
    torch.set_num_threads(1)
    study = setting.study(seed).study
    images = load_images(study.subject)
    model = cnn(study.subject, images, lambda *_: None)
    auxiliary, victims = images.auxiliary.tensor(), images.victims.tensor()
    run = partial(
        s1_script.attacked, model, study.subject.model, auxiliary, victims, epochs=setting.epochs, seed=seed
    )
    return timed(run)


def by_cloven(setting: Setting, seed: int, jobs: int) -> Arm:
    """Run the same study with cloven."""
    torch.set_num_threads(1)
    panel = setting.study(seed)
    subject = pipeline.load_subject(panel.study.subject, lambda *_: None)
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: _audited(panel, setting.scale, subject, Execution(Path(folder), jobs)))


def _audited(panel: FigureStudy, scale: StudyScale, subject: pipeline.LoadedSubject, execution: Execution) -> Bars:
    paper = Paper(panel.chain_for, notes=partial(setup.notes, panel.study.subject.model))
    summary = pipeline.execute_loaded(panel.study, subject, paper, execution)
    found = bars("5c", scale, panel, summary, execution.folder, "", shares([panel])[panel.name])
    return {(bar.strategy, bar.layer): Bar(bar.scores[0], bar.ssim[0]) for bar in found}


ARMS: dict[str, Callable[[Setting, int], Arm]] = {
    "script": by_script,
    "one process": partial(by_cloven, jobs=1),
    "two processes": partial(by_cloven, jobs=2),
}


def compared(setting: Setting, repetitions: int) -> Iterator[Measurement]:
    """Yield the ratios of the times, and the number of bars whose scores differ."""
    runs: dict[str, list[Arm]] = {name: [] for name in ARMS}
    for seed in range(repetitions):
        for name, arm in ARMS.items():
            with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # memory settings stay in the process
                runs[name].append(apart.submit(arm, setting, seed).result())
    script, one = runs["script"], runs["one process"]
    size = f"{setting.name}, {setting.pairs} pairs, {setting.epochs} epochs"
    row = partial(measured, NAME, unit="x", better="higher")
    walls = [[arm.wall for arm in arms] for arms in runs.values()]
    cpus = [[arm.cpu for arm in arms] for arms in (script, one)]
    yield row(f"{size}: wall time, script / cloven in two processes", ratios(walls[0], walls[2]), goal=GOAL)
    yield row(f"{size}: wall time, script / cloven in one process", ratios(walls[0], walls[1]))
    yield row(f"{size}: CPU time, script / cloven in one process", ratios(*cpus))
    yield measured(NAME, f"{size}: wall time of cloven in two processes", walls[2], "s")
    keys = [(bar, metric) for bar in script[0].bars for metric in METRICS]
    differing = [key for key in keys if differ(one, script, *key, level=1 - 0.05 / len(keys))]
    yield measured(NAME, f"{size}: scores that differ, of {len(keys)}", [len(differing)], "scores", goal=0)


def differ(one: Sequence[Arm], other: Sequence[Arm], bar: BarName, metric: Metric, *, level: float) -> bool:
    """Return whether the scores of a bar differ in two arms, by more than the interval over seeds and images."""
    scores = [torch.stack([getattr(arm.bars[bar], metric).mean(0) for arm in arms]) for arms in (one, other)]
    found = paired(scores[0], scores[1], within=difference_bounds(metric), level=level)
    return not found.low <= 0 <= found.high


def settings(pairs: int, victims: int | None, epochs: int) -> list[Setting]:
    """Return the data sets that are at hand."""
    if not os.environ.get("CLOVEN_DATA"):
        return [Setting("digits", "digits", "photos", pairs, victims, epochs)]
    folder = data_folder()
    photos = f"folder:{folder / 'tiny-imagenet' / 'train'}"
    sets = {"MNIST": f"mnist:{folder / 'MNIST' / 'raw'}", "CIFAR-10": f"cifar10:{folder / 'cifar-10-batches-bin'}"}
    return [Setting(name, data, photos, pairs, victims, epochs) for name, data in sets.items()]


def measure(
    pairs: int = 256, victims: int | None = 500, epochs: int = 10, repetitions: int = 3
) -> Iterator[Measurement]:
    """Yield the measurements of each data set."""
    for setting in settings(pairs, victims, epochs):
        yield from compared(setting, repetitions)


def main() -> int:
    """Measure, print, and return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--victims", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    given = parser.parse_args()
    if given.full:
        return shown(measure(5000, None, 10, given.repetitions))
    return shown(measure(given.pairs, given.victims, given.epochs, given.repetitions))


if __name__ == "__main__":
    sys.exit(main())
