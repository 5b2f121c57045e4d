"""Compare the cost model with executed plans, and the advice for latency with the fastest plan that was executed.

    python -m benchmarks.cost --out FOLDER [--only TEXT] [--quick] [--minutes N] [--tables]

For each pair of a model and a cluster (`benchmarks/cost_settings.py`), the benchmark measures this machine and a
link of the laboratory, and chooses plans: the advised one, baselines and others. It executes each of them twice in
the laboratory, in alternating order, and measures the operators of each in between. The plans that beat the advised
one are executed twice more, and it as well.

It writes the tables of docs/estimate.md and docs/advise.md to ``FOLDER/cost.md`` and to standard output. Each
measurement is a file in the folder: a benchmark that was interrupted continues. ``--only`` takes the pairs whose
names contain a text, ``--quick`` the first one, ``--minutes`` begins no pair after that time, and ``--tables`` only
writes the tables again.

The benchmark requires root and two free cores. The exit code is 1 if a bound was missed.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

from benchmarks.cost_runs import Execution, HopTimes, executed, hops, link, message_cost, parts
from benchmarks.cost_settings import CLUSTERS, Chosen, Model, Surroundings, captured, chosen, names
from benchmarks.cost_tables import KINDS, OPERATORS, PlanResult, bounded, comparisons, tables
from benchmarks.measurement import Measurement, measured
from benchmarks.processes import wait_for_quiet
from cloven.cost.estimate import estimate
from cloven.cost.profile import ComputeCost, DeviceProfile, LinkProfile
from cloven.documents import Document, read_document
from cloven.files import write_text
from cloven.graph.graph import Graph
from cloven.partition import plan as plans
from cloven.partition.plan import Plan
from cloven.partition.program import Program
from cloven.runtime.bundle.reader import read
from cloven.runtime.device_profile import computing
from cloven.runtime.device_profile import measured as device_profile
from cloven.runtime.lab.lab_folder import BUNDLE

NAME = "cost"
ROUNDS = 2
"""The number of executions of each plan."""

MORE = 2
"""The number of further executions of the advised plan and of those that beat it."""

BEATEN = 3
"""The most plans that beat the advised one and are executed again."""

RUNS = 5
"""The number of runs of each segment in one measurement of a plan's operators."""

QUIET, PATIENCE = 0.3, 3.0
"""The number of cores busy with other processes above which an execution waits, and the most seconds to wait."""

Kind = TypeVar("Kind", bound=Document)


class ChosenPlans(Document):
    """The plans that are executed for a pair."""

    plans: tuple[Chosen, ...]


@dataclass(frozen=True)
class Pair:
    """A model, a cluster, their name and the folder of their measurements."""

    model: Model
    around: Surroundings
    name: str
    folder: Path

    @property
    def graph(self) -> Graph:
        """The captured model."""
        return captured(self.model)

    def once(self, kind: type[Kind], name: str, make: Callable[[], Kind]) -> Kind:
        """Return a document of the pair's folder; make and write it if there is none yet."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_text(path, make().text())
        return read_document(kind, path)


def profiles(pair: Pair, bundles: Path) -> tuple[DeviceProfile, LinkProfile]:
    """Return the profiles of this machine and of a link."""
    folder = pair.folder / "lab-hops"
    weights = sum(op.param_bytes for op in pair.graph.ops)
    unlimited_links = replace(pair.around, bandwidth=None, delay=0.0)
    unlimited = pair.once(HopTimes, "unlimited", lambda: hops(unlimited_links, weights, folder))
    limited = unlimited
    if pair.around.bandwidth is not None:
        limited = pair.once(HopTimes, "limited", lambda: hops(pair.around, weights, folder))
    device = profiled(pair, bundles).model_copy(update={"messages": message_cost(unlimited)})
    return device, link(unlimited, limited)


def profiled(pair: Pair, bundles: Path) -> DeviceProfile:
    """Return the profile of this machine, with the operators of a few divisions of the model."""
    return pair.once(
        DeviceProfile, "device", lambda: device_profile(parts(pair.model, bundles), "this machine", RUNS)
    )


def operators(pair: Pair, bundles: Path) -> ComputeCost:
    """Return the operators of the same divisions, one right after the other."""
    return pair.once(ComputeCost, "hot", lambda: computing(parts(pair.model, bundles), RUNS, cold=False))


def measure_pair(pair: Pair, bundles: Path, turn: int) -> None:
    """Make all measurements of a pair that are missing."""
    cluster = pair.around.cluster(*profiles(pair, bundles), operators(pair, bundles))
    taken = pair.once(
        ChosenPlans,
        "plans",
        lambda: ChosenPlans(plans=chosen(pair.graph, pair.model.spec, cluster, turn)),
    ).plans
    for number in range(ROUNDS):
        for one in taken if number % 2 == 0 else reversed(taken):
            run(pair, one, number)
    again = contenders(pair, taken)
    for number in range(ROUNDS, ROUNDS + MORE):
        for one in again if number % 2 == 0 else reversed(again):
            run(pair, one, number, profiling=False)
    pair.once(ChosenPlans, "done", lambda: ChosenPlans(plans=tuple(taken)))
    for one in taken:
        shutil.rmtree(lab(pair, one), ignore_errors=True)


def lab(pair: Pair, one: Chosen) -> Path:
    """Return the folder in which a plan is executed."""
    return pair.folder / f"lab-{one.number}"


def program_of(pair: Pair, one: Chosen) -> tuple[Plan, Program]:
    """Return a plan and its program."""
    plan = plans.parse(one.plan)
    return plan, plans.compile(pair.graph, plan)


def run(pair: Pair, one: Chosen, number: int, *, profiling: bool = True) -> None:
    """Execute a plan, and measure its operators right after it."""

    def execute() -> Execution:
        wait_for_quiet(QUIET, time.monotonic() + PATIENCE)
        found = executed(*program_of(pair, one), pair.around, lab(pair, one), one.estimated)
        words = f"{pair.name}: {one.title}: estimated {1000 * one.estimated:.2f} ms"
        print(f"{words}, executed {1000 * found.latency:.2f} ms ({found.others:.2f} cores busy)", file=sys.stderr)
        return found

    def measured_operators(*, cold: bool) -> ComputeCost:
        bundle = read(lab(pair, one) / BUNDLE)
        return computing([(part, bundle.place(name)) for name, part in bundle.parts.items()], RUNS, cold=cold)

    pair.once(Execution, f"plan-{one.number}-{number}", execute)
    if profiling:
        pair.once(ComputeCost, f"operators-{one.number}-{number}", lambda: measured_operators(cold=True))
        pair.once(ComputeCost, f"hot-{one.number}-{number}", lambda: measured_operators(cold=False))


def contenders(pair: Pair, taken: Sequence[Chosen]) -> list[Chosen]:
    """Return the advised plan and the fastest of those that beat it; nothing if no plan does."""
    latencies = {one.number: median(run.latency for run in executions(pair, one)) for one in taken}
    best, *others = taken
    faster = sorted(
        (o for o in others if latencies[o.number] < latencies[best.number]), key=lambda o: latencies[o.number]
    )
    return [best, *faster[:BEATEN]] if faster else []


def executions(pair: Pair, one: Chosen) -> list[Execution]:
    """Return the executions of a plan so far."""
    paths = [pair.folder / f"plan-{one.number}-{number}.json" for number in range(ROUNDS + MORE)]
    return [read_document(Execution, path) for path in paths if path.exists()]


def results(pair: Pair, bundles: Path) -> list[PlanResult]:
    """Return the executed plans of a pair, with the costs that the model estimates for them now."""
    if not (pair.folder / "done.json").exists():
        return []
    device, between = profiles(pair, bundles)
    others_hot = operators(pair, bundles)
    found = []
    for one in read_document(ChosenPlans, pair.folder / "plans.json").plans:
        own, own_hot = (
            merged(
                [read_document(ComputeCost, pair.folder / f"{kind}-{one.number}-{n}.json") for n in range(ROUNDS)]
            )
            for kind in ("operators", "hot")
        )
        known = device.model_copy(update={"compute": own})
        program = program_of(pair, one)[1]
        costs = {
            which: estimate(program, pair.around.cluster(profile, between, hot), window=1)
            for which, profile, hot in ((OPERATORS, known, own_hot), (KINDS, device, others_hot))
        }
        assert device.memory is not None
        runs = executions(pair, one)
        found.append(PlanResult(pair.name, pair.model.name, pair.around, one, runs, costs, device.memory.worker))
    return found


def merged(costs: Sequence[ComputeCost]) -> ComputeCost:
    """Return one table of all operators; an operator that occurs several times has its median."""
    rows = tuple(row for cost in costs for row in cost.operators)
    return costs[0].model_copy(update={"segment": median(cost.segment for cost in costs), "operators": rows})


@dataclass(frozen=True)
class Given:
    """The options: see the module."""

    out: Path
    only: str = ""
    quick: bool = False
    tables: bool = False
    minutes: float = math.inf


def all_results(given: Given) -> list[PlanResult]:
    """Make the measurements that are missing, and return the executed plans."""
    torch.set_num_threads(1)
    there = [(turn, *entry) for turn, entry in enumerate(names()) if given.only in entry[2]]
    taken: list[PlanResult] = []
    until = time.monotonic() + 60 * given.minutes
    for turn, model, cluster, name in there[:1] if given.quick else there:
        folder = given.out / name.replace(", ", "_").replace(" ", "-")
        pair = Pair(model, CLUSTERS[cluster], name, folder)
        bundles = given.out / "bundles" / f"{model.name.rpartition(':')[2]}-{model.pixels}"
        if not given.tables and time.monotonic() < until:
            start = time.monotonic()
            measure_pair(pair, bundles, turn)
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        taken += results(pair, bundles)
    return taken


def measure() -> Iterator[Measurement]:
    """Yield the errors of the cost model; the measurements are kept in ``runs/cost``."""
    taken = all_results(Given(Path("runs/cost")))
    limited = {True: ("100 mbit and less", 8.0), False: ("unlimited links", 12.0)}
    for is_limited, (words, goal) in limited.items():
        chosen = [r for r in taken if (r.around.bandwidth is not None if is_limited else bounded(r))]
        errors = [100 * abs(result.error(OPERATORS)) for result in chosen]
        yield measured(NAME, f"{words}: error of the latency of {len(errors)} plans", errors, "%", goal=goal)
    losses = [100 * one.loss(one.best) for one in comparisons(taken)]
    yield measured(NAME, f"advised plan, above the fastest of {len(losses)} pairs", losses, "%", goal=10)


def main() -> int:
    """Measure, write the tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--minutes", type=float, default=math.inf)
    given = Given(**vars(parser.parse_args()))
    text, missed = tables(all_results(given))
    write_text(given.out / "cost.md", text)
    print(text)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
