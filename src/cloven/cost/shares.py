"""Choose the shares of the devices by their costs: a fast device gets a large share of each layer.

CoEdge (Zeng et al., 2020) and MoDNN (Mao et al., 2017) divide layers in proportion to the speeds of the devices.
Here this is only the start of a search that also counts the time of the links, and the devices' memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from math import gcd, inf
from typing import Literal

from cloven.cost.cluster import Cluster
from cloven.cost.estimate import Estimator, operator_times
from cloven.cost.operators import work
from cloven.cost.tasks import Workload
from cloven.errors import ClovenError
from cloven.graph.box import whole
from cloven.graph.graph import Graph
from cloven.partition import plan as plans
from cloven.partition.data import Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.plan import Entry, Plan

Minimised = Literal["latency", "throughput"]

UNITS = 64
"""The shares are multiples of one in so many."""

STEPS = (8, 4, 2, 1)
"""The units that the search moves from one device to another, one size after another."""

Units = tuple[int, ...]
Score = tuple[float, float]
"""The bytes of memory that are missing on all devices, and the seconds of an image."""


def best_shares(graph: Graph, plan: Plan, cluster: Cluster, minimised: Minimised = "latency") -> Plan:
    """Return a plan with the shares of the least estimated cost among those that a search tries.

    The search begins with the better of equal shares and shares in proportion to the devices' speeds. It moves
    parts of the shares from one device to another as long as the estimate improves. A device may get nothing at
    all. Shares with which all devices have enough memory are always preferred.

    Args:
        graph: the model.
        plan: a plan with one strategy that takes shares.
        cluster: the devices and links of the plan, with their profiles.
        minimised: the seconds of a single image (``latency``), or the seconds for each image with a window of
            images in flight (``throughput``).

    Raises:
        ClovenError: if no strategy of the plan takes shares, or more than one; if a device or link is unknown or
            has no profile; or if devices lack memory with all shares that were tried.
    """
    place, divided = _divided(plan)
    devices = divided.on or plan.devices[: divided.count(len(plan.devices))]
    problems = cluster.missing(plan.devices)
    for name in devices:
        if name in cluster.devices and cluster.devices[name].profile is None:
            problems.append(f"{name} has no profile in the cluster; `cloven profile` measures one")
    if problems:
        raise ClovenError(problems)
    estimator, known = Estimator(cluster), dict[Units, Score]()

    def score(units: Units) -> Score:
        if units not in known:
            found = estimator.estimate(Workload.of(plans.compile(graph, _with_shares(plan, place, units))))
            if found.latency is None:
                raise ClovenError([f"the shares cannot be chosen: {unknown}" for unknown in found.notes.unknown])
            seconds = found.latency if minimised == "latency" else 1 / (found.throughput or inf)
            missing = sum(max(0, d.memory - d.available) for d in found.devices if d.memory and d.available)
            known[units] = missing, seconds
        return known[units]

    works = [work(graph, op.name, whole(op.shape)) for op in graph.ops[1:]]
    speeds = [1 / operator_times(cluster, name).total(works) for name in devices]
    best = min((_in_units([1.0] * len(devices)), _in_units(speeds)), key=score)
    for step in STEPS:
        while score(moved := min(_moves(best, step), key=score, default=best)) < score(best):
            best = moved
    if missing := score(best)[0]:
        raise ClovenError(
            f"the devices lack {missing:,.0f} bytes of memory with all shares that were tried; use more devices, "
            "or devices with more memory"
        )
    return _with_shares(plan, place, best)


def _divided(plan: Plan) -> tuple[int, Horizontal | Data]:
    """Return the only strategy of a plan that takes shares, and its place."""
    found = [(place, stage) for place, stage in enumerate(plan.stages) if isinstance(stage, Horizontal | Data)]
    if len(found) != 1:
        raise ClovenError(
            f"the plan has {len(found)} strategies that can have shares; expected one, horizontal or data"
        )
    stage = found[0][1]
    if isinstance(stage, Data) and stage.grid is not None and min(stage.grid) != 1:
        raise ClovenError(
            "shares of tiles require a grid with a single row or column, such as 1x3, got "
            f"{stage.grid[0]}x{stage.grid[1]}"
        )
    return found[0]


def _with_shares(plan: Plan, place: int, units: Units) -> Plan:
    """Return a plan with shares; equal ones are left out."""
    divisor = gcd(*units)
    shares = None if len(set(units)) == 1 else tuple(float(unit // divisor) for unit in units)
    stages: list[Entry] = list(plan.stages)
    stage = stages[place]
    assert isinstance(stage, Horizontal | Data)
    stages[place] = replace(stage, shares=shares)
    return plan.model_copy(update={"strategy": tuple(stages)})


def _in_units(proportions: Sequence[float]) -> Units:
    """Return proportions in units: equal ones are equal, others add up to ``UNITS``."""
    if len(set(proportions)) == 1:
        return (UNITS // len(proportions) or 1,) * len(proportions)
    exact = [UNITS * one / sum(proportions) for one in proportions]
    units = [int(one) for one in exact]
    for i in sorted(range(len(exact)), key=lambda i: units[i] - exact[i])[: UNITS - sum(units)]:
        units[i] += 1
    return tuple(units)


def _moves(units: Units, step: int) -> Iterator[Units]:
    """Yield the shares in which one device gives a number of units to another."""
    for giver, taker in permutations(range(len(units)), 2):
        if units[giver] >= step:
            moved = list(units)
            moved[giver] -= step
            moved[taker] += step
            yield tuple(moved)
