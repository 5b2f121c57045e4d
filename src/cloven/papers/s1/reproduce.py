"""Run the studies of a figure, and write its bars and the verdicts on the paper's claims to one folder."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import product
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save

from cloven.auditing import pipeline
from cloven.auditing.settings import Study
from cloven.auditing.store import CONFIG, SUMMARY, Store, opened, read_model, write_document
from cloven.auditing.subject import SAME, Subject, cnn, initial, is_trained_here, load_images
from cloven.auditing.summary import Summary
from cloven.errors import ClovenError, tried
from cloven.files import read_bytes, read_json, read_tensors, replacing
from cloven.papers.s1.bars import StrategyBar, bars
from cloven.papers.s1.claims import all_judged
from cloven.papers.s1.experiments import CONTROLS, FIGURES, FigureStudy, Request, panels
from cloven.papers.s1.figure_document import (
    BarRow,
    DividedModel,
    FigureProgress,
    StrategyFigure,
    StudyRow,
    StudyVerdict,
)
from cloven.papers.s1.scales import FULL
from cloven.papers.s1.table1 import describe
from cloven.papers.s1.turns import is_done, of_all, run, shares, turns
from cloven.parallel import side_by_side
from cloven.progress import Progress
from cloven.zoo.originals import originals

FIGURE, SCORES = "figure.json", "figure.safetensors"
AGAIN = "run the same command again, which rewrites it from the stored cells"

LEFT_OPEN = (
    "The paper does not print the heights of bars: its sentences about the figures are tested instead.",
    "The paper does not say which slice or tile was tapped: a bar is the mean over all of them.",
)


def ready(request: Request) -> Request:
    """Return the request with the number of available auxiliary images, so that all studies have the same number.

    Raises:
        ClovenError: for invalid data, images or settings of the figure's studies; it lists all problems.
    """
    problems = _twice([spec.partition(":")[0] for spec in request.data])
    counts: dict[tuple[str, str], int | None] = {}  # images are checked once, not for each size
    for study in (panel.study for panel in panels(request)):
        sets = study.subject.data, study.subject.auxiliary
        if sets not in counts:
            counts[sets] = tried(partial(_queries, study), problems)
    if problems:
        raise ClovenError(list(dict.fromkeys(problems)))
    usual = next(count for count in counts.values() if count is not None)
    return replace(request, scale=replace(request.scale, queries=usual))


def _queries(study: Study) -> int:
    study, images = pipeline.loaded(study)
    if study.subject.training and study.subject.training.start:
        initial(study.subject, images)  # check the initial weights before any training starts
    return len(images.auxiliary)


def _twice(kinds: Sequence[str]) -> list[str]:
    """Return an error for each repeated kind of data set; folders and bars of a figure are named by the kind."""
    again = dict.fromkeys(kind for kind in kinds if kinds.count(kind) > 1)
    return [f"{kind} is given {kinds.count(kind)} times; give one data set of each kind" for kind in again]


def reproduce(
    request: Request, *, out: Path, jobs: int, progress: Progress, hours: float | None = None
) -> StrategyFigure:
    """Run or continue the studies of a figure, each in its own folder, and write ``figure.json`` and the scores.

    With a limit on the ``hours``, no attack starts after them, and the figure has the bars that are finished. The
    studies then take turns: for each seed, first the bars with few attacks, then those with one for each slice.

    Attacks that are equal, such as those on a layer that is divided among any number of devices, are computed once:
    their results are taken from the other studies of the figure, and of the figures in folders beside it.

    Raises:
        ClovenError: for an invalid request; it lists all problems, and nothing is written.
    """
    start = time.perf_counter()
    end = math.inf if hours is None else start + 3600 * hours
    request = ready(request)
    found: list[StrategyBar] = []
    rows = []
    every = panels(request)
    _refuse_changed(every, out)
    parts = shares(every)
    train([panel.study.subject for panel in every if not (out / panel.name / SUMMARY).exists()], jobs, progress)
    cells = request.scale.seeds * sum(each.total() for each in parts.values())
    order = turns(request) if hours is not None else turns(request)[-1:]
    left = [(turn, one) for turn, one in product(order, every) if not is_done(turn, one, out, parts[one.name])]
    run(left, out, jobs, of_all(every, out, cells, progress), end)
    done = 0
    for panel in every:
        if not (out / panel.name / SUMMARY).exists():
            continue
        summary = Store(out / panel.name).summary()
        victims = str(read_json(out / panel.name / CONFIG)["victim_images"])
        found += bars(request.figure, request.scale, panel, summary, out / panel.name, victims, parts[panel.name])
        rows.append(_panel(panel, summary))
        done += sum(len(finding.seeds) for finding in summary.findings)
    from_weights = (
        f"the CNN's training starts from {request.start.name}, on which the paper says nothing"
        if request.start
        else ""
    )
    smaller = [*request.scale.smaller(FULL[request.figure]), from_weights]
    document = StrategyFigure(
        cloven=metadata.version("cloven"),
        figure=request.figure,
        title=FIGURES[request.figure],
        scale=request.scale,
        smaller=tuple(filter(None, smaller)),
        data=tuple(describe(*originals(spec)) for spec in request.data),
        controls={row.control: CONTROLS[row.control] for row in rows if row.control in CONTROLS},
        panels=tuple(rows),
        bars=tuple(bar.row() for bar in found),
        claims=all_judged(found),
        progress=FigureProgress(
            bars=len(found),
            planned_bars=sum(map(len, parts.values())),
            cells=done,
            planned_cells=cells,
        ),
        notes=LEFT_OPEN,
        seconds=round(time.perf_counter() - start, 1),
    )
    return keep(out, document, found)


def train(whose: Iterable[Subject], jobs: int, progress: Progress) -> None:
    """Train the CNNs of several studies in parallel, each on one thread, and cache them for the studies."""
    anyone = (replace(who, auxiliary=SAME, queries=2, victims=1) for who in whose if is_trained_here(who))
    left = sorted(dict.fromkeys(anyone), key=lambda who: prod(who.shape or ()), reverse=True)  # the longest first
    if min(jobs, len(left)) > 1:
        progress("training the CNNs", 0, len(left))
        for done, _ in enumerate(side_by_side(_trained, left, len(left), jobs=jobs), 1):
            progress("training the CNNs", done, len(left))


def _trained(whose: Sequence[Subject], index: int) -> None:
    who = whose[index]
    cnn(who, load_images(who), lambda *_: None)


def _refuse_changed(every: Sequence[FigureStudy], out: Path) -> None:
    """Raise an error if the folder of a study that has begun is of other settings or images."""
    begun = [panel for panel in every if (out / panel.name / CONFIG).exists()]
    for subject in dict.fromkeys(panel.study.subject for panel in begun):
        images = load_images(subject)
        for panel in (panel for panel in begun if panel.study.subject == subject):
            with opened(out / panel.name, pipeline.configuration(panel.study, images.sets)):
                pass


def _panel(panel: FigureStudy, summary: Summary) -> StudyRow:
    plans = [
        DividedModel(
            title=program.title,
            devices=program.devices,
            exact=program.exact,
            accuracy=program.accuracy,
            agreement=program.agreement,
        )
        for program in summary.programs
    ]
    verdict = summary.verdict
    return StudyRow(
        name=panel.name,
        control=panel.control,
        plans=tuple(plans),
        attack_seconds=round(sum(row.wall_seconds for row in summary.findings), 1),
        model=summary.model,
        data=summary.data,
        auxiliary=summary.auxiliary,
        model_accuracy=summary.model_accuracy,
        model_kappa=summary.model_kappa,
        test_images=summary.test_images,
        classes=summary.classes,
        input=summary.input,
        settings=summary.settings,
        verdict=StudyVerdict(given=verdict.given, reason=verdict.reason, sentence=verdict.sentence),
        notes=summary.notes,
    )


# --- writing and reading a figure ---------------------------------------------------------------------------------


def keep(folder: Path, document: StrategyFigure, found: Iterable[StrategyBar]) -> StrategyFigure:
    """Write a figure's document and the scores behind its bars; return the document with the scores' digest."""
    tensors = {}
    for bar in found:
        tensors[f"{bar.name}/agreement"] = bar.scores.to(torch.uint8).contiguous()
        tensors[f"{bar.name}/ssim"] = bar.ssim.to(torch.float32).contiguous()
    content = save(tensors)
    with replacing(folder / SCORES) as part:
        part.write_bytes(content)
    document = document.model_copy(update={"tensors_sha256": hashlib.sha256(content).hexdigest()})
    write_document(folder / FIGURE, document.model_dump(mode="json"))
    return document


def kept(folder: Path) -> list[StrategyBar]:
    """Read the bars of a figure from its folder.

    Raises:
        ClovenError: for a folder without a figure, or whose files were changed.
    """
    try:
        document = read_model(folder / FIGURE, StrategyFigure, AGAIN)
        if hashlib.sha256(read_bytes(folder / SCORES)).hexdigest() != document.tensors_sha256:
            raise ClovenError(f"{folder / SCORES} was edited or damaged; {AGAIN}")
        _, tensors = read_tensors(folder / SCORES, "pt")
        return [_bar(row, document, tensors) for row in document.bars]
    except (ClovenError, KeyError) as error:
        reason = error.problems[0] if isinstance(error, ClovenError) else f"no scores are named {error}"
        raise ClovenError(
            f"{folder} does not contain a figure that can be read ({reason}); give a folder written by "
            "cloven reproduce s1 --figure"
        ) from error


def made_at(folders: Iterable[Path], scale: str) -> dict[Path, list[StrategyBar]]:
    """Return the bars of all figures of a scale, by folder.

    Raises:
        ClovenError: if no folder has a figure of this scale, or two folders have the same figure.
    """
    broken, chosen = [], {}
    for path in (folder for folder in folders if (folder / FIGURE).exists()):
        document = read_json(path / FIGURE)
        made, size = document.get("figure"), document.get("scale", {})
        if not isinstance(made, str) or not isinstance(size, dict):
            broken.append(f"{path / FIGURE} is not a figure of cloven reproduce; move it away")
        elif size.get("name") == scale:
            chosen[path] = made
    if broken:
        raise ClovenError(broken)
    if not chosen:
        raise ClovenError(
            f"there is no figure at scale {scale}; reproduce some first: cloven reproduce s1 --figure 5c ..."
        )
    for figure in dict.fromkeys(chosen.values()):
        same = [str(path) for path, name in chosen.items() if name == figure]
        if len(same) > 1:
            raise ClovenError(
                f"{' and '.join(same)} are both figure {figure} at scale {scale}; give one with --out"
            )
    return {path: kept(path) for path in chosen}


def _bar(row: BarRow, document: StrategyFigure, tensors: Mapping[str, torch.Tensor]) -> StrategyBar:
    return StrategyBar(
        document.figure,
        row.model,
        row.data,
        row.control,
        row.strategy,
        row.layer,
        row.devices,
        row.where,
        row.victims,
        row.kappa,
        tensors[f"{row.name}/agreement"].double(),
        tensors[f"{row.name}/ssim"].double(),
        (row.baselines.agreement, row.baselines.ssim),
        row.crosses,
        document.scale,
    )
