"""Strategies one after another: tiles, then channels; or channels inside one part of a pipeline (S1, Sect. 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition.division import Placed, Placement, Strategy, Stretch
from cloven.partition.vertical import Vertical


@dataclass(frozen=True)
class Stage:
    """A strategy for the layers up to and with ``until`` (the model's end if left out), on some of the devices.

    ``devices`` are their numbers; left out, the first ones, as many as the strategy takes.
    """

    strategy: Strategy
    until: str | None = None
    devices: tuple[int, ...] | None = None

    def count(self, devices: int | None) -> int:
        """How many devices there must be."""
        return self.strategy.count(devices) if self.devices is None else max(self.devices, default=0) + 1

    def among(self, devices: tuple[int, ...]) -> tuple[int, ...]:
        """The stage's devices among those of the whole."""
        if self.devices is not None:
            return tuple(devices[i] for i in self.devices)
        return devices[: self.strategy.count(len(devices))]


@dataclass(frozen=True)
class Hybrid:
    """Stages in the model's order; what follows the last stage's ``until`` runs on the first device."""

    stages: tuple[Stage, ...]

    def count(self, devices: int | None) -> int:
        """As many as the stage that takes the most."""
        return max([devices or 1, *(stage.count(devices) for stage in self.stages)])

    def problems(self, stretch: Stretch) -> list[str]:
        """Stages out of order, without an end, without devices; and each stage's own problems."""
        found: list[str] = [] if self.stages else ["no stage is given; expected one strategy or more"]
        ends: list[tuple[str, int]] = []
        for number, stage in enumerate(self.stages, start=1):
            if stage.until is None and number < len(self.stages):
                found.append(f"stage {number} has no end: name its last layer (until), as another stage follows")
            elif stage.until is not None:
                try:
                    ends.append((stage.until, stretch.graph.position[stretch.graph.find(stage.until)]))
                except ClovenError as error:
                    found += error.problems
            missing = [i for i in stage.devices or () if not 0 <= i < len(stretch.devices)]
            taken = stage.strategy.count(None if stage.devices is None else len(stage.devices))
            if missing:
                found.append(f"stage {number} is for devices {missing}; there are {len(stretch.devices)}")
            elif len(set(stage.devices or ())) < len(stage.devices or ()):
                found.append(f"stage {number} names a device twice; expected each once")
            elif stage.devices is not None and taken != len(stage.devices):
                found.append(f"stage {number} takes {taken} devices; it is given {len(stage.devices)}")
        for (before, a), (after, b) in pairwise(ends):
            if a >= b:
                found.append(f"{after!r} does not come after {before!r}; give stages in the model's order")
        if found:
            return found
        return [problem for stage, part in self._parts(stretch) for problem in stage.strategy.problems(part)]

    def place(self, stretch: Stretch, before: Placement) -> Placed:
        """Each stage after the other."""
        placed, sink, exact = Placed(stretch.graph, before, stretch.hub), stretch.hub, True
        for stage, part in self._parts(stretch):
            graph = placed.graph
            first, last = (graph.position[stretch.graph.ops[i].name] for i in (part.first - 1, part.last))
            placed = stage.strategy.place(Stretch(graph, first + 1, last, part.devices), placed.owners)
            sink, exact = placed.sink, exact and placed.exact
        return Placed(placed.graph, placed.owners, sink, exact)

    def _parts(self, stretch: Stretch) -> Iterator[tuple[Stage, Stretch]]:
        """The stages with their stretches, the rest of the model among them."""
        graph: Graph = stretch.graph
        first = stretch.first
        rest = [Stage(Vertical(), devices=(0,))] if self.stages[-1].until is not None else []
        for stage in (*self.stages, *rest):
            last = stretch.last if stage.until is None else graph.position[graph.find(stage.until)]
            if first <= last:
                yield stage, Stretch(graph, first, last, stage.among(stretch.devices))
            first = last + 1
