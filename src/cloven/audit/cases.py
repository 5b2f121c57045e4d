"""Which observations an audit looks at: for each strategy and layer, what the paper counts and what links carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cloven.attack.layers import Chain
from cloven.audit.cell import Cell
from cloven.graph.box import Shape
from cloven.partition.data import tiles
from cloven.partition.observe import Observation, View, observe, slices_of, tiles_of
from cloven.partition.program import Program

ChainFor = Callable[[str, Shape, Shape], Chain | None]
"""The decoder for a layer (``input`` for a tile), a captured shape and an image's, or None for the stated rule."""


@dataclass(frozen=True, eq=False)
class Target:
    """A program to audit, and what to call it: strategy ``vertical``, ``horizontal`` or ``data``."""

    strategy: str
    title: str
    program: Program
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One observation of one target. Cells with equal keys are run once, whatever cases they stand for."""

    target: Target
    label: str
    layers: tuple[str, ...]
    cell: Cell


def cases(
    targets: Sequence[Target],
    layers: Mapping[str, str],
    views: Sequence[View],
    make: Callable[[Observation], Cell],
    *,
    every_link: bool,
) -> list[Case]:
    """Every slice and every tile that the paper counts, and all that links carry.

    Args:
        targets: the programs.
        layers: the layers that the paper listens at, path -> label.
        views: which of the two views.
        make: the cell for an observation.
        every_link: in the full view, every link that carries anything; else those between the first two devices.
    """
    found: list[Case] = []
    for target in targets:
        if "paper" in views:
            found += [Case(target, label, names, make(seen)) for label, names, seen in _counted(target, layers)]
        if "full" in views:
            tapped = [link for link in target.program.links if every_link or set(link) == _first(target.program)]
            observations = [observe(target.program, link) for link in tapped]
            found += [
                Case(target, "All on a link", tuple(dict.fromkeys(s.value for s in seen.seen)), make(seen))
                for seen in observations
            ]
    return found


def _first(program: Program) -> set[str]:
    return set(program.devices[:2])


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
