"""No compiled program costs less than the advice, on small clusters whose links nobody can listen to."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations, product

import pytest
import torch

import cloven
from cloven.graph.cuts import cuts
from cloven.zoo.named import make
from tests.advising.test_advise import board, cluster, wire

SLOW_LINK, FAST_LINK, LITTLE_MEMORY = "slow link", "fast link", "little memory"


def small_cluster(kind: str, model: cloven.Graph) -> cloven.Cluster:
    """Return two devices; with little memory, the faster one has too little for the whole model."""
    weights = sum(parameter.nbytes for op in model.ops for parameter in op.params.values())
    if kind == SLOW_LINK:
        return cluster(wire(1e6, delay=1e-3), board(1e8), board(4e8), exposed=False)
    if kind == FAST_LINK:
        return cluster(wire(1e9), board(1e8), board(1e8), exposed=False)
    return cluster(wire(1e8), board(1e8, memory=2 * weights), board(3e8, memory=weights), exposed=False)


def strategies(model: cloven.Graph, number: int) -> Iterator[object]:
    """Yield every vertical division, whole or after every op, and all usual horizontal and data divisions."""
    places = [cut.after for cut in cuts(model)[1:]]
    yield from (cloven.Vertical(chosen) for chosen in combinations(places, number - 1))
    if number > 1:
        yield from (cloven.Horizontal(axis=axis) for axis in ("out_channels", "in_channels", "fused", "rows"))
        yield from (cloven.Data(grid=grid) for grid in ((1, number), (number, 1)))


def best(model: cloven.Graph, where: cloven.Cluster, objective: str) -> float:
    """Return the least value of all programs that fit the memory; throughputs are negative."""
    found: list[float] = []
    for number in range(1, len(where.devices) + 1):
        for strategy in strategies(model, number):
            for devices in permutations(where.devices, number):
                cost = cloven.estimate(cloven.divide(model, strategy, devices), where)  # type: ignore[arg-type]
                fits = all(one.memory <= one.available for one in cost.devices)  # type: ignore[operator]
                value = getattr(cost, objective)
                if fits:
                    found.append(-value if objective == "throughput" else value)
    return min(found)


LENET, RESNET = ("lenet5", (1, 28, 28)), ("resnet20", (3, 32, 32))


@pytest.mark.parametrize(
    ("objective", "network", "kind"),
    [
        *product(("latency", "throughput"), (LENET,), (SLOW_LINK, FAST_LINK, LITTLE_MEMORY)),
        ("latency", RESNET, FAST_LINK),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product(("latency", "throughput"), (RESNET,), (SLOW_LINK, LITTLE_MEMORY))
        ),
        pytest.param("throughput", RESNET, FAST_LINK, marks=pytest.mark.slow),
    ],
)
def test_no_program_is_better_than_the_advice(
    objective: str, network: tuple[str, tuple[int, int, int]], kind: str
) -> None:
    name, shape = network
    torch.manual_seed(0)
    model = cloven.capture(make(name, shape=shape, classes=10, weights=None), torch.zeros(1, *shape))
    where = small_cluster(kind, model)
    images = torch.rand(80, *shape)

    advice = cloven.advise(
        model,
        where,
        auxiliary=images[:40],
        victims=images[40:],
        minimise=objective,  # type: ignore[arg-type]
    )

    assert advice.program is not None
    again = cloven.estimate(advice.program, where)
    value = getattr(again, objective)
    assert value == pytest.approx(getattr(advice.cost, objective))
    least = best(model, where, objective)
    assert (-value if objective == "throughput" else value) <= least + 1e-9
