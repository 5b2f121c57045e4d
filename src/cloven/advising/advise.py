"""Recommend a division: `cloven.advise`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from cloven.advising.advice import Advice
from cloven.advising.advice_report import SearchResult, report_of
from cloven.advising.alternatives import Alternative, Objective, Pricing
from cloven.advising.baselines import baselines
from cloven.advising.candidates import Candidate, space
from cloven.advising.genetic import proposed
from cloven.advising.leakage import FEWEST, SUITE, AttackImages, LeakageLedger
from cloven.advising.limits import Limits, unreachable
from cloven.advising.search import Budget, Measure, Search
from cloven.attacks.attack import Attack
from cloven.auditing.given import GivenImages
from cloven.auditing.results import Results
from cloven.auditing.suite import AttackSuite
from cloven.cost.cluster import Cluster
from cloven.errors import ClovenError, check_type, shown, tried, whole_number
from cloven.graph.graph import Graph
from cloven.partition.compiler import GRAPH
from cloven.progress import Progress
from cloven.tables import counted


def advise(
    model: Graph,
    cluster: Cluster,
    *,
    auxiliary: GivenImages,
    victims: GivenImages,
    limits: Limits | None = None,
    minimise: Objective = "latency",
    attacks: Attack | str | Sequence[Attack | str] = SUITE,
    budget: float = 600.0,
    results: Results | None = None,
    measure: Measure | None = None,
    jobs: int = 1,
    progress: Progress = lambda *_: None,
) -> Advice:
    """Return the division of a model over a cluster that meets the limits at the least cost.

    Vertical cuts, horizontal axes, tiles and hybrids over up to four devices are compared, with equal shares and
    with shares in proportion to the devices' speed, and with every assignment of devices. The exposed links with
    the coordinator are encrypted, since they carry the image and the answer. Another exposed link is encrypted if
    it leaks more than a limit allows, with the cheapest cipher that both of its devices have measured. A device
    that is not trusted reads everything that it receives, encrypted or not. The winner is attacked again with a
    fresh seed and fresh victims; if it then misses a limit, the search continues.

    Args:
        model: the graph that `cloven.capture` returned.
        cluster: the devices and links, with their profiles.
        auxiliary: the attacker's own images, as `cloven.audit` takes them.
        victims: the images that are attacked, likewise; at least 40.
        limits: what the plan may cost and leak.
        minimise: ``latency``, ``energy`` or ``traffic``; or ``throughput``, which is maximised.
        attacks: the attacks on every tap instead of the default suite, `cloven.advising.leakage.SUITE`.
        budget: seconds for attacks, half of which are for attacking the winner again. An attack that is cut short
            certifies nothing.
        results: an audit of the same model. Attacks of the suite are not repeated on the observations that it
            attacked with the same hyper-parameters; others are run. Give ``victims`` that it did not score.
        measure: executes a plan, for example in a laboratory, and returns the seconds of one image. Up to five of
            the best divisions by their estimated latency are executed, and the fastest is recommended.
        jobs: the number of worker processes of the attacks.
        progress: is called with the name of a stage, and the numbers of finished and of all steps.

    Raises:
        ClovenError: for arguments of another type or out of range, and for limits that no division can meet on the
            cluster.
    """
    check_type(model, Graph, "model", GRAPH)
    check_type(cluster, Cluster, "cluster", "cloven.Cluster.load('cluster.toml')")
    wanted = Limits() if limits is None else limits
    check_type(wanted, Limits, "limits", "cloven.Limits(latency=0.3)")
    problems: list[str] = []
    if minimise not in get_args(Objective):
        problems.append(f"minimise is {shown(minimise)}; expected one of {', '.join(get_args(Objective))}")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        problems.append(f"budget must be a number of seconds above 0, got {shown(budget)}")
    if len(victims) < FEWEST:
        problems.append(f"there are {len(victims)} victim images; expected at least {FEWEST}")
    if results is not None:
        problems += another_model(model, results)
    suite = AttackSuite(
        tuple(attacks) if isinstance(attacks, Sequence) and not isinstance(attacks, str) else (attacks,)
    )
    problems += suite.problems()
    processes = tried(lambda: whole_number(jobs, "jobs", 1), problems)
    if measure is not None and minimise != "latency":
        problems.append(f"measure requires minimise='latency', got {shown(minimise)}")
    problems += unreachable(wanted, minimise, cluster)
    if problems or processes is None:
        raise ClovenError(problems)
    ledger = LeakageLedger(suite.attacks, AttackImages(auxiliary, victims), processes)
    taken, of = (0, 0) if results is None else ledger.take(results, model)
    pricing = Pricing(model, cluster, minimise)
    listed = divisions(pricing, ledger, wanted, progress)
    search = Search(pricing, ledger, wanted, Budget(time.monotonic() + budget), progress, measure)
    winner, again = search.winner(listed.divisions)
    method = listed.method
    if results is not None:
        method += (
            f" The given audit has {counted(taken, 'attack')} of the suite on {counted(of, 'observation')}, which "
            "were not repeated."
        )
    report = report_of(SearchResult(search, listed.divisions, winner, again, listed.names, method))
    if winner is None:
        return Advice(report)
    return Advice(report, winner.plan, winner.program, again)


@dataclass(frozen=True, eq=False)
class ComparedDivisions:
    """The divisions that a search compares, the cheapest first, the names of some, and how they were found."""

    divisions: list[Alternative]
    names: dict[Candidate, list[str]]
    method: str


def divisions(pricing: Pricing, ledger: LeakageLedger, limits: Limits, progress: Progress) -> ComparedDivisions:
    """Return the divisions to compare: all of them, or of a space that is too large, those that are promising.

    Raises:
        ClovenError: if the space is too large, and pymoo is not installed.
    """
    names: dict[Candidate, list[str]] = {}
    for one in baselines(pricing.model, pricing.cluster):
        names.setdefault(one.candidate, []).append(one.name)
    whole, thinned = space(pricing.model, pricing.cluster)
    every = dict.fromkeys([*thinned.candidates(), *names])
    origin = ""
    if thinned is not whole:
        progress("searching with NSGA-II", 0, 1)
        more = proposed(whole, pricing, ledger, limits)
        progress("searching with NSGA-II", 1, 1)
        every |= dict.fromkeys(more)
        origin = (
            f" of about {whole.size:,}: those with {len(thinned.places)} of {len(whole.places)} cuts, and "
            f"{len(more):,} that NSGA-II proposed"
        )
    found: list[Alternative] = []
    for number, candidate in enumerate(every):
        if (division := pricing.alternative(candidate)) is not None:
            found.append(division)
        progress("comparing divisions", number + 1, len(every))
    found.sort(key=lambda one: (one.value, one.traffic))
    every_one = "" if origin else "All "
    return ComparedDivisions(found, names, f"{every_one}{len(found):,} divisions were compared{origin}.")


def another_model(model: Graph, results: Results) -> list[str]:
    """Return the problems of an audit of another model; one with other weights but equal layers is not noticed."""
    summary = results.summary
    (classes, *_) = model.by_name[model.output].shape
    found = []
    if tuple(summary.input) != tuple(model.input.shape):
        found.append(f"the audit is of a model for images of {summary.input}; the model takes {model.input.shape}")
    if summary.classes != classes:
        found.append(f"the audit is of a model of {summary.classes} classes; the model has {classes}")
    return found
