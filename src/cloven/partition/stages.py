"""Strategies in sequence: tiles, then channels; or channels inside one part of a pipeline.

These are the hybrids of Mehrafrooz et al. (2025), Section 6. Layers after the last stage's ``until`` run on the
first device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from cloven.errors import ClovenError
from cloven.partition.division import Placed, Placement, Stretch, everything
from cloven.partition.strategy import Strategy


@dataclass(frozen=True)
class Stages:
    """Strategies in the order of the model's layers, for devices with ``names``."""

    strategies: tuple[Strategy, ...]
    names: tuple[str, ...]

    def problems(self, stretch: Stretch) -> list[str]:
        """Return the problems: stages out of order, without an end or with wrong devices; each stage's own."""
        found = [] if self.strategies else ["no strategy is given; expected one or more"]
        ends: list[tuple[str, int]] = []
        for number, strategy in enumerate(self.strategies, start=1):
            if strategy.until is None and number < len(self.strategies):
                found.append(
                    f"stage {number} is followed by another stage and has no end; name its last layer: until"
                )
            elif strategy.until is not None:
                try:
                    ends.append((strategy.until, stretch.graph.position[stretch.graph.find(strategy.until)]))
                except ClovenError as error:
                    found += error.problems
            if strategy.on is not None:
                found += self._wrong_devices(strategy.on, f"stage {number}", strategy.count(len(strategy.on)))
        for (before, a), (after, b) in pairwise(ends):
            if a >= b:
                found.append(f"{after!r} does not come after {before!r}; give stages in the model's order")
        if found:
            return found
        return [problem for strategy, part in self._parts(stretch) for problem in strategy.problems(part)]

    def place(self, stretch: Stretch, before: Placement) -> Placed:
        """Return the owners of a model's values, stage by stage; there must be no `problems`."""
        placed, exact = Placed(stretch.graph, before, stretch.hub), True
        for strategy, part in self._parts(stretch):
            graph = placed.graph
            first, last = (graph.position[stretch.graph.ops[i].name] for i in (part.first - 1, part.last))
            placed = strategy.place(Stretch(graph, first + 1, last, part.devices), placed.owners)
            exact = exact and placed.exact
        rest = [op.name for op in placed.graph.ops if op.name not in placed.owners]
        if not rest:
            return replace(placed, exact=exact)
        owners = {**placed.owners, **{name: everything(placed.graph, name, stretch.hub) for name in rest}}
        return Placed(placed.graph, owners, stretch.hub, exact)

    def _wrong_devices(self, on: Sequence[str], stage: str, taken: int) -> Iterator[str]:
        for name in on:
            if name not in self.names:
                yield f"no device is named {name!r}; the plan has {', '.join(self.names)}"
        if len(set(on)) < len(on):
            yield f"{stage} names a device twice; expected each once"
        elif taken != len(on):
            yield f"{stage} takes {taken} devices; got {len(on)}"

    def _parts(self, stretch: Stretch) -> Iterator[tuple[Strategy, Stretch]]:
        """Yield each stage with its stretch."""
        graph, first = stretch.graph, stretch.first
        for strategy in self.strategies:
            last = stretch.last if strategy.until is None else graph.position[graph.find(strategy.until)]
            if strategy.on is not None:
                devices = tuple(stretch.devices[self.names.index(name)] for name in strategy.on)
            else:
                devices = stretch.devices[: strategy.count(len(stretch.devices))]
            if first <= last:
                yield strategy, Stretch(graph, first, last, devices)
            first = last + 1


def named_devices(strategies: Sequence[Strategy]) -> tuple[str, ...]:
    """Return the devices that the strategies name, in order of first use."""
    named: dict[str, None] = {}
    for strategy in strategies:
        named |= dict.fromkeys(strategy.on or ())
    return tuple(named)


def count(strategies: Sequence[Strategy], devices: int | None) -> int:
    """Return the number of devices that strategies take, given the requested number, if any."""
    if len(strategies) == 1 and strategies[0].on is None:
        return strategies[0].count(devices)
    taken = (strategy.count(devices) for strategy in strategies if strategy.on is None)
    return max([devices or 1, *taken])
