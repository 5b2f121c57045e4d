"""Requests: the options of an audit as plain values, which are checked and turned into a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from cloven.attacks.trainer import Machine
from cloven.auditing.cases import Taps
from cloven.auditing.cell import Knows
from cloven.auditing.features import Precision
from cloven.auditing.paper import NO_PAPER, Paper
from cloven.auditing.settings import AuditSettings, Recording, Simulation, Study
from cloven.auditing.subject import AUTO, ModelTraining, Subject
from cloven.auditing.suite import AttackSuite
from cloven.errors import ClovenError, tried
from cloven.partition.observe import View
from cloven.partition.plan import Plan
from cloven.partition.program import Link
from cloven.partition.protection import pair
from cloven.partition.transform import Transform
from cloven.runtime.message_shapes import message_shapes
from cloven.zoo.datasets import has_windows
from cloven.zoo.models import MODELS
from cloven.zoo.named import is_own, usual

VIEWS: Mapping[str, tuple[View, ...]] = {"both": ("paper", "full"), "paper": ("paper",), "full": ("full",)}
LINKS = {"first": False, "all": True}
KNOWLEDGE: Mapping[str, Knows] = {"given": "shapes", "places": "places", "inferred": "inferred"}
ENCLAVE = ("enclave",)
"""The strategy that stands for vertical cuts: an enclave sends what a vertical division with the same cut sends."""

PHOTOS, IMAGES = 1000, 5000
"""The default numbers of auxiliary images: of photos, and of other data sets."""


@dataclass(frozen=True)
class AuditRequest:
    """The options of ``cloven audit`` as they are given; None and empty values stand for the defaults.

    ``layers`` are paths of modules, ``view`` is one of `VIEWS` and ``links`` one of `LINKS`. ``pairs`` is the
    folder of a recording. ``shape`` is the attacker's knowledge of shapes: one of `KNOWLEDGE`, or texts such as
    ``0=6x14x14``. ``disk`` is in gigabytes.
    """

    model: str
    data: str = "digits"
    auxiliary: str = "photos"
    attacks: tuple[str, ...] = ("decoder", "probe")
    strategies: tuple[str, ...] = ("vertical", "horizontal", "data")
    layers: tuple[str, ...] = ()
    devices: int = 4
    view: str | None = None
    links: str | None = None
    colluding: tuple[str, ...] = ()
    defences: tuple[str, ...] = ()
    pairs: Path | None = None
    shape: tuple[str, ...] = ()
    weights: Path | None = None
    input_size: tuple[int, int, int] | None = None
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    judge: str = AUTO
    mirror: bool = False
    queries: int | None = None
    victims: int | None = None
    epochs: int | None = None
    gan_epochs: int = 200
    seeds: int = 1
    curve: bool = False
    attack_seconds: float | None = None
    threshold: float = 0.2
    device: str = "cpu"
    autocast: str = "float32"
    features: str = "float32"
    disk: float = 4.0
    seed: int = 0


def study(request: AuditRequest, plan: Plan | None = None, paper: Paper = NO_PAPER) -> Study:
    """Return a request as a study: of a recording, of a plan, or of a model divided by each strategy.

    Args:
        request: the options; with a plan, ``model`` is ignored.
        plan: the division.
        paper: the paper whose layers are observed if the request names none, and which gives layers their labels.

    Raises:
        ClovenError: with every problem of the options.
    """
    problems: list[str] = []
    recorded = request.pairs is not None
    shapes = (tried(partial(message_shapes, request.shape), problems) or {}) if recorded else {}
    knows = _knows(request, problems) if not recorded else "numbers"
    if recorded and (shapes or request.shape == ("inferred",)):
        knows = "shapes" if shapes else "inferred"
    source: Simulation | Recording | None
    if request.pairs is not None:
        source = Recording(request.pairs, shapes, tuple(paper.layers))
    else:
        source = tried(partial(_simulation, request, plan, paper), problems)
    machine = tried(partial(Machine, request.device, request.autocast), problems)
    if request.features not in get_args(Precision):
        problems.append(f"--features is {request.features!r}; choose from {', '.join(get_args(Precision))}")
    if (request.mean is None) != (request.std is None):
        problems.append("--mean requires --std, and --std requires --mean")
    if problems or source is None or machine is None:
        raise ClovenError(problems)
    settings = AuditSettings(
        suite=AttackSuite(request.attacks, request.epochs, request.gan_epochs),
        knows=knows,
        seeds=tuple(range(request.seed, request.seed + request.seeds)),
        curve=request.curve,
        attack_seconds=request.attack_seconds,
        threshold=request.threshold,
        machine=machine,
        precision="float16" if request.features == "float16" else "float32",
        disk=int(request.disk * 10**9),
    )
    return Study(_subject(request, plan), source, settings)


def _subject(request: AuditRequest, plan: Plan | None) -> Subject:
    """Return the model and images of a request.

    The size of an image and the number of classes are those of the request, else those of the plan, else the
    defaults of a model with weights from a library, else None: those of the data set and of the model itself.
    No library has weights for windows of readings: its models without weights are trained on them.
    """
    model, weights = request.model, request.weights
    shape: tuple[int, int, int] | None = request.input_size
    classes = request.classes
    mean, std = request.mean, request.std
    if plan is not None:
        named = plan.named_model
        model, weights = named.name, Path(named.weights) if named.weights else None
        shape, classes = shape or named.input, classes or named.classes
        mean, std = mean or named.mean, std or named.std
    training = None
    of_library = model not in MODELS and not is_own(model)
    if of_library and weights is None and request.pairs is None and has_windows(request.data):
        training = ModelTraining(balanced=True)
    elif plan is None and request.pairs is None and (of_library or (model in MODELS and weights is not None)):
        known = usual(model)
        shape, classes = shape or known.shape, classes or known.classes
    queries = request.queries
    if queries is None and request.pairs is None:
        queries = PHOTOS if request.auxiliary == "photos" else IMAGES
    return Subject(
        model=model,
        data=request.data,
        auxiliary=request.auxiliary,
        queries=queries,
        victims=request.victims,
        weights=weights,
        training=training,
        shape=shape,
        classes=classes,
        mean=mean,
        std=std,
        judge=request.judge,
        seed=request.seed,
        mirror=request.mirror,
    )


def _simulation(request: AuditRequest, plan: Plan | None, paper: Paper) -> Simulation:
    problems: list[str] = []
    strategies, devices, view, links = request.strategies, request.devices, request.view, request.links
    if strategies == ENCLAVE:
        if not request.layers:
            raise ClovenError(
                "--strategies enclave requires the layers to cut after; name them with --cuts, such as --cuts "
                "conv1,conv2, or --cuts s2 for those of Rajasekar et al. (2024)"
            )
        strategies, devices = ("vertical",), len(request.layers) + 1
        view, links = view or "full", links or "all"
    elif ENCLAVE[0] in strategies:
        problems.append("--strategies enclave excludes other strategies; audit them separately")
        strategies = tuple(name for name in strategies if name not in ENCLAVE)
    view, links = view or ("both" if plan is None else "full"), links or ("first" if plan is None else "all")
    for option, value, known in (("--view", view, list(VIEWS)), ("--links", links, list(LINKS))):
        if value not in known:
            problems.append(f"{option} is {value!r}; choose from {', '.join(known)}")
    if request.colluding and plan is None:
        problems.append("--colluding requires a plan, whose links it names; give a plan file instead of a model")
    groups = [tried(partial(colluding, text, plan.devices), problems) for text in request.colluding if plan]
    transforms = [tried(partial(Transform.parse, name), problems) for name in request.defences]
    if problems:
        raise ClovenError(problems)
    layers = {path: paper.layers.get(path, path) for path in request.layers} if request.layers else paper.layers
    return Simulation(
        taps=Taps(layers, VIEWS[view], LINKS[links], tuple(group for group in groups if group is not None)),
        plan=plan,
        strategies=strategies,
        devices=devices,
        defences=tuple(transform for transform in transforms if transform is not None),
    )


def colluding(text: str, devices: Sequence[str]) -> tuple[Link, ...]:
    """Return the links that a text such as ``edge0-edge1,edge1-edge2`` names, whose listeners collude.

    Raises:
        ClovenError: for a link between unknown devices, and for fewer than two links.
    """
    found: list[Link] = []
    for name in (part.strip() for part in text.split(",")):
        try:
            found += [pair(name, devices)] if name else []
        except ValueError as error:
            raise ClovenError(f"--colluding: {error}") from error
    if len(found) < 2:
        raise ClovenError(f"--colluding is {text!r}; expected two links or more, such as edge0-edge1,edge1-edge2")
    return tuple(found)


def _knows(request: AuditRequest, problems: list[str]) -> Knows:
    """Return the attacker's knowledge of the layout of simulated observations."""
    said = request.shape
    if len(said) > 1 or (said and said[0] not in KNOWLEDGE):
        problems.append(
            f"--shape is {' '.join(said)!r}; choose from {', '.join(KNOWLEDGE)} (others are for --pairs)"
        )
        return "shapes"
    return KNOWLEDGE[said[0]] if said else "shapes"
