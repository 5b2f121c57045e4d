"""Recommend a division: `cloven.advise`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import get_args

from cloven.advising.advice import Advice
from cloven.advising.advice_report import SearchResult, report_of
from cloven.advising.alternatives import Alternative, Objective, Pricing
from cloven.advising.baselines import baselines
from cloven.advising.candidates import Candidate, space
from cloven.advising.genetic import proposed
from cloven.advising.leakage import FEWEST, SUITE, AttackImages, LeakageLedger
from cloven.advising.limits import Limits, unreachable
from cloven.advising.search import Budget, Search
from cloven.attacks.attack import Attack
from cloven.attacks.registry import load
from cloven.auditing.given import GivenImages
from cloven.cost.cluster import Cluster
from cloven.errors import ClovenError, check_type, shown, whole_number
from cloven.graph.graph import Graph
from cloven.partition.compiler import GRAPH
from cloven.progress import Progress


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
        budget: seconds after which no further division is attacked.
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
    problems = []
    if minimise not in get_args(Objective):
        problems.append(f"minimise is {shown(minimise)}; expected one of {', '.join(get_args(Objective))}")
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not budget > 0:
        problems.append(f"budget must be a number of seconds above 0, got {shown(budget)}")
    if len(victims) < FEWEST:
        problems.append(f"there are {len(victims)} victim images; expected at least {FEWEST}")
    suite = tuple(attacks) if isinstance(attacks, list | tuple) else (attacks,)
    if not suite:
        problems.append("attacks is empty; give at least one attack")
    problems += unreachable(wanted, minimise, cluster)
    if problems:
        raise ClovenError(problems)
    ledger = LeakageLedger(
        tuple(load(attack) for attack in suite), AttackImages(auxiliary, victims), whole_number(jobs, "jobs", 1)
    )
    pricing = Pricing(model, cluster, minimise)
    names: dict[Candidate, list[str]] = {}
    for one in baselines(model, cluster):
        names.setdefault(one.candidate, []).append(one.name)
    whole, thinned = space(model, cluster)
    every = dict.fromkeys([*thinned.candidates(), *names])
    method = "All {:,} divisions were compared."
    if thinned is not whole:
        progress("searching with NSGA-II", 0, 1)
        found = proposed(whole, pricing, ledger, wanted)
        every |= dict.fromkeys(found)
        progress("searching with NSGA-II", 1, 1)
        method = (
            f"{{:,}} of about {whole.size:,} divisions were compared: those with {len(thinned.places)} of "
            f"{len(whole.places)} cuts, and {len(found):,} that NSGA-II proposed."
        )
    divisions: list[Alternative] = []
    for number, candidate in enumerate(every):
        if (division := pricing.alternative(candidate)) is not None:
            divisions.append(division)
        progress("comparing divisions", number + 1, len(every))
    divisions.sort(key=lambda one: (one.value, one.traffic))
    search = Search(pricing, ledger, wanted, Budget(time.monotonic() + budget), progress)
    winner, results = search.winner(divisions)
    report = report_of(SearchResult(search, divisions, winner, results, names, method.format(len(divisions))))
    if winner is None:
        return Advice(report)
    return Advice(report, winner.plan, winner.program, results)
