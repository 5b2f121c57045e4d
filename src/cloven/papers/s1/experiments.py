"""Figs. 5 and 6 as data: the studies behind each figure, and controls that the paper does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cloven.attacks.trainer import CPU, Machine
from cloven.auditing.cases import ChainFor, Taps
from cloven.auditing.paper import no_chain
from cloven.auditing.settings import AuditSettings, Simulation, Study
from cloven.auditing.subject import SAME, ModelTraining, Subject
from cloven.auditing.suite import AttackSuite
from cloven.papers.s1 import setup
from cloven.papers.s1.capacity import matched
from cloven.papers.s1.scales import StudyScale
from cloven.partition.plan import Plan

FIGURES: Mapping[str, str] = {
    "5a": "Fig. 5(a): MobileNet",
    "5b": "Fig. 5(b): ResNet-50",
    "5c": "Fig. 5(c): LeNet-5",
    "6": "Fig. 6: MobileNet on 2, 4 and 8 devices",
}
COUNTS = (2, 4, 8)
"""The numbers of devices in Fig. 6 (Sect. 5.2.4)."""

PAPER, EQUAL, DOMAIN, STRONG, LINKS, SIZE = (
    "as in the paper",
    "equal decoders",
    "in-domain images",
    "strong decoder",
    "all on a link",
    "twice the size",
)
CONTROLS: Mapping[str, str] = {
    EQUAL: "Table 2's decoders of whole layers, widened or narrowed so that all have about as many weights",
    DOMAIN: "auxiliary images come from the data set itself; none of them is a victim",
    STRONG: "a residual network over all scales instead of Table 2's decoders",
    SIZE: "the same model on images of twice the side, attacked by the strong decoder",
    LINKS: "all tensors on the first link (Fig. 6: in both directions) instead of the one in the paper, attacked "
    "by the strong decoder",
}
"""The controls; each varies one thing, and `PAPER` none."""


@dataclass(frozen=True, eq=False)
class FigureStudy:
    """One study of a figure: the name of its folder, its control, and the name of an unusual division, if any."""

    name: str
    control: str
    study: Study
    chain_for: ChainFor
    division: str = ""


@dataclass(frozen=True)
class Request:
    """A figure to reproduce: its data sets, scale and controls.

    ``data`` has a spec (``mnist:DIR``) for each data set; ``controls`` are names of `CONTROLS`.
    """

    figure: str
    data: tuple[str, ...]
    auxiliary: str
    scale: StudyScale
    controls: tuple[str, ...] = tuple(CONTROLS)
    machine: Machine = CPU
    disk: int = 4 * 10**9
    seed: int = 0
    start: Path | None = None
    """A file of weights from which the training of the CNNs starts."""


def panels(request: Request) -> list[FigureStudy]:
    """Return the studies of a figure: for each data set, those of the paper and those of the controls."""
    made = _of_devices if request.figure == "6" else _of_layers
    found: list[FigureStudy] = []
    for spec in request.data:
        found += made(request, spec)
    return found


def _of_devices(request: Request, spec: str) -> Iterator[FigureStudy]:
    """Return the studies of Fig. 6, on each number of devices: only Layer 2, or all tensors on a link."""
    kind, model = spec.partition(":")[0], request.scale.model
    usual = _study(request, spec)
    first = next(iter(setup.layers_of(model)))
    layers = {first: setup.layers_of(model)[first]}
    for count in COUNTS:
        own = _of(usual, devices=count, taps=Taps(layers, ("paper",)))
        yield FigureStudy(f"{kind}-{count}", PAPER, own, setup.decoder(model))
        strong = _strong(own, request)
        if STRONG in request.controls:
            yield FigureStudy(f"{kind}-{count}-strong", STRONG, strong, no_chain)
        if LINKS in request.controls:
            taps = Taps(layers, (), colluding=(WIRE,))
            yield from _links(f"{kind}-{count}", strong, taps, {"tiles": TILES, **hybrids(model)})


def _of_layers(request: Request, spec: str) -> Iterator[FigureStudy]:
    """Return the studies of Fig. 5: the paper's three layers, on four devices."""
    kind, model = spec.partition(":")[0], request.scale.model
    usual, paper = _study(request, spec), setup.decoder(model)
    yield FigureStudy(kind, PAPER, usual, paper)
    if EQUAL in request.controls:
        yield FigureStudy(f"{kind}-equal", EQUAL, _of(usual, strategies=("vertical",)), matched(model))
    if DOMAIN in request.controls:
        own = replace(usual, subject=replace(usual.subject, auxiliary=SAME))
        yield FigureStudy(f"{kind}-in-domain", DOMAIN, own, paper)
    strong = _strong(usual, request)
    if {STRONG, SIZE} & set(request.controls):
        yield FigureStudy(f"{kind}-strong", STRONG, strong, no_chain)
    channels, height, width = _image(request, kind)
    if SIZE in request.controls:  # compared with the strong decoder at the usual size
        subject = replace(strong.subject, shape=(channels, 2 * height, 2 * width))
        twice = replace(_of(strong, strategies=("vertical",)), subject=subject)
        yield FigureStudy(f"{kind}-twice", SIZE, twice, no_chain)
    if LINKS in request.controls:
        yield from _links(kind, strong, Taps(setup.layers_of(model), ("full",)), {"star": STAR, "tiles": TILES})


def _study(request: Request, spec: str) -> Study:
    scale = request.scale
    subject = Subject(
        model=scale.model,
        data=spec,
        auxiliary=request.auxiliary,
        queries=scale.queries,
        victims=scale.victims,
        judge="none",
        seed=request.seed,
        shape=_image(request, spec.partition(":")[0]),
        training=ModelTraining(scale.training, scale.images, request.machine.device, request.start),
    )
    settings = AuditSettings(
        suite=AttackSuite(("decoder",), scale.epochs),
        seeds=tuple(range(request.seed, request.seed + scale.seeds)),
        machine=request.machine,
        disk=request.disk,
    )
    return Study(
        subject, Simulation(Taps(setup.layers_of(scale.model), ("paper",)), devices=setup.DEVICES), settings
    )


def _of(study: Study, **changes: Any) -> Study:
    """Return a study with changes to its source, such as another strategy."""
    return replace(study, source=replace(study.source, **changes))


NATIVE: Mapping[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "digits": (1, 28, 28)}
"""The image shapes of LeNet-5 (Sect. 5.2) other than CIFAR-10's 3x32x32."""


def _image(request: Request, kind: str) -> tuple[int, int, int]:
    side = request.scale.side
    return (3, side, side) if side else NATIVE.get(kind, (3, 32, 32))


def _strong(study: Study, request: Request) -> Study:
    suite = AttackSuite(("residual",), request.scale.strong)
    return replace(study, settings=replace(study.settings, suite=suite))


Division = Mapping[str, object]
"""The entries of a plan that divide the model."""

STAR: Division = {"strategy": [{"kind": "horizontal"}], "routing": "star", "reuse": False}
"""The star of the paper's reference [10], whose links carry more than the paper counts."""

TILES: Division = {"strategy": [{"kind": "data"}]}
"""Exact tiles, which overlap, unlike those that the paper counts."""

WIRE = (("edge0", "edge1"), ("edge1", "edge0"))
"""Both directions between the first two devices, as one tap."""


def hybrids(model: str) -> dict[str, Division]:
    """Return the hybrid plans that the paper recommends (Sect. 6), by name, for a model in its experiments.

    Tiles up to the first of the paper's layers, where their margins are small, or the first device up to the second
    one; from there on, channels are divided.
    """
    first, second, _ = setup.layers_of(model)
    channels = {"kind": "horizontal"}
    return {
        "tiles-channels": {"strategy": [{"kind": "data", "until": first}, channels]},
        "early-together": {
            "strategy": [{"kind": "vertical", "cuts": [], "on": ["edge0"], "until": second}, channels]
        },
    }


def _links(name: str, strong: Study, taps: Taps, divisions: Mapping[str, Division]) -> Iterator[FigureStudy]:
    """Return the studies of all tensors at a tap: of the usual strategies, and of each other division."""
    full = _of(strong, taps=taps, strategies=("vertical", "horizontal"))
    yield FigureStudy(f"{name}-links", LINKS, full, no_chain)
    assert isinstance(full.source, Simulation)
    devices = [f"edge{i}" for i in range(full.source.devices)]
    model = {"name": strong.subject.model, "input": strong.subject.shape, "classes": CLASSES}
    for division, entries in divisions.items():
        plan = Plan.model_validate({"model": model, "devices": devices, **entries}, strict=False)
        own = _of(full, plan=plan, strategies=())
        yield FigureStudy(f"{name}-{division}", LINKS, own, no_chain, division)


CLASSES = 10
"""The class count of models that are only divided, as in plans; a study's model has the classes of its data set."""


def folder_of(figure: str, scale: str) -> Path:
    """Return the default folder of a figure."""
    return Path("runs") / f"s1-{figure}-{scale}"
