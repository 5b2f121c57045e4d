"""Cases: the observations of an audit and their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cloven.attacks.layers import Chain
from cloven.auditing.captured import Capture, Observed
from cloven.auditing.finding import GETS, ObservationContext, cut
from cloven.graph.box import Shape, text
from cloven.partition.data import tiles
from cloven.partition.observe import Observation, View, seen_on, slices_of, tiles_of
from cloven.partition.program import Link, Program

ChainFor = Callable[[str, Shape, Shape], Chain | None]
"""Returns a paper's decoder for a layer (``input`` for a tile), a captured shape and an image's shape.

None stands for the decoder that `cloven.attacks.layers.rule` makes.
"""


@dataclass(frozen=True, eq=False)
class Target:
    """A program that is audited, and its names: strategy ``vertical``, ``horizontal``, ``data``, ``captured``, ...

    ``program`` is None if it is unknown. ``transform`` names the transforms of its links. ``recorded`` names the
    run in which the transfers are recorded, where they cannot be computed from the graph.
    """

    strategy: str
    title: str
    program: Program | None
    grid: tuple[int, int] | None = None
    transform: str = "none"
    recorded: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """One observation of one target. Observations that are equal are attacked once, also if they are several cases.

    ``layer`` is the layer, of those that a paper names, whose output the observation is a share of; else None.
    """

    target: Target
    label: str
    layers: tuple[str, ...]
    observation: Observed
    layer: str | None = None

    @property
    def name(self) -> str:
        """A name that is equal for equal observations."""
        return f"{self.target.recorded}{self.observation.fingerprint}"[:32]

    @property
    def image(self) -> Shape:
        """The shape of one image."""
        seen = self.observation
        return seen.victims.shape if isinstance(seen, Capture) else seen.graph.input.shape

    @property
    def context(self) -> ObservationContext:
        """The part of a finding that is known before any attack."""
        seen, program = self.observation, self.target.program
        return ObservationContext(
            plan=self.target.title,
            strategy=self.target.strategy,
            devices=len(program.devices) if program is not None else None,
            link=seen.link,
            links=seen.links,
            transform=self.target.transform,
            view=seen.view,
            crosses=seen.crosses,
            layers=self.layers,
            label=self.label,
            seen=tuple(s.value for s in seen.seen),
            share=tuple(text(s.share) for s in seen.seen),
            raw_image=seen.raw_image,
            observation_bytes=seen.bytes,
            protection=seen.protection if isinstance(seen, Observation) else (),
        )


@dataclass(frozen=True)
class Taps:
    """The places to observe: layers that a paper counts (path -> label), views, links, and colluding groups."""

    layers: Mapping[str, str]
    views: Sequence[View] = ("paper", "full")
    every_link: bool = False
    colluding: tuple[tuple[Link, ...], ...] = ()


def cases(targets: Sequence[Target], taps: Taps) -> list[Case]:
    """Return the observations of some programs: paper view, full view of links, and colluding links.

    A share that a paper counts may not be sent over any link. It then cannot be recorded, and is left out of
    programs whose links transform what they carry.
    """
    found: list[Case] = []
    for target in targets:
        program = target.program
        if program is None:
            continue
        if "paper" in taps.views and not target.recorded:
            counted = _counted(target, program, taps.layers)
            found += [Case(target, label, names, seen) for label, names, seen in counted]
        if "full" in taps.views:
            found += [tapped(target, seen_on(program, one)) for one in _links(program, every=taps.every_link)]
        found += [tapped(target, seen_on(program, *group)) for group in taps.colluding]
    return [replace(case, layer=layer_of(case.observation, taps.layers)) for case in found]


def tapped(target: Target, seen: Observation) -> Case:
    """Return the observation of a tap as a case."""
    return Case(target, layer_label(seen), layers_of(seen), seen)


def layers_of(seen: Observation) -> tuple[str, ...]:
    """Return the layers whose outputs are observed, in order; other values have their own names."""
    return tuple(dict.fromkeys(seen.graph.layer_of(share.value) for share in seen.seen))


def layer_label(seen: Observation) -> str:
    """Return the label of an observation: ``After conv2``, ``2 links together``, ``All that edge1 gets``."""
    if seen.view == "paper":
        return seen.seen[0].value
    if seen.device is not None:
        return seen.device.join(GETS)
    if len(seen.links) != 1:
        return f"{len(seen.links)} links together"
    where = cut(layers_of(seen), share=0 < seen.raw_image < 1)
    return where[:1].upper() + where[1:]


def _links(program: Program, *, every: bool) -> list[Link]:
    first = set(program.devices[:2])
    return [link for link in program.links if every or set(link) == first]


def _counted(
    target: Target, program: Program, layers: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, ...], Observation]]:
    if target.grid is not None:
        image = program.graph.input
        for seen in tiles_of(program, tiles(image.shape, target.grid)):
            yield "Input tile", (image.name,), seen
        return
    for path, label in layers.items():
        for seen in slices_of(program, path):
            yield label, (path,), seen


def layer_of(seen: Observed, layers: Iterable[str]) -> str | None:
    """Return the layer whose output an observation is a share of, ``input`` for the image; None for others."""
    if not isinstance(seen, Observation) or len(seen.seen) != 1:
        return None
    graph, value = seen.graph, seen.seen[0].value
    names = {graph.find(path): path for path in layers} | {graph.input.name: graph.input.name}
    return names.get(value)
