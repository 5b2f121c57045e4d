"""Proposals from a space that is too large to compare all of its divisions: NSGA-II, from the package pymoo.

It searches for divisions that no other beats on cost and on the predicted leakage of pixels and labels. Predictions
only choose what is compared: a division is recommended by what it was measured to leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray

from cloven.advising.alternatives import Alternative, Pricing
from cloven.advising.candidates import Candidate, Space, progress_of
from cloven.advising.leakage import LeakageLedger
from cloven.advising.limits import Limits
from cloven.errors import require
from cloven.partition.vertical import Vertical

POPULATION, GENERATIONS = 60, 25

UNKNOWN = 1e9
"""The objective of a division that does not fit the model, or whose cost is unknown."""

Genes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Proposals:
    """The genetic search: genes stand for a candidate, and candidates are compared by cost and predicted leakage.

    The genes are the number of devices, their assignment, the kind of strategy, a place for each cut, and the
    choice among the strategies of that kind.
    """

    space: Space
    pricing: Pricing
    ledger: LeakageLedger
    limits: Limits

    @cached_property
    def progress(self) -> dict[str, float]:
        """The share of the model's time until each op has run."""
        return progress_of(self.space.model, self.space.op_seconds.values())

    @cached_property
    def measured(self) -> list[tuple[float, float, float]]:
        """The observations whose leakage is known: the progress of the earliest value, and the leakages."""
        found = []
        for name, observation in self.ledger.observations.items():
            depths = [self.progress[seen.value] for seen in observation.seen if seen.value in self.progress]
            leaks = self.ledger.known[name]
            found += [(min(depths), leaks["pixels"].leakage, leaks["labels"].leakage)] if depths else []
        return sorted(found)

    def bounds(self) -> list[int]:
        """Return the number of values of each gene."""
        numbers = len(self.space.numbers)
        most = max(len(self.space.assignments(number)) for number in self.space.numbers)
        return [numbers, most, 3, *(len(self.space.places) for _ in self.space.numbers[1:]), 64]

    def candidate(self, genes: Genes) -> Candidate:
        """Return the candidate that genes stand for."""
        which, assignment, kind, *places, choice = (int(gene) for gene in genes)
        number = self.space.numbers[which]
        every = self.space.assignments(number)
        devices = every[assignment % len(every)]
        cuts = [cut.after for cut in self.space.places]
        if number == 1 or kind == 0:
            free = [place for place in range(len(cuts)) if place not in places]
            chosen = [*dict.fromkeys(places), *free][: number - 1]
            return Candidate((Vertical(cuts=tuple(cuts[place] for place in sorted(chosen))),), devices)
        listed = self.space.parallel(devices) if kind == 1 else self.space.hybrids(cuts[places[0]], devices)
        options = list(listed)
        return options[choice % len(options)]

    def objectives(self, genes: Genes) -> tuple[float, float, float]:
        """Return the cost of a candidate, and the predicted leakage of pixels and labels."""
        division = self.pricing.alternative(self.candidate(genes))
        if division is None or division.value == inf:
            return UNKNOWN, 1.0, 1.0
        return division.value, *self.predicted(division)

    def excess(self, genes: Genes) -> float:
        """Return by how much a candidate exceeds the limits on cost; not more than 0 if it meets them."""
        division = self.pricing.alternative(self.candidate(genes))
        if division is None:
            return UNKNOWN
        found = sum(one.relative for one in self.limits.exceeded_by(division))
        return found if isfinite(found) else UNKNOWN

    def predicted(self, division: Alternative) -> tuple[float, float]:
        """Return the predicted leakage of pixels and labels to devices that are not trusted.

        It depends on the earliest value that such a device receives: it is interpolated between the observations
        that were attacked. If there are none, pixels fade evenly with depth, and labels can be read everywhere.
        Links are not counted, since they can be encrypted.
        """
        devices = self.space.cluster.devices
        others = {name for name in division.candidate.devices if not devices[name].trusted}
        if not others:
            return 0.0, 0.0
        if division.source in others:
            return 1.0, 1.0
        earliest = min(self.received(division.candidate, name) for name in others)
        if not self.measured:
            return 1 - earliest, 1.0
        depths, pixels, labels = zip(*self.measured, strict=True)
        read = 1.0 if division.sink in others else float(np.interp(earliest, depths, labels))
        return float(np.interp(earliest, depths, pixels)), read

    def received(self, candidate: Candidate, device: str) -> float:
        """Return the share of the model's time before the first value that a device receives; 0 for the image."""
        first, part = candidate.strategies[0], candidate.devices.index(device)
        if not isinstance(first, Vertical) or part == 0:
            return 0.0
        return self.progress[first.cuts[part - 1] if first.cuts else first.until or ""]

    def run(self, seed: int = 0) -> list[Candidate]:
        """Return the candidates of all generations.

        Raises:
            ClovenError: if pymoo is not installed.
        """
        try:
            from pymoo.algorithms.moo.nsga2 import NSGA2
            from pymoo.operators.crossover.ux import UniformCrossover
            from pymoo.operators.mutation.pm import PM
            from pymoo.operators.repair.rounding import RoundingRepair
            from pymoo.operators.sampling.rnd import IntegerRandomSampling
            from pymoo.optimize import minimize
            from pymoo.problems.functional import FunctionalProblem
        except ImportError as error:
            raise require("search", error) from error
        seen: dict[tuple[int, ...], tuple[float, float, float]] = {}

        def objective(which: int, genes: Genes) -> float:
            key = tuple(int(gene) for gene in genes)
            if key not in seen:
                seen[key] = self.objectives(genes)
            return seen[key][which]

        bounds = self.bounds()
        problem = FunctionalProblem(
            len(bounds),
            [partial(objective, which) for which in range(3)],
            constr_ieq=[self.excess],
            xl=np.zeros(len(bounds)),
            xu=np.array(bounds) - 1,
            vtype=int,
        )
        algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=IntegerRandomSampling(),
            crossover=UniformCrossover(repair=RoundingRepair()),
            mutation=PM(vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed, verbose=False)
        return list(dict.fromkeys(self.candidate(np.array(key)) for key in seen))


def proposed(space: Space, pricing: Pricing, ledger: LeakageLedger, limits: Limits) -> Sequence[Candidate]:
    """Return the candidates that NSGA-II found in a space.

    Raises:
        ClovenError: if pymoo is not installed.
    """
    return Proposals(space, pricing, ledger, limits).run()
