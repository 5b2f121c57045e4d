"""Which observations an audit looks at: for each strategy and layer, what the paper counts and what links carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cloven.attacks.layers import Chain
from cloven.graph.box import Shape
from cloven.partition.data import tiles
from cloven.partition.observe import Observation, View, seen_on, slices_of, tiles_of
from cloven.partition.program import Link, Program

ChainFor = Callable[[str, Shape, Shape], Chain | None]
"""The decoder for a layer (``input`` for a tile), a captured shape and an image's, or None for the stated rule."""


@dataclass(frozen=True, eq=False)
class Target:
    """A program to audit, and what to call it: strategy ``vertical``, ``horizontal`` or ``data``.

    ``transform`` is what its links do to numbers, in a word; ``recorded`` names the run in which what crosses is
    recorded, where the graph alone does not say it.
    """

    strategy: str
    title: str
    program: Program
    grid: tuple[int, int] | None = None
    transform: str = "none"
    recorded: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """One observation of one target. Equal observations are attacked once, whatever cases they stand for."""

    target: Target
    label: str
    layers: tuple[str, ...]
    observation: Observation

    @property
    def name(self) -> str:
        """What is equal for equal observations."""
        return f"{self.target.recorded}{self.observation.fingerprint}"[:32]


@dataclass(frozen=True)
class Where:
    """Where to listen: layers that a paper counts (path -> label), views, links, and links whose taps collude."""

    layers: Mapping[str, str]
    views: Sequence[View] = ("paper", "full")
    every_link: bool = False
    colluding: tuple[tuple[Link, ...], ...] = ()


def cases(targets: Sequence[Target], where: Where) -> list[Case]:
    """Every slice and every tile that the paper counts, all that links carry, and all that taps put together.

    What a paper counts but no link carries cannot be recorded: of programs with transforms it is left out.
    """
    found: list[Case] = []
    for target in targets:
        if "paper" in where.views and not target.recorded:
            found += [Case(target, label, names, seen) for label, names, seen in _counted(target, where.layers)]
        if "full" in where.views:
            found += [_tapped(target, [link]) for link in _links(target.program, every=where.every_link)]
        found += [_tapped(target, group) for group in where.colluding]
    return found


def _links(program: Program, *, every: bool) -> list[Link]:
    first = set(program.devices[:2])
    return [link for link in program.links if every or set(link) == first]


def _tapped(target: Target, links: Sequence[Link]) -> Case:
    seen = seen_on(target.program, *links)
    label = "All on a link" if len(seen.links) == 1 else f"{len(seen.links)} links together"
    return Case(target, label, tuple(dict.fromkeys(s.value for s in seen.seen)), seen)


def _counted(target: Target, layers: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...], Observation]]:
    program = target.program
    if target.grid is not None:
        image = program.graph.input
        for seen in tiles_of(program, tiles(image.shape, target.grid)):
            yield "Input tile", (image.name,), seen
        return
    for path, label in layers.items():
        for seen in slices_of(program, path):
            yield label, (path,), seen


def layer_of(seen: Observation, layers: Iterable[str]) -> str | None:
    """The layer whose value an observation is a share of, ``input`` for the image; None for several or others."""
    if len(seen.seen) != 1:
        return None
    graph, value = seen.graph, seen.seen[0].value
    names = {graph.find(path): path for path in layers} | {graph.input.name: graph.input.name}
    return names.get(value)
