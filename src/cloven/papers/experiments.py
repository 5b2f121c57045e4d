"""S1's figures as data: which studies make each of them, and the controls that the paper lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cloven.attack.layers import Chain
from cloven.attack.train import CPU, Machine
from cloven.audit.cases import ChainFor, Where
from cloven.audit.ladder import Ladder
from cloven.audit.study import Settings
from cloven.audit.subject import SAME, Training, Who
from cloven.graph.box import Shape
from cloven.papers import s1
from cloven.papers.capacity import matched
from cloven.papers.scales import SCALES, Scale
from cloven.partition.plan import Plan

FIGURES: Mapping[str, str] = {
    "5a": "Fig. 5(a): MobileNet",
    "5b": "Fig. 5(b): ResNet-50",
    "5c": "Fig. 5(c): LeNet-5",
    "6": "Fig. 6: MobileNet on 2, 4 and 8 devices",
}
COUNTS = (2, 4, 8)
"""The devices of Fig. 6 (S1, Sect. 5.2.4)."""

PAPER, EQUAL, DOMAIN, STRONG, LINKS, SIZE = (
    "as S1 does it",
    "equal decoders",
    "in-domain images",
    "strong decoder",
    "all on a link",
    "twice the size",
)
CONTROLS: Mapping[str, str] = {
    EQUAL: "Table 2's decoders, made wider or narrower until all have about as many weights",
    DOMAIN: "auxiliary images are the data set's own, none of them a victim",
    STRONG: "a residual network over all scales instead of Table 2's decoders",
    SIZE: "the same model at images of twice the side, attacked by the strong decoder",
    LINKS: "not what S1 counts but all that the first link carries, by the strong decoder",
}
"""What is varied, one thing at a time; `PAPER` varies nothing."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One study of a figure: its folder, what it varies, and what is unusual about how it divides the model."""

    name: str
    control: str
    settings: Settings
    chain_for: ChainFor
    division: str = ""


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    ``data`` are specs (``mnist:DIR``), one a data set of the figure; ``controls`` are names of `CONTROLS`.
    """

    figure: str
    data: tuple[str, ...]
    auxiliary: str
    scale: Scale
    controls: tuple[str, ...] = tuple(CONTROLS)
    machine: Machine = CPU
    budget: int = 4 * 10**9
    seed: int = 0


def scale_of(figure: str, name: str) -> Scale:
    """The scale of a name for a figure."""
    return SCALES[name][figure]


def panels(request: Request) -> list[Panel]:
    """The studies of a figure: as S1 does it for each data set and number of devices, then the controls."""
    return [panel for spec in request.data for panel in _of_data(request, spec)]


def _of_data(request: Request, spec: str) -> Iterator[Panel]:
    kind, model = spec.partition(":")[0], request.scale.model
    usual, paper = _settings(request, spec), s1.decoder(model)
    if request.figure == "6":
        first = dict(list(s1.layers_of(model).items())[:1])
        for count in COUNTS:
            of_count = replace(usual, devices=count, where=replace(usual.where, layers=first))
            yield Panel(f"{kind}-{count}", PAPER, of_count, paper)
            if STRONG in request.controls:
                yield Panel(f"{kind}-{count}-strong", STRONG, _strong(of_count), _none)
        return
    yield Panel(kind, PAPER, usual, paper)
    makers: Mapping[str, Callable[[], Iterator[Panel]]] = {
        EQUAL: lambda: iter([Panel(f"{kind}-equal", EQUAL, usual, matched(model))]),
        DOMAIN: lambda: iter([Panel(f"{kind}-in-domain", DOMAIN, _same(usual), paper)]),
        STRONG: lambda: iter([Panel(f"{kind}-strong", STRONG, _strong(usual), _none)]),
        SIZE: lambda: _sizes(kind, usual),
        LINKS: lambda: _links(kind, usual),
    }
    for control in request.controls:
        yield from makers[control]()


def _settings(request: Request, spec: str) -> Settings:
    scale = request.scale
    who = Who(
        model=scale.model, data=spec, auxiliary=request.auxiliary, queries=scale.queries, victims=scale.victims,
        training=Training(scale.training, scale.images, request.machine.device), judge="none", seed=request.seed,
        shape=(3, scale.side, scale.side) if scale.side else None,
    )  # fmt: skip
    return Settings(
        who=who, where=Where(s1.layers_of(scale.model), ("paper",)), devices=s1.DEVICES,
        ladder=Ladder(("decoder",), scale.epochs), seeds=scale.seeds, machine=request.machine,
        budget=request.budget,
    )  # fmt: skip


def _none(_layer: str, _captured: Shape, _image: Shape) -> Chain | None:
    """No decoder of the paper's."""
    return None


def _strong(settings: Settings) -> Settings:
    return replace(settings, ladder=Ladder(("residual",), settings.ladder.epochs))


def _same(settings: Settings) -> Settings:
    return replace(settings, who=replace(settings.who, auxiliary=SAME))


def _sizes(kind: str, usual: Settings) -> Iterator[Panel]:
    """The same model at twice the side, vertical alone; its other size is in the control `STRONG`."""
    own = usual.who.shape or NATIVE.get(kind)
    if own is None:
        return
    shape = (own[0], 2 * own[1], 2 * own[2])
    strong = _strong(replace(usual, strategies=("vertical",), who=replace(usual.who, shape=shape)))
    yield Panel(f"{kind}-twice", SIZE, strong, _none)


NATIVE: Mapping[str, tuple[int, int, int]] = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 28, 28)}
"""The images of data sets that are taken as they are."""


def _links(kind: str, usual: Settings) -> Iterator[Panel]:
    """All that the first link carries: of S1's divisions, of the star of its reference [10], of exact tiles."""
    full = replace(
        _strong(usual), where=replace(usual.where, views=("full",)), strategies=("vertical", "horizontal")
    )
    yield Panel(f"{kind}-links", LINKS, full, _none)
    for name, document in DIVISIONS.items():
        made = Plan.model_validate(_planned(usual, document), strict=False)
        yield Panel(f"{kind}-{name}", LINKS, replace(full, plan=made, strategies=()), _none, name)


DIVISIONS: Mapping[str, Mapping[str, object]] = {
    "star": {"strategy": [{"kind": "horizontal"}], "routing": "star", "reuse": False},
    "tiles": {"strategy": [{"kind": "data"}]},
}
"""Divisions whose links carry more than S1 counts, as plans."""


def _planned(usual: Settings, document: Mapping[str, object]) -> dict[str, object]:
    who = usual.who
    model = {"name": who.model, "input": who.shape or (1, 28, 28), "classes": 10}
    return {"model": model, "devices": [f"edge{i}" for i in range(usual.devices)], **document}


def folder_of(figure: str, scale: str) -> Path:
    """Where a figure goes by default."""
    return Path("runs") / f"s1-{figure}-{scale}"
