"""The programs that an audit simulates: of a plan or of each strategy, with each of the compared transforms."""

from __future__ import annotations

from collections.abc import Sequence

from cloven.auditing.cases import Target
from cloven.auditing.recording import name_of
from cloven.errors import ClovenError
from cloven.graph.graph import Graph
from cloven.partition import compiler
from cloven.partition import plan as plans
from cloven.partition.data import GRIDS, Data
from cloven.partition.horizontal import Horizontal
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.partition.strategy import Strategy
from cloven.partition.transform import NONE, Transform, Transforms
from cloven.partition.vertical import Vertical, further


def of_plan(graph: Graph, plan: Plan, defences: Sequence[Transform]) -> list[Target]:
    """Return the program of a plan; if there are transforms, one program for each, with the transform on all links.

    Raises:
        ClovenError: with every problem of the plan for this model.
    """
    changed = [Transforms(default=t) for t in defences] or [plan.transform]
    changed_plans = [plan.model_copy(update={"transform": t}) for t in changed]
    return [_target(_kind(one), one.title(), plans.compile(graph, one), None) for one in changed_plans]


def of_strategies(
    graph: Graph, names: Sequence[str], layers: Sequence[str], devices: int, defences: Sequence[Transform]
) -> list[Target]:
    """Return the programs of each strategy with each of the transforms.

    The vertical division is cut after each of ``layers``; if there are more devices, balanced cuts follow.

    Raises:
        ClovenError: with every problem of the layers and devices for this model.
    """
    problems: list[str] = []
    found: list[Target] = []
    for name in names:
        for transform in defences or (NONE,):
            try:
                strategy, count, grid = _strategy(graph, name, layers, devices)
                made = compiler.divide(graph, strategy, count, transforms=Transforms(default=transform))
                found.append(_target(name, _title(name, count, grid), made, grid))
            except ClovenError as error:
                problems += [p for p in error.problems if p not in problems]
    if problems:
        raise ClovenError(problems)
    return found


def _target(strategy: str, title: str, made: Program, grid: tuple[int, int] | None) -> Target:
    used = dict.fromkeys(transfer.transform.name for transfer in made.transfers)
    return Target(strategy, title, made, grid, ", ".join(used) or "none", name_of(made))


def _kind(plan: Plan) -> str:
    kinds = list(dict.fromkeys(spec.kind for spec in plan.stages))
    return kinds[0] if len(kinds) == 1 else "hybrid"


def _strategy(
    graph: Graph, name: str, layers: Sequence[str], devices: int
) -> tuple[Strategy, int, tuple[int, int] | None]:
    if name == "vertical":
        cuts = further(graph, layers, devices)
        return Vertical(cuts), len(cuts) + 1, None
    if name == "horizontal":
        return Horizontal(), devices, None
    grid = GRIDS[devices]
    return Data(grid), devices, grid


def _title(name: str, devices: int, grid: tuple[int, int] | None) -> str:
    how = {"vertical": "cut after the observed layers", "horizontal": "by output channels"}
    return f"{name}, {how.get(name, f'a grid of {grid[0]}x{grid[1]} tiles' if grid else '')}, {devices} devices"
