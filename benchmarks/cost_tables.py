"""The tables of `benchmarks/cost.py`, computed from its measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from benchmarks.cost_runs import Execution
from benchmarks.cost_settings import Chosen, Surroundings
from cloven.cost.estimate import Cost

OPERATORS, KINDS = "operators of the plan", "operators of other divisions"
"""The content of the device's profile: the operators of the executed plan, or those of other divisions."""

SHORTEST = 5e-3
"""Plans with a shorter latency, in seconds, do not count for the bounds on unlimited links."""

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57}
"""The 97.5 % quantile of Student's distribution, by the number of pairs."""


@dataclass(frozen=True)
class PlanResult:
    """A plan that was executed: its pair, its executions, and its estimated costs by what the profile contains."""

    pair: str
    model: str
    around: Surroundings
    chosen: Chosen
    runs: Sequence[Execution]
    costs: dict[str, Cost]
    base: int

    @property
    def latency(self) -> float:
        """The median latency of all executions, in seconds."""
        return median(run.latency for run in self.runs)

    @property
    def spread(self) -> float:
        """The difference between the first two executions, relative to their mean."""
        first, second = (run.latency for run in self.runs[:2])
        return abs(first - second) / mean((first, second))

    def error(self, which: str) -> float:
        """Return the difference between the estimated and the executed latency, relative to the latter."""
        seconds = self.costs[which].latency
        assert seconds is not None
        return seconds / self.latency - 1

    def memory(self) -> Iterable[float]:
        """Yield the relative error of the memory of each device above the process's base."""
        needed = {device.device: device.memory for device in self.costs[OPERATORS].devices}
        for device in self.runs[0].memory:
            estimated = needed[device.device]
            assert estimated is not None
            yield (estimated - self.base) / (device.peak - self.base) - 1


def share(values: Sequence[float], bound: float) -> float:
    """Return the share of errors that are at most a bound."""
    return sum(abs(value) <= bound for value in values) / len(values)


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def milliseconds(result: PlanResult) -> str:
    """Return the latency of an executed plan."""
    return f"{1000 * result.latency:.2f}"


def percent(number: float) -> str:
    """Return a share in percent."""
    return f"{100 * number:.1f} %"


# --- the errors of the cost model -----------------------------------------------------------------------------

Group = tuple[str, Callable[[PlanResult], bool]]

GROUPS: Sequence[Group] = (
    ("100 mbit and less", lambda r: r.around.bandwidth is not None),
    ("unlimited", lambda r: r.around.bandwidth is None),
    ("unlimited, two devices at full speed, above 5 ms", lambda r: bounded(r)),
)


def bounded(result: PlanResult) -> bool:
    """Return whether the bounds on unlimited links apply to a plan."""
    return result.around.bandwidth is None and len(result.around.speeds) == 2 and result.latency > SHORTEST


def errors(results: Sequence[PlanResult]) -> list[str]:
    """Return the lines of the table of errors: by link, by strategy and by model."""
    lines = [
        row(
            "plans",
            "number",
            "repeatability",
            "error, operators of the plan",
            "within 10 %",
            "within 25 %",
            "error, operators of other divisions",
        ),
        row("---", *["--:"] * 6),
    ]
    groups = [(name, [result for result in results if belongs(result)]) for name, belongs in GROUPS]
    kinds, models = (dict.fromkeys(key(r) for r in results) for key in (_kind, _model))
    groups += [(kind, [result for result in results if _kind(result) == kind]) for kind in sorted(kinds)]
    groups += [(model, [result for result in results if _model(result) == model]) for model in models]
    for name, chosen in [*groups, ("all", list(results))]:
        if not chosen:
            continue
        found = [result.error(OPERATORS) for result in chosen]
        others = [result.error(KINDS) for result in chosen]
        lines.append(
            row(
                name,
                len(chosen),
                percent(median(result.spread for result in chosen)),
                percent(median(map(abs, found))),
                percent(share(found, 0.10)),
                percent(share(found, 0.25)),
                percent(median(map(abs, others))),
            )
        )
    return lines


def _kind(result: PlanResult) -> str:
    return result.chosen.kind


def _model(result: PlanResult) -> str:
    return result.model


@dataclass(frozen=True)
class Bound:
    """A bound of the benchmark: what was found, what was required, and whether it holds."""

    what: str
    found: str
    required: str
    holds: bool

    def line(self) -> str:
        """Return it as a row of a table."""
        return row(self.what, self.found, self.required, "yes" if self.holds else "**MISSED**")


def bounds(results: Sequence[PlanResult]) -> list[Bound]:
    """Return the bounds on the errors."""
    slow = [result.error(OPERATORS) for result in results if result.around.bandwidth is not None]
    fast = [result.error(OPERATORS) for result in results if bounded(result)]
    memory = [error for result in results for error in result.memory()]
    found = []

    def at_most(what: str, value: float, limit: float) -> None:
        found.append(Bound(what, percent(value), f"at most {100 * limit:g} %", value <= limit))

    def at_least(what: str, value: float, limit: float) -> None:
        found.append(Bound(what, percent(value), f"at least {100 * limit:g} %", value >= limit))

    if slow:
        at_most("100 mbit and less: median error", median(map(abs, slow)), 0.08)
        at_least("100 mbit and less: plans within 10 %", share(slow, 0.10), 0.90)
        at_least("100 mbit and less: plans within 25 %", share(slow, 0.25), 1.0)
    if fast:
        at_most("unlimited: median error", median(map(abs, fast)), 0.12)
        at_most("unlimited: median error, goal", median(map(abs, fast)), 0.06)
        at_least("unlimited: plans within 25 %", share(fast, 0.25), 0.80)
        at_least("unlimited: plans within 25 %, goal", share(fast, 0.25), 0.95)
    at_least("memory above the base: devices within 15 %", share(memory, 0.15), 1.0)
    found.append(Bound("executed plans", str(len(results)), "100 or more", len(results) >= 100))
    return found


# --- the advice -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """The advised plan of a pair compared with the fastest executed plan, and with the fastest baseline."""

    pair: str
    plans: int
    advised: PlanResult
    best: PlanResult
    baseline: PlanResult | None

    @property
    def is_beaten(self) -> bool:
        """True if the advised plan misses the bound."""
        return self.beaten(self.best) or self.beaten(self.baseline)

    def line(self) -> str:
        """Return it as a row of a table."""
        return row(
            self.pair,
            self.plans,
            self.advised.chosen.title,
            milliseconds(self.advised),
            "the same" if self.best is self.advised else self.best.chosen.title,
            milliseconds(self.best),
            "-" if self.baseline is None else self.baseline.chosen.name,
            "-" if self.baseline is None else milliseconds(self.baseline),
            self.loss_in_words,
            "**MISSED**" if self.is_beaten else "yes",
        )

    @property
    def loss_in_words(self) -> str:
        """The loss against the fastest plan, with its 95 % interval."""
        if self.best is self.advised:
            return "0 %"
        low, high = map(percent, self.interval(self.best))
        return f"{percent(self.loss(self.best))} ({low} to {high})"

    def beaten(self, other: PlanResult | None) -> bool:
        """Return whether another plan is faster by more than 10 %, beyond the interval of the paired runs."""
        return other is not None and self.loss(other) > 0.10 and self.interval(other)[0] > 0

    def loss(self, other: PlanResult) -> float:
        """Return how much longer the advised plan takes than another one, as a share."""
        return self.advised.latency / other.latency - 1

    def interval(self, other: PlanResult) -> tuple[float, float]:
        """Return the 95 % interval of the loss, from the executions that alternate."""
        logs = [math.log(a.latency / b.latency) for a, b in zip(self.advised.runs, other.runs, strict=False)]
        half = STUDENT[len(logs)] * stdev(logs) / math.sqrt(len(logs))
        return math.exp(mean(logs) - half) - 1, math.exp(mean(logs) + half) - 1


def comparisons(results: Sequence[PlanResult]) -> list[Comparison]:
    """Return the comparison of each pair."""
    found = []
    for pair in dict.fromkeys(result.pair for result in results):
        here = [result for result in results if result.pair == pair]
        advised = next(result for result in here if "advised" in result.chosen.names)
        named = [r for r in here if any(name != "advised" for name in r.chosen.names)]
        best = min(here, key=lambda result: result.latency)
        baseline = min(named, key=lambda result: result.latency, default=None)
        found.append(Comparison(pair, len(here), advised, best, baseline))
    return found


def advice(found: Sequence[Comparison]) -> list[str]:
    """Return the lines of the table of the pairs."""
    lines = [
        row(
            "model and cluster",
            "plans",
            "advised",
            "ms",
            "fastest",
            "ms",
            "fastest baseline",
            "ms",
            "loss",
            "holds",
        ),
        row("---", "--:", "---", "--:", "---", "--:", "---", "--:", "--:", "---"),
    ]
    return lines + [comparison.line() for comparison in found]


def tables(results: Sequence[PlanResult]) -> tuple[str, bool]:
    """Return all tables as Markdown, and whether a bound was missed."""
    found, pairs = bounds(results), comparisons(results)
    held = sum(not one.is_beaten for one in pairs)
    found.append(
        Bound(
            "pairs for which the advice holds",
            f"{held} of {len(pairs)}",
            "all, of 20 or more",
            held == len(pairs) >= 20,
        )
    )
    lines = ["### Errors of the latency", "", *errors(results), "", "### Bounds", ""]
    lines += [row("", "found", "required", "holds"), row("---", "--:", "--:", "---")]
    lines += [bound.line() for bound in found]
    lines += ["", "### Advised and fastest plans", "", *advice(pairs)]
    return "\n".join(lines) + "\n", not all(bound.holds for bound in found)
