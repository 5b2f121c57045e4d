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
from cloven.graph.box import Shape
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
    LINKS: "all tensors on the first link instead of the one in the paper, attacked by the strong decoder",
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
    """Return the studies of Fig. 6: only Layer 2, on each number of devices."""
    kind, model = spec.partition(":")[0], request.scale.model
    usual = _study(request, spec)
    layers = dict(list(setup.layers_of(model).items())[:1])
    for count in COUNTS:
        own = _of(usual, devices=count, taps=Taps(layers, ("paper",)))
        yield FigureStudy(f"{kind}-{count}", PAPER, own, setup.decoder(model))
        if STRONG in request.controls:
            yield FigureStudy(f"{kind}-{count}-strong", STRONG, _strong(own, request), no_chain)


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
        yield from _links(kind, strong, (channels, height, width))


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


DIVISIONS: Mapping[str, Mapping[str, object]] = {
    "star": {"strategy": [{"kind": "horizontal"}], "routing": "star", "reuse": False},
    "tiles": {"strategy": [{"kind": "data"}]},
}
"""Divisions whose links carry more than the paper counts, as plans: the star of its reference [10]; exact tiles."""


def _links(kind: str, strong: Study, image: Shape) -> Iterator[FigureStudy]:
    """Return the studies of all tensors on the first link in both directions, also for `DIVISIONS`."""
    taps = Taps(setup.layers_of(strong.subject.model), ("full",))
    full = _of(strong, taps=taps, strategies=("vertical", "horizontal"))
    yield FigureStudy(f"{kind}-links", LINKS, full, no_chain)
    devices = [f"edge{i}" for i in range(setup.DEVICES)]
    model = {"name": strong.subject.model, "input": image, "classes": CLASSES}
    for name, division in DIVISIONS.items():
        plan = Plan.model_validate({"model": model, "devices": devices, **division}, strict=False)
        yield FigureStudy(f"{kind}-{name}", LINKS, _of(full, plan=plan, strategies=()), no_chain, name)


CLASSES = 10
"""The class count in plans; it is not used, since a study's model has the classes of its data set."""


def folder_of(figure: str, scale: str) -> Path:
    """Return the default folder of a figure."""
    return Path("runs") / f"s1-{figure}-{scale}"
