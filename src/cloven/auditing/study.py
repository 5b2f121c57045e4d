"""A study: one model on one data set, divided in one or several ways, from loading to the summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from cloven.attacks.attack import Attack
from cloven.attacks.provenance import label_of
from cloven.attacks.tile_search import locate
from cloven.attacks.tiles import Paste
from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.cases import Case, ChainFor, Target, Where, cases, layer_of
from cloven.auditing.cell import Cell, Knows
from cloven.auditing.executor import Progress, run_missing
from cloven.auditing.features import BUDGET, Precision
from cloven.auditing.guessing import Guessed, guess
from cloven.auditing.ladder import OF_TILES, USUAL, Ladder
from cloven.auditing.material import Material, prepare
from cloven.auditing.paper import Paper
from cloven.auditing.plans import plans
from cloven.auditing.recording import record
from cloven.auditing.store import SUMMARY, Store, opened, write_document
from cloven.auditing.subject import (
    Loaded,
    Training,
    Who,
    is_trained_here,
    judge_of,
    labels_of,
    load_images,
    ready,
    untrained,
)
from cloven.auditing.summary import (
    SCHEMA,
    Result,
    context,
    not_measured,
    orderings,
    row,
    verdict,
    versions,
)
from cloven.auditing.targets import of_plan, of_strategies
from cloven.auditing.verdicts import curves, defences, verdicts
from cloven.graph.graph import Graph
from cloven.partition.data import GRIDS
from cloven.partition.plan import Plan
from cloven.partition.transform import Transform
from cloven.score.agreement import kappa
from cloven.score.similarity import CONVENTION
from cloven.zoo.models import MODELS, unknown
from cloven.zoo.training import accuracy

STRATEGIES = ("vertical", "horizontal", "data")
NOTHING: Mapping[str, Any] = {}
CURVE = (0.25, 0.5, 1.0)
"""The shares of the pairs that a learning curve is measured at."""


@dataclass(frozen=True)
class Settings:
    """What to audit, with the names of papers already resolved.

    Attributes:
        who: the model and the images.
        where: where to listen.
        plan: the one division to look at; left out, one for each of ``strategies``.
        strategies: which.
        devices: of horizontal and data partitioning.
        defences: transforms to compare, each put on all links; none: those of the plan.
        ladder: which attacks.
        knows: what the attacker knows of what he sees.
        seeds: how often each attack is trained.
        curve: whether attacks are also trained on fewer pairs.
        threshold: the SSIM above which an image counts as recognisable.
        machine: on what attacks are trained.
        precision: of the numbers that are captured.
        budget: bytes of them that are kept.
    """

    who: Who
    where: Where
    plan: Plan | None = None
    strategies: tuple[str, ...] = STRATEGIES
    devices: int = 4
    defences: tuple[Transform, ...] = ()
    ladder: Ladder = USUAL
    knows: Knows = "shapes"
    seeds: int = 1
    curve: bool = False
    threshold: float = 0.2
    machine: Machine = CPU
    precision: Precision = "float32"
    budget: int = BUDGET


@dataclass(frozen=True, eq=False)
class Entry:
    """One attack on one case with so many pairs: a cell a seed."""

    case: Case
    attack: Attack
    pairs: int
    cells: tuple[Cell, ...]


def wrong(settings: Settings) -> list[str]:
    """What cannot be meant about the settings, before any image is looked at."""
    problems = [
        f"no strategy is named {name!r}; choose from {', '.join(STRATEGIES)}"
        for name in settings.strategies
        if name not in STRATEGIES
    ]
    who = settings.who
    for name, value, least in (
        ("queries", who.queries, 2),
        ("devices", settings.devices, 2),
        ("victims", who.victims, 20),
        ("seeds", settings.seeds, 1),
    ):
        if value is not None and value < least:
            problems.append(f"{name} is {value}; expected {least} or more")
    problems += settings.ladder.problems()
    if not 0 < settings.threshold < 1:
        problems.append(f"threshold is {settings.threshold}; expected an SSIM between 0 and 1")
    if settings.knows == "inferred" and settings.defences:
        problems.append("shapes are inferred from float32 numbers; leave out the transforms, or --shape inferred")
    if settings.plan is None:
        problems += _wrong_model(settings)
    return problems


def _wrong_model(settings: Settings) -> Iterator[str]:
    who, name = settings.who, settings.who.model
    if "data" in settings.strategies and settings.devices not in GRIDS:
        known = ", ".join(str(n) for n in GRIDS if n > 1)
        yield f"{settings.devices} devices have no usual grid of tiles; choose from {known}"
    if who.training is not None and who.weights is not None:
        yield "a model with weights is not trained here; leave out one of the two"
    if ":" not in name and name not in MODELS:
        yield f"{unknown(name)}, torchvision:NAME, timm:NAME or package.module:factory"
    elif not settings.where.layers:
        yield f"no layers of {name} are named to listen at; give --layers, e.g. conv1,conv2"


def targets(graph: Graph, settings: Settings) -> list[Target]:
    """The programs that a study audits.

    Raises:
        ClovenError: with all that is wrong with the plan, or with the layers and devices for this model.
    """
    if settings.plan is not None:
        return of_plan(graph, settings.plan, settings.defences)
    layers = tuple(settings.where.layers)
    return of_strategies(graph, settings.strategies, layers, settings.devices, settings.defences)


def entries(
    every: Sequence[Case],
    settings: Settings,
    chain_for: ChainFor,
    guessed: Guessed = NOTHING,
    tiles: Mapping[str, bool] = NOTHING,
) -> list[Entry]:
    """All attacks on all cases.

    Args:
        every: the cases.
        settings: of the study.
        chain_for: gives a paper's decoder, if it has one.
        guessed: what captured bytes are taken for, by the name of the case.
        tiles: whether pieces of the image were found in what is captured, where that was looked at.
    """
    who, found = settings.who, []
    counts = [max(2, round(who.queries * share)) for share in (CURVE if settings.curve else (1.0,))]
    for case in every:
        seen = case.observation
        layer = layer_of(seen, settings.where.layers)
        chain = chain_for(layer, seen.seen[0].shape, seen.graph.input.shape) if layer is not None else None
        for attack in settings.ladder.on(
            seen, chain if settings.knows != "inferred" else None, tiles=tiles.get(case.name)
        ):
            for count in counts:
                cell = Cell(
                    seen, attack, who.seed, settings.knows, count, settings.machine, case.target.recorded,
                    guessed.get(case.name),
                )  # fmt: skip
                cells = tuple(replace(cell, seed=who.seed + i) for i in range(settings.seeds))
                found.append(Entry(case, attack, count, cells))
    return found


def _tiles(every: Sequence[Case], settings: Settings, material: Material) -> dict[str, bool]:
    """Whether a listener finds pieces of the image in what he captured, where there could be any."""
    if not OF_TILES & set(settings.ladder.names):
        return {}
    found = {}
    for case in every:
        if case.observation.raw_image:
            pairs = Cell(case.observation, Paste(), recorded=case.target.recorded).given(material).pairs
            found[case.name] = pairs is not None and bool(locate(pairs))
    return found


def loaded(settings: Settings) -> tuple[Settings, Loaded]:
    """The images of a study, and the settings with the number of auxiliary images that there are.

    Raises:
        ClovenError: with all that is wrong with the settings and the images.
    """
    images = load_images(settings.who, wrong(settings))
    return replace(settings, who=replace(settings.who, queries=len(images.auxiliary))), images


def listed(settings: Settings, paper: Paper) -> list[dict[str, Any]]:
    """The observations of a study as rows, with the attacks on each, before anything is trained or written.

    Raises:
        ClovenError: for settings or images that cannot be used.
    """
    settings, images = loaded(settings)
    every = cases(targets(untrained(settings.who, images), settings), settings.where)
    planned = entries(every, settings, paper.chain_for)
    found = []
    for case in every:
        labels = dict.fromkeys(label_of(entry.attack) for entry in planned if entry.case is case)
        found.append({**context(case), "attacks": list(labels)})
    return found


def execute(settings: Settings, paper: Paper, *, out: Path, jobs: int, progress: Progress) -> dict[str, Any]:
    """Run a study, or go on with one: train or find the CNN, attack every cell, write ``summary.json``.

    Raises:
        ClovenError: for settings, images or a folder that cannot be used; then nothing is written.
    """
    start = time.perf_counter()
    settings, images = loaded(settings)
    first = untrained(settings.who, images)  # all problems before any work
    entries(cases(targets(first, settings), settings.where), settings, paper.chain_for)
    with opened(out, configuration(settings, images)) as store:
        graph = ready(settings.who, images, progress) if is_trained_here(settings.who) else first
        return _attacked(settings, Subject(images, graph), paper, store, jobs=jobs, progress=progress, start=start)


@dataclass(frozen=True, eq=False)
class Subject:
    """What studies of one model on the same images share: those images, and the model as it is attacked."""

    images: Loaded
    graph: Graph


def subject_of(who: Who, progress: Progress) -> Subject:
    """The images and the model, trained or found; see `load_images` and `cloven.auditing.subject.ready`."""
    images = load_images(who, [])
    return Subject(images, ready(who, images, progress))


def studied(
    settings: Settings, subject: Subject, paper: Paper, *, out: Path, jobs: int, progress: Progress, start: float
) -> dict[str, Any]:
    """What `execute` does once images and model are at hand; ``start`` is when it began, in seconds."""
    settings = replace(settings, who=replace(settings.who, queries=len(subject.images.auxiliary)))
    with opened(out, configuration(settings, subject.images)) as store:
        return _attacked(settings, subject, paper, store, jobs=jobs, progress=progress, start=start)


def _attacked(
    settings: Settings, subject: Subject, paper: Paper, store: Store, *, jobs: int, progress: Progress, start: float
) -> dict[str, Any]:
    """Attack every cell that the store lacks, and write the summary."""
    images, graph = subject.images, subject.graph
    judge = judge_of(settings.who, images, progress)
    every = cases(targets(graph, settings), settings.where)
    with store.shelf() as shelf:
        progress("computing what listeners see", 0, 1)
        sets = [images.auxiliary.tensor(), images.victims.tensor()]
        recorded = record(every, sets, shelf.folder / "runs")
        material = prepare(
            graph, [case.observation for case in every if not case.target.recorded], auxiliary=images.auxiliary,
            victims=images.victims, domain=images.training, judge=judge, recorded=recorded, shelf=shelf,
            budget=settings.budget, precision=settings.precision, device=settings.machine.device,
        )  # fmt: skip
        guessed, shapes = guess(every, material) if settings.knows == "inferred" else ({}, None)
        progress("computing what listeners see", 1, 1)
        planned = entries(every, settings, paper.chain_for, guessed, _tiles(every, settings, material))
        results = [
            Result(entry.case, label_of(entry.attack), entry.pairs, tuple(c.key(material) for c in entry.cells))
            for entry in planned
        ]
        keyed = zip(planned, results, strict=True)
        keys = {key: cell for e, r in keyed for key, cell in zip(r.keys, e.cells, strict=True)}
        run_missing(keys, material, store, jobs=jobs, progress=progress)
        summary = _summary(settings, images, material, every, results, store, paper, jobs)
    summary |= {"shapes": shapes, "seconds": round(time.perf_counter() - start, 1)}
    return write_document(store.folder / SUMMARY, summary)


def configuration(settings: Settings, images: Loaded) -> dict[str, Any]:
    """What makes two runs the same run: the settings without paths, and the images by their content."""
    who, where = settings.who, settings.where
    plan = settings.plan.model_dump(mode="json", exclude={"model": {"weights"}}) if settings.plan else None
    return {
        "schema": SCHEMA,
        "model": who.model,
        "weights": who.weights.name if who.weights else None,
        "trained": _trained(who.training) if who.training else None,
        "plan": plan,
        "data": images.training.name,
        "auxiliary": images.auxiliary.name,
        "layers": dict(where.layers),
        "strategies": list(settings.strategies),
        "devices": settings.devices,
        "defences": [transform.name for transform in settings.defences],
        "views": list(where.views),
        "links": "all" if where.every_link else "first",
        "colluding": [["-".join(link) for link in group] for group in where.colluding],
        "attacks": list(settings.ladder.names),
        "knows": settings.knows,
        "queries": len(images.auxiliary),
        "victims": len(images.victims),
        "epochs": settings.ladder.epochs,
        "gan_epochs": settings.ladder.gan_epochs,
        "seed": who.seed,
        "seeds": settings.seeds,
        "curve": settings.curve,
        "mirror": who.mirror,
        "judge": who.judge.partition("=")[0],
        "threshold": settings.threshold,
        "device": settings.machine.device,
        "autocast": settings.machine.precision,
        "features": settings.precision,
        "training": images.training.fingerprint(),
        "victim_images": images.victims.fingerprint(),
        "auxiliary_images": images.auxiliary.fingerprint(),
    }


def _trained(how: Training) -> list[str | int | None]:
    return [how.epochs, how.images, how.device, *([how.start.name] if how.start else [])]


def _summary(
    settings: Settings,
    images: Loaded,
    material: Material,
    every: Sequence[Case],
    results: Sequence[Result],
    store: Store,
    paper: Paper,
    jobs: int,
) -> dict[str, Any]:
    labels, classes = labels_of(images.victims), material.tensors["classes"]
    model_kappa = kappa(classes, labels, images.classes) if labels is not None else None
    full = [result for result in results if result.pairs == settings.who.queries]
    rows = [row(context(r.case), r.attack, r.case.name, r.keys, store, settings.threshold) for r in full]
    curve = curves(results, store) if settings.curve else []
    found = verdicts(full, rows, curve, store)
    divided = plans(material, every, labels)
    return {
        "schema": SCHEMA,
        "cloven": metadata.version("cloven"),
        "model": settings.who.model,
        "data": images.training.name,
        "auxiliary": images.auxiliary.name,
        "model_accuracy": accuracy(classes, labels) if labels is not None else None,
        "model_kappa": model_kappa,
        "test_images": len(images.victims),
        "classes": images.classes,
        "input": list(images.shape),
        "seconds": 0.0,
        "versions": versions(jobs),
        "settings": _shown(settings, images),
        "judge": _judge(material, labels),
        "attacker": _attacker(settings, images),
        "verdict": verdict(model_kappa, rows, found),
        "plans": divided,
        "findings": rows,
        "verdicts": found,
        "curves": curve,
        "defences": defences(divided, every, found) if settings.defences else [],
        "orderings": orderings(paper.expected, full, store, seed=settings.who.seed),
        "not_measured": not_measured(settings.ladder.names, settings.where, settings.knows),
        "notes": list(paper.notes(images.shape)),
    }


def _shown(settings: Settings, images: Loaded) -> dict[str, Any]:
    who = settings.who
    how = who.training or Training()
    count = min(how.images or len(images.training), len(images.training))
    own = {"training epochs": how.epochs, "training images": count} if is_trained_here(who) else {}
    return {
        "queries": len(images.auxiliary),
        "attacks": ", ".join(settings.ladder.names),
        "epochs": settings.ladder.epochs or "each attack's own",
        "seed": who.seed,
        "seeds": settings.seeds,
        "devices": settings.devices,
        "weights": who.weights.name if who.weights else "trained here",
        **own,
        **({"training starts from": how.start.name} if how.start else {}),
        "threshold": settings.threshold,
        "ssim": CONVENTION,
    }


def _judge(material: Material, labels: Any) -> dict[str, Any] | None:
    if material.judge is None:
        return None
    right = accuracy(material.judge.classes, labels) if labels is not None else None
    return {"name": material.judge.name, "accuracy": right}


KNOWN: Mapping[Knows, str] = {
    "places": "the shapes of what crosses, and where in its layer it lies",
    "shapes": "the shapes of what crosses",
    "inferred": "the bytes that cross, from which he guesses their shapes",
    "numbers": "the numbers that cross, not their shapes",
}


def _attacker(settings: Settings, images: Loaded) -> dict[str, Any]:
    white = any(name.startswith("refine") for name in settings.ladder.names)
    many = bool(settings.where.colluding)
    weights = ["the model and its weights (refine alone)"] if white else []
    return {
        "sentence": f"A passive listener on one link{' or on several together' if many else ''}, who first sends "
        f"{len(images.auxiliary)} images of his own ({images.auxiliary.name}) as a user, records what crosses and "
        "what is answered, and trains on the pairs (S1, Sect. 4).",
        "knows": [KNOWN[settings.knows], "his own images, what they make cross and their answers",
                  "the image size", *weights],
        "does_not_know": [*([] if white else ["the model, its layers and weights"]), "the victims' images"],
    }  # fmt: skip
