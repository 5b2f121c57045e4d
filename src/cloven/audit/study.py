"""A study: one model on one data set, audited under several strategies, from loading to the summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from cloven.attack.decoder import Decoder
from cloven.audit.cases import Case, ChainFor, Target, cases, layer_of
from cloven.audit.cell import Cell
from cloven.audit.executor import Progress, run_missing
from cloven.audit.material import Material, prepare, refuse_overlap
from cloven.audit.plans import plans
from cloven.audit.store import SUMMARY, Store, opened, to_text
from cloven.audit.summary import NOT_MEASURED, SCHEMA, Expectation, context, orderings, row, verdict, versions
from cloven.errors import ClovenError
from cloven.files import write_text
from cloven.graph.box import Shape
from cloven.graph.capture import capture
from cloven.graph.graph import Graph
from cloven.partition import compiler
from cloven.partition.data import GRIDS, Data
from cloven.partition.division import Strategy
from cloven.partition.horizontal import Horizontal
from cloven.partition.observe import Observation, View
from cloven.partition.vertical import Vertical
from cloven.score.agreement import kappa
from cloven.score.similarity import CONVENTION
from cloven.zoo.datasets import load
from cloven.zoo.images import Images, split
from cloven.zoo.models import MODELS, build, unknown
from cloven.zoo.training import EPOCHS, accuracy, trained

Made = TypeVar("Made")
STRATEGIES = ("vertical", "horizontal", "data")


@dataclass(frozen=True)
class Settings:
    """What to audit, with the names of papers already resolved."""

    model: str
    data: str
    auxiliary: str
    layers: Mapping[str, str]
    strategies: tuple[str, ...] = STRATEGIES
    devices: int = 4
    views: tuple[View, ...] = ("paper", "full")
    every_link: bool = False
    queries: int = 2000
    victims: int | None = None
    epochs: int = 10
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """The images of a study: S1's 80/10/10 split of the data set, and the attacker's own."""

    training: Images
    victims: Images
    auxiliary: Images

    @property
    def shape(self) -> Shape:
        """One image's shape."""
        return tuple(self.victims.pixels.shape[1:])


def wrong(settings: Settings) -> list[str]:
    """What cannot be meant about the settings, before any image is looked at."""
    problems = [
        f"no strategy is named {name!r}; choose from {', '.join(STRATEGIES)}"
        for name in settings.strategies
        if name not in STRATEGIES
    ]
    for name, value, least in (
        ("queries", settings.queries, 2),
        ("epochs", settings.epochs, 1),
        ("devices", settings.devices, 2),
        ("victims", settings.victims, 20),
    ):
        if value is not None and value < least:
            problems.append(f"{name} is {value}; expected {least} or more")
    if "data" in settings.strategies and settings.devices not in GRIDS:
        known = ", ".join(str(n) for n in GRIDS if n > 1)
        problems.append(f"{settings.devices} devices have no usual grid of tiles; choose from {known}")
    if settings.model not in MODELS:
        problems.append(unknown(settings.model))
    elif not settings.layers:
        problems.append(f"no layers of {settings.model} are named to listen at; give --layers, e.g. conv1,conv2")
    return problems


def load_images(settings: Settings) -> Loaded:
    """The images of a study.

    Raises:
        ClovenError: with all that is wrong with the settings and with both sets: one that cannot be read, has no
            labels, does not fit the model, or shares images with the other.
    """
    problems = wrong(settings)
    whole = attempt(lambda: labelled(settings.data), problems)
    shape: tuple[int, int, int] = whole.pixels.shape[1:] if whole is not None else ANY_SHAPE
    auxiliary = attempt(lambda: load(settings.auxiliary, shape=shape, limit=max(settings.queries, 2)), problems)
    if problems or whole is None or auxiliary is None:
        raise ClovenError(problems)
    build(settings.model, shape=shape, classes=len(whole.classes))
    training, _, test = split(whole, seed=settings.seed)
    victims = test if settings.victims is None else test.take(range(min(settings.victims, len(test))))
    refuse_overlap(auxiliary, victims)
    return Loaded(training, victims, auxiliary)


ANY_SHAPE = (3, 32, 32)
"""Auxiliary images are tried at this size where the data set's is not known."""


def labelled(data: str, shape: tuple[int, int, int] | None = None) -> Images:
    """A data set by its name, if it has labels."""
    whole = load(data, shape=shape)
    if whole.labels is None:
        raise ClovenError(f"{data} has no labels; the CNN cannot be trained: sort its images into folders")
    return whole


def attempt(read: Callable[[], Made], problems: list[str]) -> Made | None:
    """What is read, or None, with the reasons added to the problems."""
    try:
        return read()
    except ClovenError as error:
        problems += error.problems
        return None


def untrained(settings: Settings, shape: Shape, classes: int) -> Graph:
    """The model's graph before training: enough to find out what is wrong with a request."""
    model = build(settings.model, shape=(shape[0], shape[1], shape[2]), classes=classes)
    return capture(model, torch.zeros(1, *shape))


def targets(graph: Graph, settings: Settings) -> list[Target]:
    """The programs that a study audits, one a strategy; cuts are the layers that the paper listens at.

    Raises:
        ClovenError: with all that is wrong with the layers and devices for this model.
    """
    problems: list[str] = []
    found: list[Target] = []
    for name in settings.strategies:
        strategy, devices, grid = _strategy(name, settings)
        try:
            found.append(
                Target(name, _title(name, devices, grid), compiler.compile(graph, strategy, devices), grid)
            )
        except ClovenError as error:
            problems += [p for p in error.problems if p not in problems]
    if problems:
        raise ClovenError(problems)
    return found


def _strategy(name: str, settings: Settings) -> tuple[Strategy, int, tuple[int, int] | None]:
    if name == "vertical":
        return Vertical(tuple(settings.layers)), len(settings.layers) + 1, None
    if name == "horizontal":
        return Horizontal(), settings.devices, None
    grid = GRIDS[settings.devices]
    return Data(grid), settings.devices, grid


def _title(name: str, devices: int, grid: tuple[int, int] | None) -> str:
    how = {"vertical": "cut after the layers listened at", "horizontal": "by output channels"}
    return f"{name}, {how.get(name, f'a grid of {grid[0]}x{grid[1]} tiles' if grid else '')}, {devices} devices"


def cases_of(graph: Graph, settings: Settings, chain_for: ChainFor) -> list[Case]:
    """All observations of a study with the attack on each; ``chain_for`` gives a paper's decoder, if it has one."""

    def make(seen: Observation) -> Cell:
        layer = layer_of(seen, settings.layers)
        chain = chain_for(layer, seen.seen[0].shape, graph.input.shape) if layer is not None else None
        return Cell(seen, Decoder(epochs=settings.epochs, layers=chain), settings.seed)

    return cases(targets(graph, settings), settings.layers, settings.views, make, every_link=settings.every_link)


def listed(settings: Settings, chain_for: ChainFor) -> list[dict[str, Any]]:
    """The observations of a study as rows, before anything is trained or written.

    Raises:
        ClovenError: for settings or images that cannot be used.
    """
    images = load_images(settings)
    graph = untrained(settings, images.shape, len(images.victims.classes))
    return [context(case) for case in cases_of(graph, settings, chain_for)]


def execute(
    settings: Settings,
    chain_for: ChainFor,
    expected: Sequence[Expectation],
    notes: Callable[[Shape], Sequence[str]],
    *,
    out: Path,
    cache: Path,
    jobs: int,
    progress: Progress,
) -> dict[str, Any]:
    """Run a study, or go on with one: train or find the CNN, attack every cell, write ``summary.json``.

    Raises:
        ClovenError: for settings, images or a folder that cannot be used; then nothing is written.
    """
    start = time.perf_counter()
    images = load_images(settings)
    classes = len(images.victims.classes)
    cases_of(untrained(settings, images.shape, classes), settings, chain_for)  # all problems before any work
    store = opened(out, configuration(settings, images))
    model = trained(
        settings.model,
        images.training,
        epochs=EPOCHS,
        seed=settings.seed,
        cache=cache,
        on_epoch=lambda epoch, _: progress("training the CNN", epoch, EPOCHS),
    )
    graph = capture(model, torch.zeros(1, *images.shape))
    every = cases_of(graph, settings, chain_for)
    progress("computing what listeners see", 0, 1)
    material = prepare(
        graph,
        [case.cell.observation for case in every],
        auxiliary=images.auxiliary,
        victims=images.victims,
        domain=images.training,
    )
    progress("computing what listeners see", 1, 1)
    keys = [case.cell.key(material) for case in every]
    cells = dict(zip(keys, (case.cell for case in every), strict=True))
    run_missing(cells, material, store, jobs=jobs, progress=progress)
    summary = _summary(settings, images, material, every, keys, store, expected, notes(images.shape), jobs)
    summary["seconds"] = round(time.perf_counter() - start, 1)
    write_text(out / SUMMARY, to_text(summary))
    return summary


def _left_out(settings: Settings) -> list[str]:
    """What these settings leave unmeasured, besides what every audit does."""
    if "full" not in settings.views:
        return ["All that a link carries: only the shares that the paper counts were attacked (--view both)."]
    if not settings.every_link:
        return ["All that other links carry: of each plan the links between the first two devices (--links all)."]
    return []


def configuration(settings: Settings, images: Loaded) -> dict[str, Any]:
    """What makes two runs the same run: the settings without paths, and the images by their content."""
    return {
        "schema": SCHEMA,
        "model": settings.model,
        "data": images.training.name,
        "auxiliary": images.auxiliary.name,
        "layers": dict(settings.layers),
        "strategies": list(settings.strategies),
        "devices": settings.devices,
        "views": list(settings.views),
        "links": "all" if settings.every_link else "first",
        "queries": len(images.auxiliary),
        "victims": len(images.victims),
        "epochs": settings.epochs,
        "seed": settings.seed,
        "training": images.training.fingerprint(),
        "victim_images": images.victims.fingerprint(),
        "auxiliary_images": images.auxiliary.fingerprint(),
    }


def _summary(
    settings: Settings,
    images: Loaded,
    material: Material,
    every: Sequence[Case],
    keys: Sequence[str],
    store: Store,
    expected: Sequence[Expectation],
    notes: Sequence[str],
    jobs: int,
) -> dict[str, Any]:
    labels = torch.tensor(np.asarray(images.victims.labels))
    classes = material.tensors["classes"]
    model_kappa = kappa(classes, labels, len(images.victims.classes))
    findings = [row(context(case), store.cell(key), key) for case, key in zip(every, keys, strict=True)]
    return {
        "schema": SCHEMA,
        "cloven": metadata.version("cloven"),
        "model": settings.model,
        "data": images.training.name,
        "auxiliary": images.auxiliary.name,
        "model_accuracy": accuracy(classes, labels),
        "model_kappa": model_kappa,
        "test_images": len(images.victims),
        "classes": len(images.victims.classes),
        "input": list(images.shape),
        "seconds": 0.0,
        "versions": versions(jobs),
        "settings": {
            "queries": len(images.auxiliary),
            "epochs": settings.epochs,
            "seed": settings.seed,
            "devices": settings.devices,
            "training epochs": EPOCHS,
            "training images": len(images.training),
            "ssim": CONVENTION,
        },
        "attacker": _attacker(images),
        "verdict": verdict(model_kappa, findings),
        "plans": plans(material, every, labels),
        "findings": findings,
        "orderings": orderings(expected, every, keys, store, seed=settings.seed),
        "not_measured": [*NOT_MEASURED, *_left_out(settings)],
        "notes": list(notes),
    }


def _attacker(images: Loaded) -> dict[str, Any]:
    return {
        "sentence": f"A passive listener on one link, who first sends {len(images.auxiliary)} images of his own "
        f"({images.auxiliary.name}) as a user, records what crosses, and trains a decoder on the pairs "
        "(S1, Sect. 4).",
        "knows": ["the shapes of what crosses", "his own images and what they make cross", "the image size"],
        "does_not_know": ["the model, its layers and weights", "the victims' images"],
    }
