"""The order in which the attacks of a figure run: seed by seed, and in each the bars of slices last."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from cloven.auditing import pipeline
from cloven.auditing.cell import Cell
from cloven.auditing.executor import ATTACKING, Later
from cloven.auditing.paper import Paper
from cloven.auditing.pipeline import Execution
from cloven.auditing.scenes import simulated_cases
from cloven.auditing.store import CONFIG, SUMMARY, Store
from cloven.auditing.subject import Subject
from cloven.graph.graph import Graph
from cloven.papers.s1 import setup
from cloven.papers.s1.bars import Place, is_sliced, place
from cloven.papers.s1.experiments import CLASSES, FigureStudy, Request
from cloven.partition.observe import Observation
from cloven.progress import Progress
from cloven.runtime.capture import capture
from cloven.zoo.named import make
from cloven.zoo.pixels import Shape

Turn = tuple[int, bool]
"""A seed, and whether slices are attacked as well: a bar of slices takes an attack for each device."""


def shares(every: Iterable[FigureStudy]) -> dict[str, Counter[Place]]:
    """Return the number of shares of each bar, for each study by its name; no image is needed for it."""
    found: dict[str, Counter[Place]] = {}
    for panel in every:
        who = panel.study.subject
        assert who.shape is not None
        seen = simulated_cases(panel.study, _graph(who.model, who.shape))
        found[panel.name] = Counter(place(case.context, panel.division) for case in seen)
    return found


@cache
def _graph(model: str, shape: Shape) -> Graph:
    return capture(make(model, shape=shape, classes=CLASSES), torch.zeros(1, *shape))


def turns(request: Request) -> list[Turn]:
    """Return the turns that the studies of a figure take, in order."""
    seeds = range(request.seed, request.seed + request.scale.seeds)
    return [(seed, slices) for seed in seeds for slices in (False, True)]


def is_done(turn: Turn, panel: FigureStudy, out: Path, shares: Mapping[Place, int]) -> bool:
    """Return whether the summary of a study has all attacks of a turn."""
    seed, slices = turn
    if not (out / panel.name / SUMMARY).exists():
        return False
    findings = (row for row in Store(out / panel.name).summary().findings if seed in row.seeds)
    found = Counter(place(row, panel.division) for row in findings)
    wanted = shares if slices else {one: n for one, n in shares.items() if not is_sliced(one)}
    return all(found[one] == count for one, count in wanted.items())


def _turn_of(cell: Cell) -> Turn:
    seen = cell.observation
    assert isinstance(seen, Observation)
    parts = any(one.shape != seen.graph.by_name[one.value].shape for one in seen.seen)
    return cell.seed, parts and seen.view == "paper" and not seen.raw_image


def _after(turn: Turn, end: float) -> Later:
    """Return a function that leaves cells of later turns, and all of them once it is too late."""
    return lambda cell: _turn_of(cell) > turn or time.perf_counter() > end


def of_all(every: Sequence[FigureStudy], out: Path, cells: int, progress: Progress) -> Progress:
    """Return the progress that counts the attacks of all studies together."""

    def report(stage: str, done: int, total: int) -> None:
        if stage == ATTACKING:
            done, total = sum(len(Store(out / panel.name).keys()) for panel in every), cells
        progress(stage, done, total)

    return report


def run(left: Sequence[tuple[Turn, FigureStudy]], out: Path, jobs: int, progress: Progress, end: float) -> None:
    """Run each study up to its turn; those of one turn that share a model and images follow each other.

    ``end`` is the time after which no attack starts.
    """
    subjects = [panel.study.subject for _, panel in left]
    loaded: dict[Subject, pipeline.LoadedSubject] = {}
    for turn, panel in sorted(left, key=lambda one: (one[0], subjects.index(one[1].study.subject))):
        if time.perf_counter() > end:
            return
        subject = panel.study.subject
        if subject not in loaded:
            loaded = {subject: pipeline.load_subject(subject, progress)}
        execution = Execution(
            out / panel.name,
            jobs,
            lambda stage, *of, head=panel.name: progress(stage if stage == ATTACKING else f"{head}: {stage}", *of),
            later=_after(turn, end),
            elsewhere=tuple(config.parent for config in sorted(out.parent.glob(f"*/*/{CONFIG}"))),
        )
        paper = Paper(panel.chain_for, notes=partial(setup.notes, subject.model))
        pipeline.execute_loaded(panel.study, loaded[subject], paper, execution)
