"""Limits say which cost exceeds them, in units that people read."""

from __future__ import annotations

import pytest

import cloven
from cloven.advising.limits import Limits
from cloven.cost.estimate import Cost, DeviceCost


def cost(*, latency: float | None, memory: int | None, throughput: float | None) -> Cost:
    device = DeviceCost(device="edge0", busy=0.1, energy=1.0, memory=memory, available=10**8, trusted=True)
    return Cost(
        latency=latency,
        throughput=throughput,
        energy=1.0,
        traffic=9,
        window=8,
        devices=(device,),
        links=(),
        critical=(),
        unknown=(),
        assumptions=(),
    )


def test_every_exceeded_limit_is_said_with_units() -> None:
    found = Limits(latency=0.003, throughput=20).exceeded_by(
        cost(latency=0.0036871, memory=105_280_000, throughput=14.2)
    )

    assert list(map(str, found)) == [
        "latency is 3.687 ms, above the limit of 3 ms",
        "throughput is 14.2 images/s, below the limit of 20 images/s",
        "memory of edge0 is 105.3 MB, above the limit of 100 MB",
    ]


def test_an_unknown_cost_does_not_meet_a_limit() -> None:
    found = Limits(latency=0.003).exceeded_by(cost(latency=None, memory=None, throughput=None))

    assert list(map(str, found)) == [
        "latency is unknown, and its limit is 3 ms",
        "memory of edge0 is unknown, and its limit is 100 MB",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": 0}, "latency must be a number above 0, got 0"),
        ({"memory": float("inf")}, "memory must be a number above 0, got inf"),
        ({"pixel_leakage": 1.5}, "pixel_leakage must be between 0 and 1, got 1.5"),
        ({"label_leakage": "0.3"}, "label_leakage must be a number or None, got '0.3'"),
    ],
)
def test_a_wrong_limit_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(cloven.ClovenError, match=message):
        Limits(**changes)
